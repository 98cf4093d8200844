use perennial_coordinator::log::DataFacts;
use perennial_proto::v1::WorkerStatus;

use super::*;

fn replayed() -> Replayed {
    let step = |step| StepRecord {
        step,
        generation: 1,
        samples: 8,
        seconds: 0.5,
        ..StepRecord::default()
    };
    Replayed {
        term: 2,
        address: "10.0.0.1:7400".into(),
        last_generation: 3,
        data: Some(DataFacts {
            train_samples: 20,
            ..DataFacts::default()
        }),
        steps: (0..2).map(step).collect(),
        ..Replayed::default()
    }
}

fn spec() -> Spec {
    let mut spec = Spec::default();
    spec.train.epochs = 10;
    spec.train.batch_size = 8;
    spec
}

#[test]
fn a_job_that_runs_tells_its_speed_its_workers_and_the_time_that_is_left() {
    let reply = StatusReply {
        job: "tiny".into(),
        phase: "running".into(),
        reason: "all members are at work".into(),
        global_step: 3,
        wanted: 2,
        workers: vec![WorkerStatus {
            worker: "w1".into(),
            state: "member".into(),
            slots: 4,
            speed: 16.04,
            phases: None,
            device_memory: None,
        }],
        ..StatusReply::default()
    };
    let standing = Standing::new("tiny", &spec(), replayed(), Some(Ok(reply)));
    assert_eq!(
        standing.text(),
        "job `tiny`\n\
         state        running: all members are at work\n\
         progress     3 of 30 steps (10.0 %), 13.5 s left\n\
         speed        16.0 images/s\n\
         checkpoint   none yet\n\
         report       none yet\n\
         coordinator  10.0.0.1:7400, term 2, generation 3, wants 2 workers\n\n\
         worker   state  slots  slots/s\n\
         w1      member      4     16.0\n"
    );
}

#[test]
fn of_workers_with_a_gpu_the_memory_is_told_that_is_used_and_of_others_nothing() {
    let worker = |worker: &str, device_memory| WorkerStatus {
        worker: worker.into(),
        state: "member".into(),
        slots: 2,
        device_memory,
        ..WorkerStatus::default()
    };
    let memory = DeviceMemory {
        used: 20_500_000_000,
        total: 150_000_000_000,
        peak: 31_000_000_000,
    };
    let reply = StatusReply {
        job: "tiny".into(),
        workers: vec![worker("w1", Some(memory)), worker("w2", None)],
        ..StatusReply::default()
    };
    let standing = Standing::new("tiny", &spec(), replayed(), Some(Ok(reply)));
    let text = standing.text();
    let (_, workers) = text.split_once("\n\n").unwrap();
    assert_eq!(
        workers,
        "worker   state  slots  slots/s                            GPU memory\n\
         w1      member      2        -  20.5 GB of 150.0 GB, at most 31.0 GB\n\
         w2      member      2        -                                     -\n"
    );
    let told = serde_json::to_value(&standing).unwrap();
    let used = |worker: usize| told["workers"][worker]["device_memory"]["used"].as_u64();
    assert_eq!([used(0), used(1)], [Some(20_500_000_000), None]);
}

#[test]
fn a_job_that_does_not_run_tells_why_and_nothing_of_workers() {
    let state = |replayed, answer| {
        let standing = Standing::new("tiny", &spec(), replayed, answer);
        assert_eq!((standing.seconds_left, standing.workers.len()), (None, 0));
        (standing.state, standing.reason)
    };
    let gone = Err("no coordinator answers".to_string());
    let (interrupted, reason) = state(replayed(), Some(gone));
    assert_eq!(
        (interrupted.as_str(), reason.as_str()),
        ("interrupted", "no coordinator answers")
    );
    let ended = Replayed {
        ended: Some("stopped".into()),
        ..replayed()
    };
    assert_eq!(state(ended, None).0, "stopped");
    assert_eq!(state(Replayed::default(), None).0, "new");
}

#[test]
fn a_job_in_the_queue_tells_why_it_waits_and_what_it_is_to_have() {
    let stopped = Replayed {
        ended: Some("stopped".into()),
        ..replayed()
    };
    let mut standing = Standing::new("tiny", &spec(), stopped, None);
    standing.is_queued(JobStatus {
        job: "tiny".into(),
        state: "queued".into(),
        reason: "no worker is there".into(),
        priority: 5,
        submitted: "2026-11-28T14:00:00Z".into(),
        min_workers: 1,
        max_workers: 4,
        ..JobStatus::default()
    });
    assert_eq!(
        standing.text(),
        "job `tiny`\n\
         state       queued: no worker is there\n\
         progress    2 of 30 steps (6.7 %)\n\
         speed       16.0 images/s\n\
         checkpoint  none yet\n\
         report      none yet\n\
         queue       priority 5, from 1 to 4 workers, has 0 workers of a share of 0, submitted 2026-11-28T14:00:00Z\n"
    );
    let listed = overview(&[standing]);
    assert!(
        listed.ends_with("\ntiny queued: no worker is there\n"),
        "{listed}"
    );
}
