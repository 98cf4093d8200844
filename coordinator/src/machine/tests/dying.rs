use perennial_proto::v1::{Failed, Hello};

use super::bench::{Bench, config, cursor, hello, ready};
use crate::machine::{Event, Outcome};

const FROM_THE_BEGINNING: &str =
    "there is no checkpoint yet, `perennial train --resume` starts from the beginning";

fn failed(message: &str, lost_peer: &str) -> Failed {
    Failed {
        message: message.into(),
        lost_peer: lost_peer.into(),
    }
}

/// A run of three workers in every phase in which a worker can die, by name.
fn phases() -> Vec<(&'static str, Bench)> {
    let config = || config(3);
    let mut part_ready = Bench::welcomed(config());
    part_ready.say(1, ready());
    part_ready.say(2, ready());
    let mut stepping = Bench::running(config());
    stepping.step(cursor(0, 0));
    let mut stopping = Bench::running(config());
    stopping.event(Event::StopRequested);
    let mut writing = Bench::running(config());
    writing.event(Event::StopRequested);
    writing.step(cursor(0, 0));
    writing.finish(cursor(0, 1), true);
    vec![
        ("welcomed", Bench::welcomed(config())),
        ("ready", part_ready),
        ("starting", Bench::starting(config())),
        ("running", Bench::running(config())),
        ("stepping", stepping),
        ("stopping", stopping),
        ("writing the last checkpoint", writing),
    ]
}

#[test]
fn a_worker_that_dies_ends_the_run_in_every_phase_and_all_others_are_told_at_once() {
    for (phase, mut bench) in phases() {
        bench.event(Event::Disconnected(2, "connection reset".into()));
        let expected = format!(
            "worker `w2` is gone: its connection broke (connection reset); its own output may say why; {FROM_THE_BEGINNING}"
        );
        assert_eq!(bench.failure(), expected, "{phase}");
        for other in [1, 3] {
            assert_eq!(bench.end_of(other), Some(expected.clone()), "{phase}");
        }
        assert_eq!(bench.end_of(2), None, "{phase}");
    }
}

#[test]
fn a_worker_that_is_silent_beyond_the_lease_ends_the_run_in_every_phase() {
    for (phase, mut bench) in phases() {
        bench.pass_until(5.0, &[2]);
        assert_eq!(bench.outcome(), None, "{phase}");
        bench.pass_until(5.5, &[2]);
        assert_eq!(
            bench.failure(),
            format!("worker `w2` has been silent for 5.5 s; {FROM_THE_BEGINNING}"),
            "{phase}"
        );
        for other in [1, 3] {
            assert_eq!(
                bench.end_of(other).as_deref(),
                Some(bench.failure()),
                "{phase}"
            );
        }
    }
}

#[test]
fn a_coordinator_that_was_paused_itself_does_not_blame_the_workers() {
    let mut bench = Bench::running(config(2));
    bench.pass_until(1.0, &[]);
    bench.now = std::time::Duration::from_secs(60);
    bench.event(Event::Tick);
    assert_eq!(bench.outcome(), None);
    bench.pass_until(65.5, &[2]);
    assert!(
        bench
            .failure()
            .starts_with("worker `w2` has been silent for")
    );
}

#[test]
fn a_worker_that_fails_ends_the_run_in_every_phase_with_its_own_words() {
    for (phase, mut bench) in phases() {
        bench.say(3, failed("`data/train` does not exist", ""));
        assert_eq!(
            bench.failure(),
            format!("worker `w3` failed: `data/train` does not exist; {FROM_THE_BEGINNING}"),
            "{phase}"
        );
    }
}

#[test]
fn a_member_that_lost_a_peer_is_not_blamed_for_it() {
    let mut bench = Bench::running(config(3));
    bench.say(1, failed("connection reset", "w2"));
    bench.event(Event::Disconnected(1, String::new()));
    assert_eq!(bench.outcome(), None);
    bench.event(Event::Disconnected(2, String::new()));
    assert_eq!(
        bench.failure(),
        format!(
            "worker `w2` is gone: its connection closed; its own output may say why; {FROM_THE_BEGINNING}"
        )
    );
}

#[test]
fn a_peer_that_was_lost_without_a_trace_ends_the_run_after_two_seconds() {
    let mut bench = Bench::running(config(3));
    bench.say(1, failed("no answer for 2 s", "w2"));
    bench.say(3, failed("no answer for 2 s", "w2"));
    bench.pass_until(1.5, &[]);
    assert_eq!(bench.outcome(), None);
    bench.pass_until(2.0, &[]);
    assert_eq!(
        bench.failure(),
        format!("worker `w1` lost worker `w2`: no answer for 2 s; {FROM_THE_BEGINNING}")
    );
}

#[test]
fn the_sentence_names_the_newest_checkpoint_even_if_it_is_committed_after_the_death() {
    let mut bench = Bench::running(config(2));
    bench.epoch(0);
    bench.event(Event::Disconnected(1, String::new()));
    assert_eq!(bench.outcome(), None, "a commit is under way");
    assert!(bench.end_of(2).is_some(), "the other is told at once");
    bench.commit(3);
    assert!(
        bench
            .failure()
            .ends_with("`perennial train --resume` goes on from checkpoint 3")
    );
}

#[test]
fn a_commit_that_never_ends_does_not_hold_up_the_end() {
    let mut bench = Bench::running(config(2));
    bench.epoch(0);
    bench.event(Event::Disconnected(1, String::new()));
    bench.pass_until(3.5, &[1]);
    assert_eq!(bench.outcome(), None);
    bench.pass_until(4.0, &[1]);
    assert!(bench.failure().ends_with(FROM_THE_BEGINNING));

    let mut bench = Bench::running(config(2));
    bench.epoch(0);
    bench.event(Event::Disconnected(1, String::new()));
    bench.event(Event::CheckpointNotCommitted {
        global_step: 3,
        message: "no answer".into(),
    });
    assert!(bench.failure().ends_with(FROM_THE_BEGINNING));
}

#[test]
fn only_the_first_of_several_deaths_is_the_reason() {
    let mut bench = Bench::running(config(3));
    bench.epoch(0);
    bench.event(Event::Disconnected(3, String::new()));
    bench.event(Event::Disconnected(1, String::new()));
    bench.say(2, failed("late", ""));
    bench.commit(3);
    assert!(bench.failure().starts_with("worker `w3` is gone"));
}

#[test]
fn a_worker_may_leave_once_it_has_given_everything() {
    let mut bench = Bench::running(config(2));
    bench.epoch(0);
    bench.commit(3);
    bench.epoch(1);
    bench.finish(cursor(2, 0), false);
    bench.event(Event::Disconnected(1, String::new()));
    bench.pass_until(9.0, &[1, 2]);
    assert_eq!(bench.outcome(), None);
    bench.commit(6);
    bench.event(Event::ReportWritten("report.html".into()));
    assert!(matches!(bench.outcome(), Some(Outcome::Finished { .. })));
}

#[test]
fn nothing_moves_a_run_that_has_ended() {
    let mut bench = Bench::running(config(2));
    bench.event(Event::Disconnected(1, String::new()));
    let before = bench.effects.len();
    bench.say(2, super::bench::step(cursor(0, 0)));
    bench.event(Event::Disconnected(2, String::new()));
    bench.event(Event::StopRequested);
    bench.event(Event::CheckpointCommitted { global_step: 3 });
    bench.pass_until(20.0, &[1, 2]);
    assert_eq!(bench.effects.len(), before);
}

#[test]
fn a_refused_worker_that_leaves_is_nobodys_loss() {
    let mut bench = Bench::new(config(1));
    bench.greet(
        1,
        Hello {
            version: "0".into(),
            ..hello()
        },
    );
    bench.event(Event::Disconnected(1, String::new()));
    assert_eq!(bench.outcome(), None);
}
