use perennial_proto::v1::coordinator_message::Kind;
use perennial_proto::v1::{Heartbeat, Hello, Ready};

use super::bench::{Bench, config, cursor, hello, ready, spec};
use crate::JobEvent;
use crate::machine::{Effect, Event, LogEntry, Outcome, ResumePoint, Snapshot};

#[test]
fn a_worker_is_welcomed_with_its_name_the_job_and_the_store() {
    let bench = Bench::welcomed(config(2));
    for (connection, name) in [(1, "w1"), (2, "w2")] {
        let sent = bench.sent(connection);
        let [Kind::Welcome(welcome)] = sent.as_slice() else {
            panic!("{sent:?}");
        };
        assert_eq!(welcome.worker, name);
        assert_eq!(
            serde_json::from_str::<perennial_plan::Spec>(&welcome.spec_json).unwrap(),
            spec()
        );
        assert_eq!(welcome.store_url, "store");
    }
}

#[test]
fn nobody_starts_before_the_last_worker_is_ready_and_the_log_has_the_generation() {
    let mut bench = Bench::welcomed(config(3));
    bench.say(1, ready());
    bench.say(3, ready());
    assert!(
        bench
            .effects
            .iter()
            .all(|effect| !matches!(effect, Effect::AppendLog { .. }))
    );
    bench.say(2, ready());
    let Some(Effect::AppendLog { position: 0, entry }) = bench.effects.last() else {
        panic!("the generation is not proposed");
    };
    let LogEntry::Generation {
        generation,
        numerics,
        ..
    } = (**entry).clone();
    assert_eq!(numerics, "cpu");
    assert_eq!(bench.started(1), None);
    bench.event(Event::LogAppended);
    for worker in 1..=3 {
        assert_eq!(bench.started(worker).as_ref(), Some(&generation));
    }
    let names: Vec<&str> = generation
        .members
        .iter()
        .map(|member| member.worker.as_str())
        .collect();
    assert_eq!(names, ["w1", "w2", "w3"]);
    let slots: Vec<_> = generation
        .members
        .iter()
        .map(|member| member.slots.clone())
        .collect();
    assert_eq!(slots, [0..2, 2..3, 3..4]);
}

#[test]
fn people_hear_of_the_job_then_of_each_worker_then_of_the_start() {
    let bench = Bench::running(config(2));
    let names: Vec<String> = bench
        .events()
        .iter()
        .map(|event| {
            serde_json::to_value(event).unwrap()["event"]
                .as_str()
                .unwrap()
                .to_string()
        })
        .collect();
    assert_eq!(names, ["job", "worker_joined", "worker_joined", "started"]);
    assert_eq!(
        serde_json::to_string(bench.events()[3]).unwrap(),
        r#"{"event":"started","generation":1,"epoch":1,"step":0,"global_step":0,"total_steps":6,"resumed_from":null}"#
    );
    let JobEvent::WorkerJoined { ready, workers, .. } = bench.events()[2] else {
        panic!();
    };
    assert_eq!((ready, workers), (&2, &2));
}

#[test]
fn a_worker_of_another_version_is_refused_and_the_job_goes_on_waiting() {
    let mut bench = Bench::new(config(1));
    let other = Hello {
        version: "1.1.0".into(),
        ..hello()
    };
    bench.greet(1, other);
    assert_eq!(
        bench.refusal(1),
        "this worker is perennial `1.1.0`, the coordinator is `1.0.0`; use the same program on both sides"
    );
    assert_eq!(bench.effects.last(), Some(&Effect::Close(1)));
    bench.greet(2, hello());
    bench.say(2, ready());
    bench.event(Event::LogAppended);
    assert!(bench.started(2).is_some());
}

#[test]
fn a_worker_whose_arithmetic_differs_is_refused() {
    let mut bench = Bench::new(config(2));
    bench.greet(1, hello());
    let other = Hello {
        numerics: "cuda".into(),
        ..hello()
    };
    bench.greet(2, other);
    assert_eq!(
        bench.refusal(2),
        "this worker computes with `cuda`, worker `w1` with `cpu`; their results would differ in the last bits"
    );
}

#[test]
fn a_job_that_has_its_workers_takes_no_more_in_any_phase() {
    for mut bench in [
        Bench::welcomed(config(2)),
        Bench::starting(config(2)),
        Bench::running(config(2)),
    ] {
        bench.greet(9, hello());
        assert_eq!(bench.refusal(9), "job `seedlings` has its 2 workers");
        bench.event(Event::Disconnected(9, String::new()));
        assert_eq!(bench.outcome(), None);
    }
}

#[test]
fn who_does_not_greet_first_is_refused_and_who_never_greets_is_dropped() {
    let mut bench = Bench::new(config(1));
    bench.event(Event::Connected(1));
    bench.say(1, ready());
    assert_eq!(
        bench.refusal(1),
        "the first message of a worker must be its greeting"
    );
    bench.event(Event::Connected(7));
    bench.pass_until(6.0, &[]);
    assert!(bench.effects.contains(&Effect::Close(7)));
    assert_eq!(bench.outcome(), None);
}

#[test]
fn workers_that_see_different_data_end_the_run_which_names_both() {
    type Change = fn(&mut Ready);
    let changes: [(Change, &str); 4] = [
        (
            |r| r.classes = vec!["a".into()],
            r#"workers `w1` and `w2` do not see the same data: classes ["a", "b"] and ["a"]"#,
        ),
        (
            |r| r.train_samples = 24,
            "workers `w1` and `w2` do not see the same data: pictures 25 + 8 and 24 + 8",
        ),
        (
            |r| r.data_fingerprint = "xyz".into(),
            "workers `w1` and `w2` do not see the same data: fingerprints `abc` and `xyz`",
        ),
        (
            |r| r.parameters = 7,
            "workers `w1` and `w2` do not have the same network: 100 and 7 parameters",
        ),
    ];
    for (change, expected) in changes {
        let mut bench = Bench::welcomed(config(2));
        bench.say(1, ready());
        let mut other = ready();
        change(&mut other);
        bench.say(2, other);
        assert!(bench.failure().starts_with(expected), "{}", bench.failure());
        for worker in 1..=2 {
            assert_eq!(bench.end_of(worker).as_deref(), Some(bench.failure()));
        }
    }
}

#[test]
fn a_worker_without_pictures_ends_the_run() {
    let mut bench = Bench::welcomed(config(1));
    bench.say(
        1,
        Ready {
            val_samples: 0,
            ..ready()
        },
    );
    assert_eq!(
        bench.failure(),
        "worker `w1` sees 25 pictures to train on and 0 to validate on; both are needed"
    );
}

fn resume_point() -> ResumePoint {
    ResumePoint {
        global_step: 4,
        snapshot: Snapshot {
            cursor: cursor(1, 1),
            ..Snapshot::default()
        },
        numerics: "cpu".into(),
        data_fingerprint: "abc".into(),
    }
}

#[test]
fn a_resumed_run_starts_at_the_checkpoints_cursor_as_the_next_generation() {
    let mut config = config(1);
    config.resume = Some(resume_point());
    config.generation = 3;
    config.log_position = 2;
    let bench = Bench::running(config);
    let generation = bench.started(1).unwrap();
    assert_eq!(
        (generation.id, generation.start, generation.checkpoint),
        (3, cursor(1, 1), Some(4))
    );
    assert!(matches!(
        bench.events().last(),
        Some(JobEvent::Started {
            epoch: 2,
            step: 1,
            global_step: 4,
            resumed_from: Some(4),
            ..
        })
    ));
    assert!(
        bench
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::AppendLog { position: 2, .. }))
    );
}

#[test]
fn a_checkpoint_is_not_resumed_with_other_arithmetic_or_other_data() {
    let mut config = config(1);
    config.resume = Some(resume_point());
    let mut bench = Bench::new(config.clone());
    bench.greet(
        1,
        Hello {
            numerics: "cuda".into(),
            ..hello()
        },
    );
    assert_eq!(
        bench.refusal(1),
        "this worker computes with `cuda`, checkpoint 4 was made with `cpu`; their results would differ in the last bits"
    );
    let mut bench = Bench::welcomed(config);
    bench.say(
        1,
        Ready {
            data_fingerprint: "xyz".into(),
            ..ready()
        },
    );
    assert_eq!(
        bench.failure(),
        "the data is not what checkpoint 4 was trained on: its fingerprint is `xyz`, there `abc`; use the same pictures, or give the job another name"
    );
}

#[test]
fn a_coordinator_that_loses_the_race_for_the_log_steps_down() {
    let mut bench = Bench::starting(config(2));
    bench.event(Event::LogRaceLost);
    assert_eq!(
        bench.failure(),
        "another coordinator rules job `seedlings`: it wrote position 0 of the job's log first; this one steps down"
    );
    assert_eq!(bench.started(1), None);
    assert_eq!(bench.end_of(2).as_deref(), Some(bench.failure()));
}

#[test]
fn a_stop_before_the_start_ends_the_run_without_an_error() {
    for mut bench in [
        Bench::new(config(2)),
        Bench::welcomed(config(2)),
        Bench::starting(config(2)),
    ] {
        bench.event(Event::StopRequested);
        let expected = Outcome::Stopped {
            global_step: 0,
            resume:
                "there is no checkpoint yet, `perennial train --resume` starts from the beginning"
                    .into(),
            report: None,
        };
        assert_eq!(bench.outcome(), Some(&expected));
        bench.event(Event::LogAppended);
        assert_eq!(bench.started(1), None);
        bench.event(Event::Connected(9));
        assert_eq!(bench.refusal(9), "the run is over");
    }
}

#[test]
fn every_worker_hears_from_the_coordinator_at_least_once_a_second() {
    let mut bench = Bench::running(config(2));
    bench.pass_until(10.0, &[]);
    let beats = |worker| {
        let beat = Effect::Send(worker, Heartbeat {}.into());
        bench
            .effects
            .iter()
            .filter(|effect| **effect == beat)
            .count()
    };
    assert_eq!((beats(1), beats(2)), (10, 10));
}
