//! A generation at work: steps, epochs, checkpoints.

use perennial_proto::v1::{self, StepDone};

use super::bench::Bench;
use super::facts::{config, cursor, epoch, part, spec, step};
use crate::JobEvent;
use crate::log::LogEntry;
use crate::machine::{Config, Effect, Event};

/// A checkpoint after every second step.
fn every_two_steps() -> Config {
    let mut config = config(2);
    config.spec.checkpoint.every_steps = 2;
    config
}

#[test]
fn a_step_counts_once_all_members_have_reported_it() {
    let mut bench = Bench::running(2);
    bench.say(1, step(1, cursor(0, 0)));
    bench.say(1, step(1, cursor(0, 0)));
    assert_eq!(bench.machine.status().global_step, 0);
    bench.say(2, step(1, cursor(0, 0)));
    assert_eq!(bench.machine.status().global_step, 1);
}

#[test]
fn steps_go_to_the_log_within_seconds_and_are_acknowledged_once_they_are_there() {
    let mut bench = Bench::running(2);
    bench.step(cursor(0, 0));
    bench.log_answers = false;
    bench.pass(4.0, &[]);
    let acknowledged = |bench: &Bench| {
        let ack = v1::Ack {
            global_step: 1,
            epochs: 0,
            checkpoint: 0,
        };
        let ack = v1::CoordinatorMessage {
            term: 1,
            ..ack.into()
        };
        bench.effects.contains(&Effect::Send(2, ack))
    };
    assert!(!acknowledged(&bench));
    bench.release_the_log();
    assert!(acknowledged(&bench));
    assert_eq!(bench.logged(), 1);
}

#[test]
fn an_entry_that_could_not_be_written_is_asked_for_again_the_very_same() {
    let mut bench = Bench::running(1);
    bench.log_answers = false;
    bench.step(cursor(0, 0));
    bench.pass(4.0, &[]);
    let first = bench.held.take().unwrap();
    bench.event(Event::LogFailed("503".into()));
    bench.pass(1.0, &[]);
    assert_eq!(bench.held.take(), Some(first));
    assert_eq!(bench.warnings().len(), 1);
}

#[test]
fn what_is_of_another_generation_has_no_effect_and_is_said_once() {
    let mut bench = Bench::running(2);
    for _ in 0..2 {
        bench.say(1, step(7, cursor(0, 0)));
        bench.say(2, step(0, cursor(0, 0)));
        bench.say(2, epoch(0, 0));
    }
    assert_eq!(bench.machine.status().global_step, 0);
    assert_eq!(bench.outcome(), None);
    assert_eq!(bench.warnings().len(), 1);
    let warning = bench.warnings()[0];
    assert!(
        warning.contains("generation 7") && warning.contains("GEN-2"),
        "{warning}"
    );
}

#[test]
fn what_a_worker_says_that_is_no_member_has_no_effect() {
    let mut bench = Bench::running(2);
    bench.join(3);
    bench.say(3, step(1, cursor(0, 0)));
    bench.say(1, step(1, cursor(0, 0)));
    assert_eq!(bench.machine.status().global_step, 0);
    assert!(bench.warnings()[0].contains("`w3`"));
}

#[test]
fn members_whose_replicas_differ_end_the_run_loudly() {
    let mut bench = Bench::running(2);
    bench.say(1, step(1, cursor(0, 0)));
    let other = StepDone {
        replica_hash: 5,
        ..step(1, cursor(0, 0))
    };
    bench.say(2, other);
    let failure = bench.failure();
    assert!(
        failure.contains("REP-1") && failure.contains("`w2`"),
        "{failure}"
    );
}

#[test]
fn members_of_which_one_skips_a_step_or_scales_it_otherwise_end_the_run_loudly() {
    let scaled = |scale, skipped| StepDone {
        loss_scale: Some(scale),
        skipped,
        ..step(1, cursor(0, 0))
    };
    for other in [scaled(1024.0, true), scaled(512.0, false)] {
        let mut bench = Bench::running(2);
        bench.say(1, scaled(1024.0, false));
        bench.say(2, other);
        let failure = bench.failure();
        assert!(
            failure.contains("SC-1") && failure.contains("`w2`") && failure.contains("1024"),
            "{failure}"
        );
    }
}

#[test]
fn a_member_that_skips_a_step_or_part_of_a_batch_ends_the_run_loudly() {
    let mut bench = Bench::running(1);
    bench.say(1, step(1, cursor(0, 1)));
    assert!(bench.failure().contains("EX-2"));
    let mut bench = Bench::running(1);
    let short = StepDone {
        samples: 9,
        ..step(1, cursor(0, 0))
    };
    bench.say(1, short);
    assert!(bench.failure().contains("EX-1"));
}

#[test]
fn an_evaluation_of_too_few_samples_ends_the_run_loudly() {
    let mut bench = Bench::running(1);
    (0..3).for_each(|number| bench.step(cursor(0, number)));
    let mut done = epoch(1, 0);
    let text = String::from_utf8(done.evaluation_json).unwrap();
    done.evaluation_json = text
        .replacen("\"samples\":8", "\"samples\":7", 1)
        .into_bytes();
    bench.say(1, done);
    assert!(bench.failure().contains("EV-1"));
}

#[test]
fn a_manifest_is_asked_for_only_after_every_part_and_after_the_log_of_its_steps() {
    let mut bench = Bench::running_with(every_two_steps(), 2);
    bench.step(cursor(0, 0));
    bench.step(cursor(0, 1));
    bench.say(1, part(1, 2, "model"));
    bench.say(2, part(1, 2, "ema"));
    bench.pass(4.0, &[]);
    assert!(bench.commits().is_empty());
    bench.say(1, part(1, 2, "optimizer"));
    assert_eq!((bench.commits(), bench.logged()), (vec![2], 2));

    let mut bench = Bench::running_with(every_two_steps(), 2);
    bench.log_answers = false;
    bench.step(cursor(0, 0));
    bench.step(cursor(0, 1));
    bench.parts(2);
    bench.pass(4.0, &[]);
    assert!(bench.commits().is_empty());
    bench.release_the_log();
    assert_eq!(bench.commits(), [2]);
}

#[test]
fn the_checkpoint_of_an_epoch_waits_for_the_entry_that_closes_it() {
    let mut bench = Bench::running(1);
    (0..3).for_each(|number| bench.step(cursor(0, number)));
    bench.parts(3);
    bench.pass(4.0, &[]);
    bench.log_answers = false;
    bench.say(1, epoch(1, 0));
    assert!(matches!(
        bench.held.as_ref().unwrap().entry,
        LogEntry::Epoch { .. }
    ));
    assert_eq!((bench.commits(), bench.logged()), (Vec::<u64>::new(), 3));
    bench.release_the_log();
    assert_eq!(bench.commits(), [3]);
}

#[test]
fn retention_follows_each_checkpoint_and_leaves_newer_ones_alone() {
    let mut bench = Bench::running(1);
    bench.epoch_with_checkpoint(0);
    let prunes = |effect: &Effect| {
        matches!(
            effect,
            Effect::Prune {
                newest: 3,
                term: 1,
                ..
            }
        )
    };
    assert!(bench.effects.iter().any(prunes));
}

#[test]
fn a_checkpoint_that_cannot_be_written_is_reported_and_the_next_one_is_tried() {
    let mut bench = Bench::running(1);
    bench.epoch(0);
    let failed = v1::CheckpointFailed {
        generation: 1,
        global_step: 3,
        message: "503".into(),
    };
    bench.say(1, failed);
    assert!(bench.warnings()[0].contains("checkpoint 3 could not be written"));
    bench.epoch_with_checkpoint(1);
    assert_eq!(bench.commits(), [6]);
}

#[test]
fn a_failure_that_comes_before_its_step_is_settled_counts_all_the_same() {
    // The second time a worker also tells a new coordinator of an attempt before that one.
    for attempts in [&[1][..], &[0, 1]] {
        let mut bench = Bench::running(2);
        for generation in attempts {
            let failed = v1::CheckpointFailed {
                generation: *generation,
                global_step: 6,
                message: "503".into(),
            };
            bench.say(2, failed);
        }
        bench.epoch_with_checkpoint(0);
        bench.epoch(1);
        bench.finish(cursor(2, 0));
        bench.pass(2.0, &[]);
        // The others wait in vain for its part: a new generation writes it.
        assert_eq!(
            (bench.generation().id, bench.generation().start),
            (2, cursor(2, 0))
        );
        let start = bench.start(1).unwrap();
        assert!(start.checkpoint && start.finish);
    }
}

#[test]
fn an_old_failure_does_not_end_the_attempt_of_a_later_generation() {
    let mut bench = Bench::running(2);
    bench.epoch(0);
    bench.lose(2);
    bench.say(1, super::facts::halted(1, cursor(1, 0)));
    assert!(bench.start(1).unwrap().checkpoint);
    let failed = v1::CheckpointFailed {
        generation: 1,
        global_step: 3,
        message: "503".into(),
    };
    bench.say(1, failed);
    bench.parts(3);
    assert_eq!(bench.commits(), [3]);
}

#[test]
fn a_checkpoint_whose_writer_is_gone_is_reported_as_abandoned() {
    let mut bench = Bench::running_with(every_two_steps(), 2);
    bench.step(cursor(0, 0));
    bench.step(cursor(0, 1));
    bench.say(1, part(1, 2, "model"));
    bench.step(cursor(0, 2));
    bench.say(1, epoch(1, 0));
    bench.lose(2);
    bench.say(1, super::facts::halted(1, cursor(1, 0)));
    let warning = bench.warnings()[0];
    assert!(
        warning.contains("checkpoint 2 was not completed: worker `w2` left"),
        "{warning}"
    );
}

#[test]
fn an_epochs_event_has_the_sums_of_its_steps() {
    let mut bench = Bench::running(2);
    bench.epoch(0);
    let told = bench.effects.iter().find_map(|effect| match effect {
        Effect::Emit(JobEvent::Epoch {
            train_loss,
            val_top1,
            epoch,
            ..
        }) => Some((*epoch, *train_loss, *val_top1)),
        _ => None,
    });
    assert_eq!(told, Some((1, 0.5, 0.5)));
    assert_eq!(spec().train.epochs, 2);
}
