//! Coordinators that follow on each other, and those that must not rule.

use perennial_plan::invariants::Invariant;
use perennial_proto::v1::coordinator_message::Kind;
use perennial_proto::v1::{self, Standing};

use super::bench::Bench;
use super::facts::{config, cursor, halted, hello, step};
use crate::log::{LogEntry, LogRecord};
use crate::machine::decision::RETURN;
use crate::machine::{Config, Effect, Event, Machine, Outcome, ResumePoint};

fn at_work(generation: u64) -> Standing {
    Standing {
        generation,
        ..Standing::default()
    }
}

#[test]
fn who_loses_the_race_for_the_log_steps_down_and_sends_its_workers_elsewhere() {
    let mut bench = Bench::running(1);
    bench.log_answers = false;
    bench.step(cursor(0, 0));
    bench.pass(4.0, &[]);
    bench.event(Event::LogRaceLost);
    assert!(matches!(bench.outcome(), Some(Outcome::Deposed { .. })));
    assert!(bench.refusal(1).elsewhere);
    bench.held = None;
    bench.pass(5.0, &[]);
    assert_eq!(bench.held, None, "it asks for nothing more");
}

#[test]
fn a_coordinator_whose_workers_have_seen_a_higher_term_steps_down() {
    let mut bench = Bench::running(2);
    bench.say_in(2, 2, v1::Heartbeat {});
    assert!(matches!(bench.outcome(), Some(Outcome::Deposed { .. })));
    bench.say(1, step(1, cursor(0, 0)));
    assert_eq!(bench.machine.status().global_step, 0);
}

#[test]
fn before_its_claim_is_in_the_log_a_coordinator_takes_nobody_and_has_no_term() {
    let mut next = Bench::waiting_for_the_log(Config {
        log: Bench::running(1).log,
        writer: "second".into(),
        ..config(1)
    });
    assert!(matches!(
        next.held.as_ref().unwrap().entry,
        LogEntry::Term { .. }
    ));
    next.greet(1, hello(1));
    assert!(next.refusal(1).elsewhere);
    let terms = next.effects.iter().filter_map(|effect| match effect {
        Effect::Send(1, message) => Some(message.term),
        _ => None,
    });
    assert_eq!(terms.max(), Some(0));
}

#[test]
fn members_go_on_under_the_next_coordinator_and_what_they_report_again_counts_once() {
    let mut bench = Bench::running(2);
    bench.step(cursor(0, 0));
    bench.pass(4.0, &[]);
    assert_eq!(bench.logged(), 1);
    bench.step(cursor(0, 1));
    let mut next = bench.successor();
    for worker in [1, 2] {
        next.come_back(worker, worker);
        next.say(worker, step(1, cursor(0, 0)));
        next.say(worker, step(1, cursor(0, 1)));
        next.say(worker, at_work(1));
    }
    next.pass(6.0, &[]);
    assert_eq!(
        (next.generation().id, next.machine.term(), next.logged()),
        (1, 2, 2)
    );
    assert!(
        !next
            .sent(1)
            .iter()
            .any(|kind| matches!(kind, Kind::Halt(_) | Kind::Start(_)))
    );
    next.step(cursor(0, 2));
    assert_eq!(next.machine.status().global_step, 3);
}

#[test]
fn a_member_that_does_not_come_back_is_lost_and_one_that_is_slow_to_find_the_coordinator_is_not() {
    let bench = Bench::running(2);
    let mut next = bench.successor();
    next.come_back(1, 1);
    next.say(1, at_work(1));
    next.pass(RETURN.as_secs_f64() - 0.1, &[]);
    assert!(!next.is_told_to_halt(1));
    next.pass(0.1, &[]);
    assert!(next.is_told_to_halt(1));
    next.say(1, halted(1, cursor(0, 0)));
    assert_eq!(next.members(), ["w1"]);
}

#[test]
fn members_that_have_halted_meanwhile_wait_a_moment_for_each_other() {
    let bench = Bench::running(2);
    let mut next = bench.successor();
    next.come_back(1, 1);
    next.say(1, halted(1, cursor(0, 0)));
    next.come_back(2, 2);
    next.say(2, halted(1, cursor(0, 0)));
    assert_eq!(next.members(), ["w1", "w2"]);
    assert_eq!(next.generation().id, 2);
}

#[test]
fn a_replica_from_before_the_logs_end_is_no_survivor() {
    let mut bench = Bench::running(2);
    bench.step(cursor(0, 0));
    bench.pass(4.0, &[]);
    assert_eq!(bench.logged(), 1);
    let mut next = bench.successor();
    next.come_back(1, 1);
    next.say(1, halted(1, cursor(0, 0)));
    next.pass(10.0, &[]);
    assert_eq!(next.outcome(), None);
    let generation = next.generation();
    assert_eq!(
        (generation.id, generation.start, generation.checkpoint),
        (2, cursor(0, 0), None)
    );
    assert_eq!(next.start(1).unwrap().source, None, "all begin anew");
    assert_eq!(next.machine.status().global_step, 0);
}

#[test]
fn a_worker_still_at_work_in_an_older_generation_is_told_to_halt() {
    let mut bench = Bench::running(2);
    bench.lose(2);
    bench.say(1, halted(1, cursor(0, 0)));
    let mut next = bench.successor();
    next.come_back(2, 2);
    next.say(2, at_work(1));
    assert_eq!(
        next.last_sent(2),
        Some(Kind::Halt(v1::Halt { generation: 1 }))
    );
}

#[test]
fn a_checkpoint_that_the_one_before_has_committed_is_known_by_its_parts() {
    let mut bench = Bench::running(1);
    bench.epoch(0);
    bench.epoch(1);
    bench.pass(4.0, &[]);
    let mut next = bench.successor();
    next.come_back(1, 1);
    next.parts(6);
    next.say(1, super::facts::finished(1, cursor(2, 0)));
    assert_eq!(next.commits(), [6]);
    next.event(Event::CheckpointCommitted { global_step: 6 });
    assert_eq!(next.reports(), 1);
}

#[test]
fn a_checkpoint_committed_during_the_claim_is_where_a_generation_without_survivors_begins() {
    let mut bench = Bench::running(1);
    bench.epoch(0);
    bench.pass(4.0, &[]);
    bench.parts(3);
    let commits = bench.effects.iter().find_map(|effect| match effect {
        Effect::CommitCheckpoint(commit) => Some(commit.clone()),
        _ => None,
    });
    let commit = commits.unwrap();
    let mut next = Bench::waiting_for_the_log(Config {
        log: bench.log.clone(),
        writer: "second".into(),
        ..config(1)
    });
    next.found = Some(ResumePoint {
        global_step: 3,
        snapshot: commit.snapshot,
        numerics: commit.provenance.numerics,
        data_fingerprint: commit.provenance.data_fingerprint,
        weights_sha256: "weights".into(),
        ema_sha256: None,
    });
    next.release_the_log();
    next.join(7);
    next.pass(10.0, &[]);
    let generation = next.generation();
    assert_eq!(
        (generation.start, generation.checkpoint),
        (cursor(1, 0), Some(3))
    );
}

#[test]
fn a_scale_and_a_name_outlive_their_coordinator() {
    let mut bench = Bench::running(2);
    bench.event(Event::ScaleRequested(4));
    let mut next = bench.successor();
    assert_eq!(next.machine.status().wanted, 4);
    next.join(9);
    let names: Vec<String> = next
        .machine
        .status()
        .workers
        .into_iter()
        .map(|worker| worker.worker)
        .collect();
    assert_eq!(names, ["w1", "w2", "w3"]);
}

fn refused(log: Vec<LogRecord>) -> Invariant {
    Machine::new(Config { log, ..config(1) }, std::time::Duration::ZERO)
        .unwrap_err()
        .invariant
}

#[test]
fn a_log_that_two_wrote_in_one_term_is_refused() {
    let mut bench = Bench::running(1);
    bench.step(cursor(0, 0));
    bench.pass(4.0, &[]);
    let mut log = bench.log.clone();
    log.last_mut().unwrap().writer = "another".into();
    assert_eq!(refused(log), Invariant::Log1);
    let mut log = bench.log.clone();
    log.last_mut().unwrap().term = 0;
    assert_eq!(refused(log), Invariant::Log1);
}

#[test]
fn a_log_with_a_gap_between_its_steps_or_with_a_generation_twice_is_refused() {
    let mut bench = Bench::running(1);
    bench.step(cursor(0, 0));
    bench.step(cursor(0, 1));
    bench.pass(4.0, &[]);
    let mut log = bench.log.clone();
    let LogEntry::Steps { steps } = &mut log.last_mut().unwrap().entry else {
        panic!("{log:?}");
    };
    steps.remove(0);
    assert_eq!(refused(log), Invariant::Ex2);
    let mut log = bench.log.clone();
    let again = log[1].clone();
    log.push(again);
    assert_eq!(refused(log), Invariant::Gen1);
}
