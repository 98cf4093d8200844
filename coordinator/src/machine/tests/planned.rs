//! Changes of the membership that were asked for, or that pay.

use perennial_plan::{Cursor, Generation};
use perennial_proto::v1::coordinator_message::Kind;
use perennial_proto::v1::{self, StepDone};

use super::bench::Bench;
use super::facts::{config, cursor, epoch, halted, step, unoccupied};
use crate::machine::{Config, Event};

#[test]
fn a_newcomer_copies_beside_training_and_joins_at_a_boundary() {
    let mut bench = Bench::running(2);
    bench.event(Event::ScaleRequested(3));
    bench.step(cursor(0, 0));
    bench.join(3);
    let Some(Kind::Follow(follow)) = bench.last_sent(3) else {
        panic!("{:?}", bench.sent(3));
    };
    assert_eq!(follow.source.unwrap().address, "replica:2");
    assert!(
        !bench
            .sent(1)
            .iter()
            .any(|kind| matches!(kind, Kind::Regroup(_)))
    );
    bench.step(cursor(0, 1));
    bench.say(
        3,
        v1::CaughtUp {
            global_step: 2,
            replica_hash: 1002,
        },
    );
    let regroup = v1::Regroup {
        generation: 1,
        checkpoint: false,
    };
    assert_eq!(bench.last_sent(1), Some(Kind::Regroup(regroup)));
    bench.step(cursor(0, 2));
    bench.say(1, epoch(1, 0));
    bench.halt(cursor(1, 0));
    assert_eq!(bench.members(), ["w1", "w2", "w3"]);
    assert_eq!(bench.generation().start, cursor(1, 0));
}

#[test]
fn a_drained_member_leaves_once_a_step_was_taken_without_it() {
    let mut bench = Bench::running(2);
    bench.event(Event::DrainRequested("w2".into()));
    bench.step(cursor(0, 0));
    bench.halt(cursor(0, 1));
    assert_eq!(bench.members(), ["w1"]);
    assert!(
        !bench.is_let_go(2),
        "the next member may still need its replica"
    );
    bench.step(cursor(0, 1));
    assert!(bench.is_let_go(2));
}

#[test]
fn who_wants_to_leave_with_the_only_replica_writes_a_checkpoint_first() {
    let mut bench = Bench::running(1);
    bench.step(cursor(0, 0));
    bench.say(1, v1::Drain {});
    let regroup = v1::Regroup {
        generation: 1,
        checkpoint: true,
    };
    assert_eq!(bench.last_sent(1), Some(Kind::Regroup(regroup)));
    bench.step(cursor(0, 1));
    bench.say(1, halted(1, cursor(0, 2)));
    bench.pass(5.0, &[]);
    assert!(!bench.is_let_go(1));
    bench.parts(2);
    bench.event(Event::CheckpointCommitted { global_step: 2 });
    bench.pass(0.5, &[]);
    assert!(bench.is_let_go(1));
}

#[test]
fn where_that_checkpoint_fails_another_step_is_taken_for_the_next_one() {
    let mut bench = Bench::running(1);
    bench.say(1, v1::Drain {});
    bench.step(cursor(0, 0));
    bench.say(1, halted(1, cursor(0, 1)));
    let failed = v1::CheckpointFailed {
        generation: 1,
        global_step: 1,
        message: "503".into(),
    };
    bench.say(1, failed);
    assert_eq!(
        (bench.generation().id, bench.generation().start),
        (2, cursor(0, 1))
    );
    assert!(matches!(bench.last_sent(1), Some(Kind::Regroup(_))));
    assert!(!bench.is_let_go(1));
}

#[test]
fn a_smaller_scale_drains_the_last_members_and_a_larger_one_calls_those_in_the_pool() {
    let mut bench = Bench::running(3);
    bench.event(Event::ScaleRequested(2));
    bench.step(cursor(0, 0));
    bench.halt(cursor(0, 1));
    assert_eq!(bench.members(), ["w1", "w2"]);
    bench.join(4);
    assert!(
        !bench
            .sent(4)
            .iter()
            .any(|kind| matches!(kind, Kind::Follow(_)))
    );
    bench.event(Event::ScaleRequested(3));
    assert!(matches!(bench.last_sent(4), Some(Kind::Follow(_))));
    assert_eq!(bench.successor().machine.status().wanted, 3);
}

fn measured(generation: &Generation, at: Cursor, slot_seconds: [f64; 2]) -> Vec<StepDone> {
    let members = generation.members.iter().zip(slot_seconds);
    let done = members.map(|(member, seconds)| StepDone {
        compute_seconds: seconds * member.slots.len() as f64,
        ..step(generation.id, at)
    });
    done.collect()
}

#[test]
fn slots_are_dealt_anew_by_speed_but_not_soon_and_not_for_little() {
    let long = |bench: &mut Bench, speeds: [f64; 2]| {
        for at in [cursor(0, 0), cursor(0, 1)] {
            for (worker, done) in (1..).zip(measured(&bench.generation(), at, speeds)) {
                bench.say(worker, done);
            }
        }
        bench.pass(14.0, &[]);
        assert_eq!(
            bench
                .sent(1)
                .iter()
                .filter(|kind| matches!(kind, Kind::Regroup(_)))
                .count(),
            0
        );
        bench.pass(2.0, &[]);
        matches!(bench.last_sent(1), Some(Kind::Regroup(_)))
    };
    let mut even = Bench::running(2);
    assert!(!long(&mut even, [1.0, 1.1]));
    let mut uneven = Bench::running(2);
    assert!(long(&mut uneven, [1.0, 3.0]));
    uneven.halt(cursor(0, 2));
    let slots: Vec<usize> = uneven
        .generation()
        .members
        .iter()
        .map(|member| member.slots.len())
        .collect();
    assert_eq!(slots, [6, 2]);
}

#[test]
fn more_members_than_slots_are_never_dealt() {
    let mut config = config(9);
    config.spec.train.slots = 2;
    let bench = Bench::running_with(config, 2);
    assert!(
        bench
            .generation()
            .members
            .iter()
            .all(|member| member.slots.len() == 1)
    );
}

#[test]
fn who_wants_to_leave_and_has_nothing_that_others_need_leaves_though_the_rest_are_too_few() {
    let mut config = config(2);
    config.spec.elastic.min_workers = 2;
    let mut bench = Bench::running_with(config, 2);
    bench.lose(1);
    bench.say(2, unoccupied(1));
    bench.say(2, v1::Drain {});
    assert!(bench.is_let_go(2));
}

#[test]
fn where_others_want_them_workers_that_are_more_than_wanted_are_let_go_at_once() {
    let shared = Config {
        shared: true,
        ..config(2)
    };
    let mut bench = Bench::running_with(shared, 2);
    bench.join(3);
    assert!(bench.is_let_go(3));
    bench.event(Event::ScaleRequested(3));
    bench.join(4);
    assert!(!bench.is_let_go(4));
    // It is still on its way when fewer are wanted, and leaves before any member.
    bench.event(Event::ScaleRequested(2));
    assert!(bench.is_let_go(4));
    bench.event(Event::ScaleRequested(1));
    bench.step(cursor(0, 0));
    bench.halt(cursor(0, 1));
    assert_eq!(bench.members(), ["w1"]);
    bench.step(cursor(0, 1));
    assert!(bench.is_let_go(2));
    assert!(!bench.is_let_go(1));
}
