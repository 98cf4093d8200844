//! Sessions with a real coordinator over gRPC, and a store in a folder.

mod fake;

use std::thread::JoinHandle;

use fake::Then;
use perennial_coordinator::{CoordinatorError, JobEvent, Outcome, ServeConfig, serve};
use perennial_plan::Spec;
use perennial_proto::v1::coordinator_client::CoordinatorClient;
use perennial_proto::v1::{Hello, StatusRequest};
use perennial_store::Store;
use perennial_worker::session::{Report, SessionError, SessionEvent, connect};
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{oneshot, watch};

type Serving = tokio::task::JoinHandle<Result<Outcome, CoordinatorError>>;

/// A coordinator that serves.
struct Running {
    url: String,
    serving: Serving,
    events: UnboundedReceiver<JobEvent>,
    stop: watch::Sender<bool>,
}

fn config(folder: &TempDir, workers: u32, resume: bool) -> ServeConfig {
    let store_url = folder.path().to_str().unwrap().to_string();
    let mut spec = Spec {
        name: "seedlings".into(),
        ..Spec::default()
    };
    spec.data.dir = "seedlings".into();
    spec.train.epochs = 2;
    spec.train.batch_size = 10;
    spec.checkpoint.every_steps = 2;
    ServeConfig {
        listen: "127.0.0.1:0".into(),
        spec,
        workers,
        store: Store::open(&store_url).unwrap(),
        store_url,
        resume,
        resume_command: "perennial train job.toml --resume".into(),
        command: None,
    }
}

async fn start(config: ServeConfig) -> Running {
    let (bound, address) = oneshot::channel();
    let (emit, events) = unbounded_channel();
    let (stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(serve(config, bound, emit, stopping));
    let url = format!("http://{}", address.await.unwrap());
    Running {
        url,
        serving,
        events,
        stop,
    }
}

async fn refusal(config: ServeConfig) -> String {
    let (bound, _address) = oneshot::channel();
    let (emit, _events) = unbounded_channel();
    let (_stop, stopping) = watch::channel(false);
    let refused = serve(config, bound, emit, stopping).await;
    refused.unwrap_err().to_string()
}

// === impl Running ===

impl Running {
    fn worker(&self, then: Option<Then>) -> JoinHandle<Option<SessionEvent>> {
        let url = self.url.clone();
        std::thread::spawn(move || fake::work(&url, then))
    }

    async fn outcome(&mut self) -> Outcome {
        (&mut self.serving).await.unwrap().unwrap()
    }

    /// Waits for an event for which `wanted` holds.
    async fn until(&mut self, wanted: impl Fn(&JobEvent) -> bool) {
        while let Some(event) = self.events.recv().await {
            if wanted(&event) {
                return;
            }
        }
        panic!("the run ended before");
    }

    fn names(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            let json = serde_json::to_value(event).unwrap();
            names.push(json["event"].as_str().unwrap().to_string());
        }
        names
    }
}

async fn joined(worker: JoinHandle<Option<SessionEvent>>) -> Option<SessionEvent> {
    tokio::task::spawn_blocking(|| worker.join().unwrap())
        .await
        .unwrap()
}

const ALL_IS_WELL: Option<SessionEvent> = Some(SessionEvent::End { error: None });

fn finished(outcome: Outcome) -> (String, Option<String>, String) {
    match outcome {
        Outcome::Finished {
            weights_sha256,
            ema_sha256,
            report,
            ..
        } => (weights_sha256, ema_sha256, report),
        other => panic!("not finished: {other:?}"),
    }
}

/// A job from beginning to end in one run.
async fn undisturbed(
    folder: &TempDir,
    workers: u32,
) -> (Running, (String, Option<String>, String)) {
    let mut running = start(config(folder, workers, false)).await;
    let workers: Vec<_> = (0..workers).map(|_| running.worker(None)).collect();
    let result = finished(running.outcome().await);
    for worker in workers {
        assert_eq!(joined(worker).await, ALL_IS_WELL);
    }
    (running, result)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_workers_walk_a_job_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let (mut running, (weights_sha256, ema_sha256, report)) = undisturbed(&folder, 3).await;
    let names = running.names();
    let count = |name: &str| names.iter().filter(|other| *other == name).count();
    assert_eq!(
        names[..5],
        [
            "job",
            "worker_joined",
            "worker_joined",
            "worker_joined",
            "started"
        ]
    );
    assert_eq!(
        (count("step"), count("epoch"), count("checkpoint")),
        (6, 2, 4)
    );
    assert_eq!(
        (names.last().unwrap().as_str(), count("warning")),
        ("finished", 0)
    );

    let job = Store::open(folder.path().to_str().unwrap())
        .unwrap()
        .job("seedlings")
        .unwrap();
    assert_eq!(
        job.checkpoint_steps().await.unwrap(),
        [3, 4, 6],
        "retention keeps three"
    );
    assert_eq!(job.verify_checkpoint(6).await.unwrap().len(), 0);
    let manifest = job.newest_checkpoint().await.unwrap().unwrap();
    assert_eq!(manifest.weights_sha256, weights_sha256);
    assert_eq!(manifest.ema_sha256, ema_sha256);
    let html = std::fs::read_to_string(report).unwrap();
    assert!(html.contains(&weights_sha256));
    for format in ["json", "txt", "html"] {
        assert!(!job.report(6, format).await.unwrap().is_empty());
    }

    assert_eq!(
        refusal(config(&folder, 1, false)).await,
        "job `seedlings` has a checkpoint of step 6 in the store; go on from it with `--resume`, or give the job another name"
    );
    assert_eq!(
        refusal(config(&folder, 1, true)).await,
        "job `seedlings` is finished: all 2 epochs are done; nothing is left to resume"
    );
    let mut other = config(&folder, 1, true);
    other.spec.train.batch_size = 11;
    assert!(
        refusal(other)
            .await
            .contains("`train.batch_size` is 10 there and 11 here")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_ends_the_run_and_another_number_of_workers_finishes_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = start(config(&folder, 2, false)).await;
    let survivor = running.worker(Some(Then::Wait(5)));
    running
        .until(|event| matches!(event, JobEvent::WorkerJoined { .. }))
        .await;
    let (leave, told) = std::sync::mpsc::channel();
    let leaver = running.worker(Some(Then::Leave(5, told)));
    running
        .until(|event| matches!(event, JobEvent::Checkpoint { global_step: 4, .. }))
        .await;
    leave.send(()).unwrap();
    let Outcome::Failed { message } = running.outcome().await else {
        panic!("the run must fail");
    };
    let sentence = "worker `w2` is gone: its connection closed; its own output may say why; `perennial train job.toml --resume` goes on from checkpoint 4";
    assert_eq!(message, sentence);
    assert_eq!(joined(leaver).await, None);
    let Some(SessionEvent::End { error: Some(told) }) = joined(survivor).await else {
        panic!("the survivor must be told");
    };
    assert!(told.starts_with("worker `w2` is gone: "), "{told}");

    let mut running = start(config(&folder, 3, true)).await;
    let workers: Vec<_> = (0..3).map(|_| running.worker(None)).collect();
    let resumed = |event: &JobEvent| {
        matches!(
            event,
            JobEvent::Started {
                generation: 2,
                epoch: 2,
                step: 1,
                resumed_from: Some(4),
                ..
            }
        )
    };
    running.until(resumed).await;
    let (weights_sha256, ema_sha256, _) = finished(running.outcome().await);
    for worker in workers {
        assert_eq!(joined(worker).await, ALL_IS_WELL);
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let (_, (expected, expected_ema, _)) = undisturbed(&elsewhere, 1).await;
    assert_eq!((weights_sha256, ema_sha256), (expected, expected_ema));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_at_a_checkpoint_from_which_the_job_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = start(config(&folder, 1, false)).await;
    let worker = running.worker(Some(Then::Wait(4)));
    running
        .until(|event| matches!(event, JobEvent::Step { global_step: 4, .. }))
        .await;
    running.stop.send(true).unwrap();
    let Outcome::Stopped {
        global_step,
        resume,
        report,
    } = running.outcome().await
    else {
        panic!("the run must stop");
    };
    assert_eq!(global_step, 5);
    assert_eq!(
        resume,
        "`perennial train job.toml --resume` goes on from checkpoint 5"
    );
    assert!(
        std::fs::exists(report.unwrap()).unwrap(),
        "one epoch was evaluated"
    );
    assert_eq!(joined(worker).await, ALL_IS_WELL);

    let mut running = start(config(&folder, 1, true)).await;
    let worker = running.worker(None);
    finished(running.outcome().await);
    assert_eq!(joined(worker).await, ALL_IS_WELL);
}

#[tokio::test(flavor = "multi_thread")]
async fn resuming_a_job_without_a_checkpoint_starts_from_the_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = start(config(&folder, 1, true)).await;
    let (leave, told) = std::sync::mpsc::channel();
    leave.send(()).unwrap();
    assert_eq!(
        joined(running.worker(Some(Then::Leave(1, told)))).await,
        None
    );
    assert!(matches!(running.outcome().await, Outcome::Failed { .. }));
    let mut running = start(config(&folder, 1, true)).await;
    let worker = running.worker(None);
    running
        .until(|event| {
            matches!(
                event,
                JobEvent::Started {
                    generation: 2,
                    global_step: 0,
                    ..
                }
            )
        })
        .await;
    finished(running.outcome().await);
    assert_eq!(joined(worker).await, ALL_IS_WELL);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_another_version_is_told_why_and_the_status_shows_who_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = start(config(&folder, 2, false)).await;
    let url = running.url.clone();
    let refused = tokio::task::spawn_blocking(move || {
        let other = Hello {
            version: "0.0.1".into(),
            ..fake::hello()
        };
        connect(&url, other).unwrap().recv()
    });
    let SessionEvent::End { error: Some(why) } = refused.await.unwrap() else {
        panic!("the worker must be refused");
    };
    assert!(
        why.contains("this worker is perennial `0.0.1`, the coordinator is"),
        "{why}"
    );

    let worker = running.worker(None);
    running
        .until(|event| matches!(event, JobEvent::WorkerJoined { .. }))
        .await;
    let mut client = CoordinatorClient::connect(running.url.clone())
        .await
        .unwrap();
    let status = client.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (status.phase.as_str(), status.reason.as_str()),
        ("waiting", "1 of 2 workers are ready")
    );
    assert_eq!(status.workers, ["w1"]);
    running.stop.send(true).unwrap();
    assert!(matches!(
        running.outcome().await,
        Outcome::Stopped { global_step: 0, .. }
    ));
    assert_eq!(joined(worker).await, ALL_IS_WELL);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&folder, 1, false);
    config.listen = address.clone();
    assert_eq!(
        refusal(config).await,
        format!(
            "the address `{address}` is in use by another program; stop that one, or choose another address with `--listen`"
        )
    );
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "nothing was written"
    );
}

#[test]
fn an_address_that_cannot_be_is_refused_at_once() {
    let error = connect("http://a b", fake::hello()).unwrap_err();
    assert!(matches!(error, SessionError::InvalidUrl { .. }));
    assert!(
        error.to_string().contains("`http://a b` is not valid"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_words_of_a_worker_reach_the_coordinator_and_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = start(config(&folder, 2, false)).await;
    let other = running.worker(None);
    running
        .until(|event| matches!(event, JobEvent::WorkerJoined { .. }))
        .await;
    let url = running.url.clone();
    let failing = tokio::task::spawn_blocking(move || {
        let session = connect(&url, fake::hello()).unwrap();
        assert!(matches!(session.recv(), SessionEvent::Welcome { .. }));
        session.send(Report::failed("`maize/7.png` cannot be decoded"));
    });
    failing.await.unwrap();
    let Outcome::Failed { message } = running.outcome().await else {
        panic!("the run must fail");
    };
    let sentence = "worker `w2` failed: `maize/7.png` cannot be decoded; there is no checkpoint yet, `perennial train job.toml --resume` starts from the beginning";
    assert_eq!(message, sentence);
    let told = SessionEvent::End {
        error: Some(sentence.into()),
    };
    assert_eq!(joined(other).await, Some(told));
}

#[test]
fn a_coordinator_that_dies_is_lost_to_its_workers_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = tokio::runtime::Runtime::new().unwrap();
    let mut running = coordinator.block_on(start(config(&folder, 1, false)));
    let worker = running.worker(Some(Then::Wait(2)));
    let stepped = |event: &JobEvent| matches!(event, JobEvent::Step { global_step: 2, .. });
    coordinator.block_on(running.until(stepped));
    let url = running.url.clone();
    coordinator.shutdown_background();
    let Some(SessionEvent::Lost(why)) = worker.join().unwrap() else {
        panic!("the worker must notice");
    };
    assert!(
        why.starts_with(&format!("lost the coordinator at `{url}`: ")),
        "{why}"
    );
}
