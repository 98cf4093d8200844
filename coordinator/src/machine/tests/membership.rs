//! When a generation breaks, and what the next one is.

use perennial_proto::rules::LEASE;
use perennial_proto::v1::coordinator_message::Kind;
use perennial_proto::v1::{self, Lost, Standing};

use super::bench::Bench;
use super::facts::{cursor, halted, hello, ready, step, unoccupied};
use crate::machine::Event;

#[test]
fn when_a_member_dies_the_others_halt_at_once_and_go_on_where_the_furthest_stands() {
    let mut bench = Bench::running(3);
    bench.step(cursor(0, 0));
    // Two of three have applied the next one.
    bench.say(1, step(1, cursor(0, 1)));
    bench.say(3, step(1, cursor(0, 1)));
    bench.lose(3);
    assert!(bench.is_told_to_halt(1) && bench.is_told_to_halt(2));
    bench.say(2, halted(1, cursor(0, 1)));
    bench.say(1, halted(1, cursor(0, 2)));
    let generation = bench.generation();
    assert_eq!((generation.id, generation.start), (2, cursor(0, 2)));
    assert_eq!(bench.members(), ["w1", "w2"]);
    assert_eq!(bench.logged(), 2);
    let source = bench.start(2).unwrap().source.unwrap();
    assert_eq!(
        (source.worker.as_str(), source.address.as_str()),
        ("w1", "replica:1")
    );
    assert_eq!((source.global_step, source.replica_hash), (2, 1002));
}

#[test]
fn a_member_that_is_silent_beyond_the_lease_is_lost_and_one_that_speaks_is_not() {
    let mut bench = Bench::running(2);
    bench.pass(LEASE.as_secs_f64(), &[2]);
    assert!(!bench.is_told_to_halt(1));
    bench.pass(0.1, &[2]);
    assert!(bench.is_told_to_halt(1));
}

#[test]
fn a_coordinator_that_was_paused_itself_does_not_blame_the_workers() {
    let mut bench = Bench::running(2);
    bench.now += std::time::Duration::from_secs(30);
    bench.event(Event::Tick);
    assert!(!bench.is_told_to_halt(1) && !bench.is_told_to_halt(2));
}

#[test]
fn without_any_replica_the_job_goes_back_to_the_newest_checkpoint() {
    let mut bench = Bench::running(1);
    bench.epoch_with_checkpoint(0);
    bench.step(cursor(1, 0));
    bench.lose(1);
    bench.join(2);
    // The only replica of a step after it may come back within a moment.
    bench.pass(1.0, &[]);
    assert_eq!(bench.generation().id, 1);
    bench.pass(2.0, &[]);
    let generation = bench.generation();
    assert_eq!(
        (generation.start, generation.checkpoint),
        (cursor(1, 0), Some(3))
    );
    assert_eq!(bench.start(2).unwrap().source, None);
    assert_eq!(bench.machine.status().global_step, 3);
}

#[test]
fn a_member_that_lives_and_does_not_halt_is_given_up_after_a_minute() {
    let mut bench = Bench::running(3);
    bench.lose(3);
    bench.say(1, halted(1, cursor(0, 0)));
    bench.pass(59.0, &[]);
    assert_eq!(bench.generation().id, 1);
    bench.pass(2.0, &[]);
    assert_eq!(bench.members(), ["w1"]);
    assert!(
        bench
            .warnings()
            .iter()
            .any(|warning| warning.contains("`w2` did not halt"))
    );
}

#[test]
fn a_start_that_was_lost_with_its_stream_begins_another_generation_and_not_a_long_silence() {
    let mut bench = Bench::running(2);
    bench.lose(2);
    bench.say(1, halted(1, cursor(0, 0)));
    bench.come_back(2, 12);
    bench.say(12, unoccupied(0));
    // It follows, joins, and its stream breaks before the start comes.
    bench.say(
        12,
        v1::CaughtUp {
            global_step: 0,
            replica_hash: 1000,
        },
    );
    bench.say(1, halted(2, cursor(0, 0)));
    assert_eq!(
        (bench.generation().id, bench.members()),
        (3, vec!["w1".into(), "w2".into()])
    );
    bench.come_back(2, 22);
    bench.say(22, unoccupied(1));
    bench.say(1, halted(3, cursor(0, 0)));
    assert_eq!(
        (bench.generation().id, bench.members()),
        (4, vec!["w1".into(), "w2".into()])
    );
}

#[test]
fn an_answer_from_before_the_start_does_not_end_the_generation() {
    let mut bench = Bench::running(2);
    bench.lose(2);
    bench.say(1, halted(1, cursor(0, 0)));
    assert_eq!(bench.generation().id, 2);
    // It was asked twice, and answers twice.
    bench.say(1, halted(1, cursor(0, 0)));
    bench.pass(3.0, &[]);
    assert_eq!(bench.generation().id, 2);
}

#[test]
fn a_worker_that_the_others_cannot_reach_is_left_out_for_a_while() {
    let mut bench = Bench::running(3);
    let accuse = |of: &str| Standing {
        lost: vec![Lost {
            worker: of.into(),
            silent: true,
        }],
        ..halted(1, cursor(0, 0))
    };
    bench.say(1, accuse("w3"));
    bench.say(2, accuse("w3"));
    bench.say(3, halted(1, cursor(0, 0)));
    assert_eq!(bench.members(), ["w1", "w2"]);
    assert!(
        bench
            .warnings()
            .iter()
            .any(|warning| warning.contains("`w3` cannot be reached"))
    );
    bench.pass(11.0, &[]);
    assert!(matches!(bench.last_sent(3), Some(Kind::Follow(_))));
}

#[test]
fn a_process_of_the_same_name_is_another_worker() {
    let mut bench = Bench::running(2);
    let impostor = v1::Hello {
        worker: "w2".into(),
        incarnation: 77,
        ..hello(3)
    };
    bench.greet(3, impostor);
    bench.say(3, ready(3));
    let Some(Kind::Welcome(welcome)) = bench.sent(3).into_iter().next() else {
        panic!("{:?}", bench.sent(3));
    };
    assert_eq!(welcome.worker, "w3");
    bench.say(3, step(1, cursor(0, 0)));
    assert!(bench.warnings().last().unwrap().contains("GEN-2"));
}

#[test]
fn a_checkpoint_behind_which_the_job_went_back_while_it_was_committed_does_not_count() {
    let mut bench = Bench::running(1);
    bench.epoch_with_checkpoint(0);
    bench.epoch(1);
    bench.parts(6);
    assert_eq!(bench.commits(), [3, 6]);
    bench.lose(1);
    bench.join(2);
    bench.pass(4.0, &[]);
    let standing = |bench: &Bench| {
        let status = bench.machine.status();
        (status.generation, status.global_step, status.checkpoint)
    };
    assert_eq!(standing(&bench), (2, 3, Some(3)));
    bench.event(Event::CheckpointCommitted { global_step: 6 });
    assert_eq!(standing(&bench), (2, 3, Some(3)));
    // The job comes to it again.
    bench.epoch(1);
    bench.parts(6);
    bench.event(Event::CheckpointCommitted { global_step: 6 });
    assert_eq!(standing(&bench), (2, 6, Some(6)));
}
