use perennial_proto::v1::coordinator_message::Kind;
use perennial_proto::v1::{CheckpointFailed, EpochDone, StepDone};

use super::bench::{Bench, EPOCHS, config, cursor, epoch, evaluations, finished, part, spec, step};
use crate::JobEvent;
use crate::machine::{Config, Effect, Event, Outcome, ResumePoint};

#[test]
fn a_job_runs_to_its_end_with_a_checkpoint_an_epoch_and_a_report() {
    let mut bench = Bench::running(config(2));
    for number in 0..EPOCHS {
        bench.epoch(number);
        bench.commit(u64::from(number + 1) * 3);
    }
    assert_eq!(bench.commits(), [3, 6]);
    assert_eq!(bench.outcome(), None);
    bench.finish(cursor(2, 0), false);
    let Some(Effect::WriteReport(input)) = bench.effects.last() else {
        panic!("no report: {:?}", bench.effects.last());
    };
    assert_eq!(
        (input.finished, input.epochs_done, input.global_step),
        (true, 2, 6)
    );
    assert_eq!(input.weights_sha256.as_deref(), Some("model 6"));
    assert_eq!(input.ema_sha256.as_deref(), Some("ema 6"));
    assert_eq!(input.evaluations, evaluations(8));
    assert_eq!(input.history.len(), 2);
    bench.event(Event::ReportWritten(
        "store/seedlings/reports/6/report.html".into(),
    ));
    let expected = Outcome::Finished {
        global_step: 6,
        weights_sha256: "model 6".into(),
        ema_sha256: Some("ema 6".into()),
        report: "store/seedlings/reports/6/report.html".into(),
    };
    assert_eq!(bench.outcome(), Some(&expected));
    for worker in 1..=2 {
        assert_eq!(bench.end_of(worker).as_deref(), Some(""));
    }
    assert_eq!(
        serde_json::to_string(bench.events().last().unwrap()).unwrap(),
        r#"{"event":"finished","weights_sha256":"model 6","ema_sha256":"ema 6","report":"store/seedlings/reports/6/report.html"}"#
    );
    assert_eq!(bench.warnings(), [""; 0]);
}

#[test]
fn an_epochs_event_has_the_sums_of_its_steps_and_both_evaluations() {
    let mut bench = Bench::running(config(1));
    bench.epoch(0);
    let line = serde_json::to_string(bench.events().last().unwrap()).unwrap();
    assert_eq!(
        line,
        concat!(
            r#"{"event":"epoch","epoch":1,"train_loss":0.5,"val_top1":0.5,"val_top5":1.0,"ema_top1":0.75,"#,
            r#""ema_top5":1.0,"images_per_second":16.666666666666668,"seconds":1.5}"#
        )
    );
}

#[test]
fn a_step_counts_once_all_members_have_reported_it() {
    let mut bench = Bench::running(config(2));
    bench.say(1, step(cursor(0, 0)));
    bench.say(1, step(cursor(0, 1)));
    let steps = |bench: &Bench| {
        let is_step = |event: &&JobEvent| matches!(event, JobEvent::Step { .. });
        bench.events().into_iter().filter(is_step).count()
    };
    assert_eq!(steps(&bench), 0);
    bench.say(2, step(cursor(0, 0)));
    assert_eq!(steps(&bench), 1);
    assert_eq!(
        serde_json::to_string(bench.events().last().unwrap()).unwrap(),
        concat!(
            r#"{"event":"step","epoch":1,"step":1,"global_step":1,"total_steps":6,"loss":0.5,"top1":0.2,"#,
            r#""learning_rate":0.1,"grad_norm":1.0,"images_per_second":20.0,"eta_seconds":2.0}"#
        )
    );
}

#[test]
fn a_resumed_epoch_gives_the_event_that_it_would_have_given() {
    let mut whole = Bench::running(config(2));
    whole.epoch(0);
    let mut first = Bench::running(Config {
        spec: every_two_steps(),
        ..config(2)
    });
    first.step(cursor(0, 0));
    first.step(cursor(0, 1));
    first.parts(2);
    let Some(Effect::CommitCheckpoint(commit)) = first.effects.last() else {
        panic!("no checkpoint");
    };
    let mut second = Bench::running(Config {
        resume: Some(ResumePoint {
            global_step: 2,
            snapshot: commit.snapshot.clone(),
            numerics: "cpu".into(),
            data_fingerprint: "abc".into(),
        }),
        ..config(1)
    });
    second.step(cursor(0, 2));
    second.say(1, epoch(0));
    assert_eq!(second.events().last(), whole.events().last());
}

fn every_two_steps() -> perennial_plan::Spec {
    let mut spec = spec();
    spec.checkpoint.every_steps = 2;
    spec
}

#[test]
fn a_checkpoint_waits_for_its_last_part_and_for_every_members_steps() {
    let mut bench = Bench::running(Config {
        spec: every_two_steps(),
        ..config(2)
    });
    bench.step(cursor(0, 0));
    bench.say(1, step(cursor(0, 1)));
    bench.parts(2);
    assert_eq!(bench.commits(), [0; 0], "worker 2 has not reported step 1");
    bench.say(2, step(cursor(0, 1)));
    assert_eq!(bench.commits(), [2]);
    let Some(Effect::CommitCheckpoint(commit)) = bench.effects.last() else {
        panic!();
    };
    assert_eq!(commit.snapshot.cursor, cursor(0, 2));
    assert_eq!(commit.snapshot.progress.samples, 20);
    assert_eq!(commit.snapshot.history, []);
    assert_eq!(commit.provenance.generation, 1);
    let kinds: Vec<&str> = commit.parts.iter().map(|part| part.kind.as_str()).collect();
    assert_eq!(kinds, ["model", "ema", "optimizer"]);
    bench.step(cursor(0, 2));
    bench.say(1, part(3, "model"));
    bench.say(1, part(3, "optimizer"));
    bench.say(1, epoch(0));
    assert_eq!(bench.commits(), [2], "the average's part is missing");
    bench.say(2, part(3, "ema"));
    assert_eq!(bench.commits(), [2, 3]);
}

#[test]
fn a_late_part_completes_the_checkpoint_as_it_was_then() {
    let mut bench = Bench::running(config(2));
    bench.step(cursor(0, 0));
    bench.step(cursor(0, 1));
    bench.step(cursor(0, 2));
    bench.say(1, epoch(0));
    bench.step(cursor(1, 0));
    bench.parts(3);
    let Some(Effect::CommitCheckpoint(commit)) = bench.effects.last() else {
        panic!();
    };
    assert_eq!(
        (commit.global_step, commit.snapshot.cursor),
        (3, cursor(1, 0))
    );
    assert_eq!(commit.snapshot.progress.samples, 0);
    assert_eq!(commit.snapshot.history.len(), 1);
    assert_eq!(commit.snapshot.metric, Some(0.75));
}

#[test]
fn without_an_average_a_checkpoint_has_two_parts() {
    let mut config = config(1);
    config.spec.ema.decay = 0.0;
    let mut bench = Bench::running(config);
    for s in 0..3 {
        bench.step(cursor(0, s));
    }
    bench.say(1, epoch(0));
    bench.say(1, part(3, "model"));
    bench.say(1, part(3, "optimizer"));
    assert_eq!(bench.commits(), [3]);
    bench.commit(3);
    bench.say(1, part(3, "ema"));
    assert!(
        bench
            .failure()
            .contains("a checkpoint of this job has no part of kind `ema`")
    );
}

#[test]
fn retention_follows_each_commit_and_people_hear_of_it() {
    let mut bench = Bench::running(config(1));
    bench.epoch(0);
    assert!(!bench.effects.contains(&Effect::Prune));
    bench.commit(3);
    assert_eq!(bench.effects.last(), Some(&Effect::Prune));
    let expected = JobEvent::Checkpoint {
        global_step: 3,
        weights_sha256: "model 3".into(),
    };
    assert_eq!(bench.events().last(), Some(&&expected));
    bench.commit(3);
    assert_eq!(
        bench
            .events()
            .iter()
            .filter(|event| ***event == expected)
            .count(),
        1
    );
}

#[test]
fn a_checkpoint_that_cannot_be_written_is_reported_and_training_goes_on() {
    let mut bench = Bench::running(config(1));
    for s in 0..3 {
        bench.step(cursor(0, s));
    }
    bench.say(1, epoch(0));
    bench.say(1, part(3, "model"));
    let failed = CheckpointFailed {
        generation: 1,
        global_step: 3,
        message: "disk full".into(),
    };
    bench.say(1, failed);
    assert_eq!(
        bench.warnings(),
        ["checkpoint 3 could not be written: worker `w1`: disk full"]
    );
    bench.epoch(1);
    assert_eq!(bench.commits(), [6]);
}

#[test]
fn without_the_last_checkpoint_the_run_has_failed() {
    let mut bench = Bench::running(config(1));
    bench.epoch(0);
    bench.commit(3);
    bench.epoch(1);
    bench.finish(cursor(2, 0), false);
    bench.event(Event::CheckpointNotCommitted {
        global_step: 6,
        message: "no answer".into(),
    });
    assert_eq!(
        bench.failure(),
        "the last checkpoint could not be written: no answer; `perennial train --resume` goes on from checkpoint 3"
    );
}

#[test]
fn a_stop_in_mid_epoch_ends_at_a_checkpoint_and_with_the_report_of_the_last_epoch() {
    let mut bench = Bench::running(config(2));
    bench.epoch(0);
    bench.commit(3);
    bench.event(Event::StopRequested);
    bench.event(Event::StopRequested);
    for worker in 1..=2 {
        let stops = bench
            .sent(worker)
            .iter()
            .filter(|kind| matches!(kind, Kind::Stop(_)))
            .count();
        assert_eq!(stops, 1);
    }
    bench.step(cursor(1, 0));
    bench.finish(cursor(1, 1), true);
    assert_eq!(bench.commits(), [3]);
    bench.parts(4);
    assert_eq!(bench.commits(), [3, 4]);
    bench.commit(4);
    let Some(Effect::WriteReport(input)) = bench.effects.last() else {
        panic!("no report");
    };
    assert_eq!(
        (input.finished, input.epochs_done, input.global_step),
        (false, 1, 3)
    );
    assert_eq!(input.weights_sha256.as_deref(), Some("model 3"));
    bench.event(Event::ReportWritten("report.html".into()));
    let expected = Outcome::Stopped {
        global_step: 4,
        resume: "`perennial train --resume` goes on from checkpoint 4".into(),
        report: Some("report.html".into()),
    };
    assert_eq!(bench.outcome(), Some(&expected));
}

#[test]
fn a_stop_before_the_first_evaluation_needs_no_report() {
    let mut bench = Bench::running(config(1));
    bench.event(Event::StopRequested);
    bench.step(cursor(0, 0));
    bench.parts(1);
    bench.finish(cursor(0, 1), true);
    assert_eq!(bench.commits(), [1]);
    bench.commit(1);
    assert!(matches!(
        bench.outcome(),
        Some(Outcome::Stopped {
            global_step: 1,
            report: None,
            ..
        })
    ));
}

#[test]
fn a_stop_before_the_first_step_needs_no_checkpoint() {
    let mut bench = Bench::running(config(2));
    bench.event(Event::StopRequested);
    bench.finish(cursor(0, 0), true);
    assert!(matches!(
        bench.outcome(),
        Some(Outcome::Stopped {
            global_step: 0,
            report: None,
            ..
        })
    ));
}

#[test]
fn a_stop_that_comes_too_late_changes_nothing() {
    let mut bench = Bench::running(config(1));
    bench.epoch(0);
    bench.epoch(1);
    bench.event(Event::StopRequested);
    bench.commit(3);
    bench.commit(6);
    bench.finish(cursor(2, 0), false);
    bench.event(Event::ReportWritten("report.html".into()));
    assert!(matches!(
        bench.outcome(),
        Some(Outcome::Finished { global_step: 6, .. })
    ));
}

#[test]
fn a_report_that_cannot_be_written_fails_a_finished_run_and_not_a_stopped_one() {
    let mut bench = Bench::running(config(1));
    bench.epoch(0);
    bench.commit(3);
    bench.epoch(1);
    bench.commit(6);
    bench.finish(cursor(2, 0), false);
    bench.event(Event::ReportFailed("disk full".into()));
    assert_eq!(
        bench.failure(),
        "all epochs are done and their last checkpoint is written, but the report is not: disk full"
    );

    let mut bench = Bench::running(config(1));
    bench.event(Event::StopRequested);
    bench.epoch(0);
    bench.finish(cursor(1, 0), true);
    bench.commit(3);
    bench.event(Event::ReportFailed("disk full".into()));
    assert_eq!(
        bench.warnings(),
        ["the report could not be written: disk full"]
    );
    assert!(matches!(
        bench.outcome(),
        Some(Outcome::Stopped {
            global_step: 3,
            report: None,
            ..
        })
    ));
}

#[test]
fn what_is_stale_has_no_effect_and_is_said_once() {
    let mut bench = Bench::running(config(2));
    let before = bench.effects.len();
    let stale = |done: StepDone| StepDone {
        generation: 7,
        ..done
    };
    bench.say(2, stale(step(cursor(0, 0))));
    bench.say(2, stale(step(cursor(1, 2))));
    bench.say(
        1,
        EpochDone {
            generation: 7,
            ..epoch(0)
        },
    );
    assert_eq!(bench.effects.len(), before + 1);
    assert_eq!(bench.warnings().len(), 1);
    assert!(
        bench.warnings()[0]
            .starts_with("worker `w2` reported a step that belongs to no running generation")
    );
    assert!(bench.warnings()[0].contains("GEN-2"));
    bench.step(cursor(0, 0));
    assert!(matches!(
        bench.events().last(),
        Some(JobEvent::Step { global_step: 1, .. })
    ));
}

#[test]
fn a_report_before_the_start_has_no_effect() {
    let mut bench = Bench::starting(config(1));
    bench.say(1, step(cursor(0, 0)));
    assert_eq!(bench.warnings().len(), 1);
    bench.event(Event::LogAppended);
    bench.step(cursor(0, 0));
    assert_eq!(bench.outcome(), None);
}

/// Each breaks one invariant after a first common step.
#[test]
fn a_broken_invariant_ends_the_run_loudly() {
    type Break = fn(&mut Bench);
    let breaks: [(Break, &str); 10] = [
        (
            |bench| {
                bench.say(1, step(cursor(0, 1)));
                bench.say(
                    2,
                    StepDone {
                        replica_hash: 0xbad,
                        ..step(cursor(0, 1))
                    },
                );
            },
            "invariant REP-1 (members at the same cursor have the same replica hash) is broken: after epoch 0 step 1 worker `w1` has replica 00000000000003e9, worker `w2` 0000000000000bad",
        ),
        (
            |bench| bench.say(2, step(cursor(0, 2))),
            "EX-2 (the cursor never goes back except to a checkpoint that all members load) is broken: worker `w2` reports epoch 0 step 2 where epoch 0 step 1 is next",
        ),
        (
            |bench| bench.say(1, step(cursor(0, 0))),
            "worker `w1` reports epoch 0 step 0 where epoch 0 step 1 is next",
        ),
        (
            |bench| {
                bench.say(
                    1,
                    StepDone {
                        samples: 9,
                        ..step(cursor(0, 1))
                    },
                )
            },
            "EX-1 (each sample is applied exactly once an epoch) is broken: worker `w1` applied 9 samples at epoch 0 step 1, the plan has 10",
        ),
        (
            |bench| bench.say(1, epoch(0)),
            "worker `w1` reports the end of epoch 0 where epoch 0 step 1 is next",
        ),
        (
            |bench| {
                bench.step(cursor(0, 1));
                bench.step(cursor(0, 2));
                let evaluation_json = serde_json::to_vec(&evaluations(7)).unwrap();
                bench.say(
                    1,
                    EpochDone {
                        evaluation_json,
                        ..epoch(0)
                    },
                );
            },
            "EV-1 (the number of evaluated samples is the size of the data set) is broken: worker `w1` evaluated 7 of 8 samples after epoch 0",
        ),
        (
            |bench| {
                bench.step(cursor(0, 1));
                bench.step(cursor(0, 2));
                bench.step(cursor(1, 0));
            },
            "EV-1 (the number of evaluated samples is the size of the data set) is broken: epoch 0 was never evaluated",
        ),
        (
            |bench| bench.say(1, finished(cursor(0, 2), true)),
            "worker `w1` finishes at epoch 0 step 2 where epoch 0 step 1 is next",
        ),
        (
            |bench| bench.say(1, finished(cursor(0, 1), true)),
            "worker `w1` finished at epoch 0 step 1 though nobody asked it to stop there",
        ),
        (
            |bench| {
                bench.say(
                    1,
                    EpochDone {
                        evaluation_json: b"{".to_vec(),
                        ..epoch(0)
                    },
                )
            },
            "the evaluation that worker `w1` sent cannot be read",
        ),
    ];
    for (break_it, expected) in breaks {
        let mut bench = Bench::running(config(2));
        bench.step(cursor(0, 0));
        break_it(&mut bench);
        assert!(
            bench.failure().contains(expected),
            "{}\nlacks\n{expected}",
            bench.failure()
        );
        for worker in 1..=2 {
            assert!(bench.end_of(worker).unwrap().contains(expected));
        }
    }
}

#[test]
fn members_that_stop_at_different_steps_end_the_run_loudly() {
    let mut bench = Bench::running(config(2));
    bench.event(Event::StopRequested);
    bench.step(cursor(0, 0));
    bench.say(1, step(cursor(0, 1)));
    bench.say(1, finished(cursor(0, 2), true));
    bench.say(2, finished(cursor(0, 1), true));
    assert!(
        bench
            .failure()
            .contains("worker `w1` finished at epoch 0 step 2, others at epoch 0 step 1")
    );
}
