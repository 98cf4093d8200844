//! How a run ends.

use perennial_proto::v1::coordinator_message::Kind;
use perennial_proto::v1::{self, End};

use super::bench::Bench;
use super::facts::{config, cursor, finished, halted, step};
use crate::log::LogEntry;
use crate::machine::{Event, Outcome};

fn ended(bench: &Bench) -> Option<&str> {
    match &bench.log.last()?.entry {
        LogEntry::Ended { how, .. } => Some(how),
        _ => None,
    }
}

/// All steps are done; the last checkpoint is not.
fn at_the_end(workers: u64) -> Bench {
    let mut bench = Bench::running(workers);
    bench.epoch_with_checkpoint(0);
    bench.epoch(1);
    bench.finish(cursor(2, 0));
    bench
}

#[test]
fn a_job_ends_with_its_last_checkpoint_then_its_report_then_an_entry_in_the_log() {
    let mut bench = at_the_end(2);
    assert_eq!(bench.reports(), 0);
    bench.parts(6);
    assert_eq!(bench.commits(), [3, 6]);
    bench.event(Event::CheckpointCommitted { global_step: 6 });
    assert_eq!((bench.reports(), bench.outcome()), (1, None));
    bench.event(Event::ReportWritten("report.html".into()));
    assert_eq!(ended(&bench), Some("finished"));
    let Some(Outcome::Finished {
        global_step: 6,
        weights_sha256,
        report,
        ..
    }) = bench.outcome()
    else {
        panic!("{:?}", bench.outcome());
    };
    assert_eq!(
        (weights_sha256.as_str(), report.as_str()),
        ("model 6", "report.html")
    );
    for worker in [1, 2] {
        assert_eq!(
            bench.last_sent(worker),
            Some(Kind::End(End {
                error: String::new()
            }))
        );
    }
}

#[test]
fn a_stop_ends_at_the_next_step_with_a_checkpoint() {
    let mut bench = Bench::running(2);
    bench.epoch_with_checkpoint(0);
    bench.event(Event::StopRequested);
    assert_eq!(bench.last_sent(1), Some(Kind::Stop(v1::Stop {})));
    bench.step(cursor(1, 0));
    bench.finish(cursor(1, 1));
    bench.parts(4);
    bench.event(Event::CheckpointCommitted { global_step: 4 });
    bench.event(Event::ReportWritten("report.html".into()));
    let Some(Outcome::Stopped {
        global_step: 4,
        resume,
        report: Some(_),
    }) = bench.outcome()
    else {
        panic!("{:?}", bench.outcome());
    };
    assert!(resume.contains("checkpoint 4"), "{resume}");
    assert_eq!(ended(&bench), Some("stopped"));
}

#[test]
fn a_stop_before_the_first_generation_needs_nobody() {
    let mut bench = Bench::new(config(2));
    bench.join(1);
    bench.event(Event::StopRequested);
    assert!(matches!(
        bench.outcome(),
        Some(Outcome::Stopped { global_step: 0, .. })
    ));
}

#[test]
fn a_stop_while_a_generation_goes_into_the_log_is_told_to_its_members_once_it_is_there() {
    let mut bench = Bench::new(config(1));
    bench.log_answers = false;
    bench.join(1);
    bench.event(Event::StopRequested);
    assert!(bench.start(1).is_none() && bench.outcome().is_none());
    bench.release_the_log();
    assert!(bench.start(1).is_some());
    assert_eq!(bench.last_sent(1), Some(Kind::Stop(v1::Stop {})));
    bench.event(Event::Tick);
    let stops = |sent: Vec<Kind>| {
        let stops = sent.iter().filter(|kind| matches!(kind, Kind::Stop(_)));
        stops.count()
    };
    assert_eq!(stops(bench.sent(1)), 1, "it is told once");
}

#[test]
fn a_member_that_comes_back_is_told_of_a_stop_that_was_asked_for_meanwhile() {
    let mut next = Bench::running(1).successor();
    next.event(Event::StopRequested);
    next.come_back(1, 11);
    assert!(
        next.sent(11).contains(&Kind::Stop(v1::Stop {})),
        "{:?}",
        next.sent(11)
    );
}

#[test]
fn a_stop_is_not_forgotten_when_a_member_dies_on_the_way() {
    let mut bench = Bench::running(2);
    bench.epoch_with_checkpoint(0);
    bench.event(Event::StopRequested);
    bench.step(cursor(1, 0));
    bench.lose(2);
    bench.say(1, halted(1, cursor(1, 1)));
    let start = bench.start(1).unwrap();
    assert!(start.checkpoint && start.finish);
    bench.parts(4);
    bench.finish(cursor(1, 1));
    bench.event(Event::CheckpointCommitted { global_step: 4 });
    bench.event(Event::ReportWritten("report.html".into()));
    assert!(matches!(
        bench.outcome(),
        Some(Outcome::Stopped { global_step: 4, .. })
    ));
}

#[test]
fn members_that_finish_at_different_steps_end_the_run_loudly() {
    let mut bench = Bench::running(2);
    bench.event(Event::StopRequested);
    bench.step(cursor(0, 0));
    bench.say(1, step(1, cursor(0, 1)));
    bench.say(1, finished(1, cursor(0, 2)));
    bench.say(2, finished(1, cursor(0, 1)));
    assert!(bench.failure().contains("EX-2"));
}

#[test]
fn a_member_does_not_report_again_what_was_settled_and_acknowledged_while_it_was_away() {
    let mut config = config(2);
    config.spec.elastic.min_workers = 2;
    let mut bench = Bench::running_with(config, 2);
    bench.epoch(0);
    bench.step(cursor(1, 0));
    bench.step(cursor(1, 1));
    bench.lose(2);
    bench.say(1, step(1, cursor(1, 2)));
    bench.say(1, super::facts::epoch(1, 1));
    bench.say(1, finished(1, cursor(2, 0)));
    assert_eq!((bench.machine.status().global_step, bench.logged()), (6, 6));
    bench.come_back(2, 3);
    bench.say(3, finished(1, cursor(2, 0)));
    assert!(!matches!(bench.last_sent(3), Some(Kind::End(_))));
    assert_eq!(bench.generation().start, cursor(2, 0));
}

#[test]
fn a_report_is_tried_again_through_an_outage_of_minutes() {
    let mut bench = at_the_end(1);
    bench.parts(6);
    bench.event(Event::CheckpointCommitted { global_step: 6 });
    for attempt in 1..6 {
        assert_eq!(bench.reports(), attempt);
        bench.event(Event::ReportFailed("503".into()));
        bench.pass(16.0, &[]);
    }
    assert_eq!(bench.warnings().len(), 5);
    bench.event(Event::ReportWritten("report.html".into()));
    assert!(matches!(bench.outcome(), Some(Outcome::Finished { .. })));
}

#[test]
fn a_report_that_cannot_be_written_at_all_fails_a_finished_run_and_not_a_stopped_one() {
    let until_patience_ends = |bench: &mut Bench| {
        for _ in 0..40 {
            bench.event(Event::ReportFailed("503".into()));
            bench.pass(16.0, &[]);
        }
    };
    let mut bench = at_the_end(1);
    bench.parts(6);
    bench.event(Event::CheckpointCommitted { global_step: 6 });
    until_patience_ends(&mut bench);
    assert!(bench.failure().contains("but the report is not: 503"));

    let mut bench = Bench::running(1);
    bench.epoch_with_checkpoint(0);
    bench.event(Event::StopRequested);
    bench.step(cursor(1, 0));
    bench.finish(cursor(1, 1));
    bench.parts(4);
    bench.event(Event::CheckpointCommitted { global_step: 4 });
    until_patience_ends(&mut bench);
    assert!(matches!(
        bench.outcome(),
        Some(Outcome::Stopped { report: None, .. })
    ));
}

#[test]
fn the_last_manifest_is_tried_again_without_its_parts_being_written_again() {
    let mut bench = at_the_end(1);
    bench.parts(6);
    let failed = |message: &str| Event::CheckpointNotCommitted {
        global_step: 6,
        message: message.into(),
    };
    bench.event(failed("503"));
    bench.pass(2.0, &[]);
    assert_eq!((bench.commits(), bench.generation().id), (vec![3, 6, 6], 1));
    bench.event(Event::CheckpointCommitted { global_step: 6 });
    assert_eq!(bench.reports(), 1);
}

#[test]
fn without_the_last_checkpoint_the_run_has_failed() {
    let mut bench = at_the_end(1);
    bench.parts(6);
    for _ in 0..40 {
        let message = "503".to_string();
        bench.event(Event::CheckpointNotCommitted {
            global_step: 6,
            message,
        });
        bench.pass(16.0, &[]);
    }
    let failure = bench.failure();
    assert!(
        failure.contains("the last checkpoint could not be written: 503"),
        "{failure}"
    );
    assert!(failure.contains("goes on from checkpoint 3"), "{failure}");
}

#[test]
fn where_a_member_dies_before_its_last_part_the_others_write_it() {
    let mut bench = at_the_end(2);
    bench.say(1, super::facts::part(1, 6, "model"));
    bench.lose(2);
    assert_eq!(bench.members(), ["w1"]);
    let start = bench.start(1).unwrap();
    assert!(start.checkpoint && start.finish);
    bench.parts(6);
    bench.finish(cursor(2, 0));
    assert_eq!(bench.commits(), [3, 6]);
}

#[test]
fn a_worker_may_leave_once_it_has_given_everything() {
    let mut bench = at_the_end(2);
    bench.parts(6);
    bench.lose(2);
    bench.event(Event::CheckpointCommitted { global_step: 6 });
    bench.event(Event::ReportWritten("report.html".into()));
    assert!(matches!(bench.outcome(), Some(Outcome::Finished { .. })));
}

#[test]
fn the_sentence_of_a_failure_names_the_checkpoint_that_was_committed_after_it() {
    let mut bench = Bench::running(1);
    bench.epoch(0);
    bench.parts(3);
    bench.say(
        1,
        v1::Failed {
            message: "a broken picture".into(),
            fatal: true,
        },
    );
    assert_eq!(bench.outcome(), None);
    bench.event(Event::CheckpointCommitted { global_step: 3 });
    assert!(bench.failure().contains("goes on from checkpoint 3"));
}

#[test]
fn who_comes_after_the_end_is_told_so() {
    let mut bench = at_the_end(1);
    bench.parts(6);
    bench.event(Event::CheckpointCommitted { global_step: 6 });
    bench.event(Event::ReportWritten("report.html".into()));
    bench.event(Event::Connected(5));
    assert!(bench.refusal(5).reason.contains("over"));
}

#[test]
fn a_run_that_is_broken_off_ends_at_once_and_goes_on_from_its_newest_checkpoint() {
    let mut bench = Bench::running(2);
    bench.epoch_with_checkpoint(0);
    bench.step(cursor(1, 0));
    bench.event(Event::BreakOffRequested);
    assert_eq!(ended(&bench), Some("stopped"));
    let Some(Outcome::Stopped {
        global_step: 4,
        resume,
        report: None,
    }) = bench.outcome()
    else {
        panic!("{:?}", bench.outcome());
    };
    assert!(resume.contains("checkpoint 3"), "{resume}");
    for worker in [1, 2] {
        let end = Kind::End(End::default());
        assert_eq!(bench.last_sent(worker), Some(end));
    }
    assert_eq!(bench.logged(), 4);
}
