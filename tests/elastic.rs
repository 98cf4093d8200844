//! Members come, go and die while a job trains, and its coordinator too: the weights are the same.

mod support;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use support::{Bench, JOB, Processes, Running, free_address, perennial, run, signal, wait_until};

/// A job, and what trains it.
struct Cluster(Bench);

impl Cluster {
    fn new() -> Self {
        // Long enough that there is something left to train after each change.
        Self(Bench::new(&JOB.replace("epochs = 2", "epochs = 5")))
    }

    /// The hashes of one worker that nobody disturbs.
    fn undisturbed(&self) -> (String, String) {
        static HASHES: OnceLock<(String, String)> = OnceLock::new();
        let alone = || run(&mut self.0.train(&self.0.store("undisturbed"), 1, 1)).hashes();
        HASHES.get_or_init(alone).clone()
    }

    /// `perennial coordinator` at `address`.
    fn coordinator(&self, address: &str, options: &[&str]) -> Command {
        let mut command = perennial();
        command
            .args(["--json", "coordinator"])
            .arg(&self.0.job)
            .arg("--data")
            .arg(&self.0.data)
            .args(["--store", &self.0.store("cluster"), "--listen", address])
            .args(options);
        command
    }
}

fn worker(coordinators: &str) -> Child {
    perennial()
        .args(["worker", "--coordinator", coordinators, "--threads", "1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn has_stepped(event: &serde_json::Value, step: u64) -> bool {
    event["event"] == "step" && event["global_step"].as_u64() >= Some(step)
}

fn starts_with(event: &serde_json::Value, workers: u64) -> bool {
    event["event"] == "started" && event["workers"] == workers
}

#[test]
fn a_worker_that_dies_or_hangs_costs_the_others_nothing() {
    let cluster = Cluster::new();
    let mut running = Running::start(&mut cluster.0.train(&cluster.0.store("store"), 3, 1));
    running.wait_for(|event| has_stepped(event, 2));
    let workers = running.workers();
    signal(workers[0], "KILL");
    running.wait_for(|event| event["event"] == "worker_lost");
    running.wait_for(|event| starts_with(event, 2));
    running.wait_for(|event| starts_with(event, 3));
    running.wait_for(|event| event["event"] == "step");
    let hung = *running.workers().last().unwrap();
    signal(hung, "STOP");
    running.wait_for(|event| event["event"] == "worker_lost");
    running.wait_for(|event| starts_with(event, 2));
    signal(hung, "CONT");
    let disturbed = running.finish();
    assert_eq!(disturbed.status, Some(0), "{disturbed:?}");
    assert_eq!(disturbed.hashes(), cluster.undisturbed());
    let steps: Vec<u64> = disturbed
        .events("step")
        .iter()
        .filter_map(|step| step["global_step"].as_u64())
        .collect();
    let all: Vec<u64> = (1..=steps.len() as u64).collect();
    assert_eq!(steps, all, "no step is lost, none is committed twice");
}

#[test]
fn workers_join_and_are_drained_while_the_job_trains() {
    let cluster = Cluster::new();
    let address = free_address();
    let options = ["--workers", "2", "--set", "elastic.min_workers=1"];
    let mut coordinator = Running::start(&mut cluster.coordinator(&address, &options));
    let mut workers = Processes(vec![worker(&address), worker(&address)]);
    coordinator.wait_for(|event| has_stepped(event, 2));
    // It asks to leave, as on a spot machine's notice.
    signal(workers.0[0].id(), "TERM");
    coordinator.wait_for(|event| event["event"] == "worker_leaving");
    let without = coordinator.wait_for(|event| event["event"] == "started");
    assert_eq!(without["workers"], 1);
    assert!(workers.0[0].wait().unwrap().success());
    workers.0.push(worker(&address));
    let joined = coordinator.wait_for(|event| event["event"] == "started");
    assert_eq!(joined["workers"], 2);
    let disturbed = coordinator.finish();
    assert_eq!(disturbed.hashes(), cluster.undisturbed());
    assert_eq!(disturbed.events("worker_lost").len(), 0, "{disturbed:?}");
}

#[test]
fn a_standby_takes_over_from_a_coordinator_that_was_killed() {
    let cluster = Cluster::new();
    let (first, second) = (free_address(), free_address());
    let mut ruling = Running::start(&mut cluster.coordinator(&first, &["--workers", "2"]));
    ruling_has_written(&cluster);
    let standby = ["--workers", "2", "--standby"];
    let mut standby = Running::start(&mut cluster.coordinator(&second, &standby));
    let both = format!("{first},{second}");
    let mut workers = Processes(vec![worker(&both), worker(&both)]);
    ruling.wait_for(|event| has_stepped(event, 3));
    ruling.child.kill().unwrap();
    ruling.child.wait().unwrap();
    standby.wait_for(|event| event["event"] == "step");
    let finished = standby.finish();
    assert_eq!(finished.hashes(), cluster.undisturbed());
    let halts = finished.events("started").len();
    assert_eq!(halts, 0, "nobody had to halt: {finished:?}");
    for worker in &mut workers.0 {
        assert!(worker.wait().unwrap().success());
    }
}

#[test]
fn a_coordinator_that_is_started_again_goes_on_with_the_workers_that_kept_training() {
    let cluster = Cluster::new();
    let address = free_address();
    let options = ["--workers", "2", "--resume"];
    let mut killed = Running::start(&mut cluster.coordinator(&address, &options));
    let mut workers = Processes(vec![worker(&address), worker(&address)]);
    let before = killed.wait_for(|event| has_stepped(event, 3));
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    let again = Running::start(&mut cluster.coordinator(&address, &options)).finish();
    assert_eq!(again.hashes(), cluster.undisturbed());
    assert_eq!(again.events("started").len(), 0, "nobody had to halt");
    let first = again.events("step")[0]["global_step"].as_u64();
    assert!(first <= before["global_step"].as_u64().map(|step| step + 1));
    for worker in &mut workers.0 {
        assert!(worker.wait().unwrap().success());
    }
}

#[test]
fn under_the_minimum_the_job_waits_and_says_so_and_goes_on_by_itself() {
    let cluster = Cluster::new();
    let address = free_address();
    let options = ["--workers", "2", "--set", "elastic.min_workers=2"];
    let mut coordinator = Running::start(&mut cluster.coordinator(&address, &options));
    let mut workers = Processes(vec![worker(&address), worker(&address)]);
    coordinator.wait_for(|event| has_stepped(event, 2));
    workers.0[0].kill().unwrap();
    let waiting = coordinator.wait_for(|event| event["event"] == "waiting");
    let reason = waiting["reason"].as_str().unwrap();
    assert!(reason.contains("1 of at least 2 workers"), "{reason}");
    workers.0.push(worker(&address));
    coordinator.wait_for(|event| starts_with(event, 2));
    let disturbed = coordinator.finish();
    assert_eq!(disturbed.hashes(), cluster.undisturbed());
}

#[test]
fn a_job_is_scaled_and_a_worker_drained_by_command() {
    let cluster = Cluster::new();
    let store = cluster.0.store("scaled");
    let mut running = Running::start(&mut cluster.0.train(&store, 1, 1));
    let operate = |words: &[&str]| {
        let mut command = perennial();
        let output = command
            .args(["--json"])
            .args(words)
            .args(["--store", &store])
            .output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text, errors)
    };
    running.wait_for(|event| has_stepped(event, 1));
    let (status, said, _) = operate(&["scale", "exact", "3"]);
    assert_eq!(status, Some(0));
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["wanted"], 3);
    running.wait_for(|event| starts_with(event, 3));
    assert_eq!(running.workers().len(), 3);
    let (status, ..) = operate(&["drain", "exact", "w2"]);
    assert_eq!(status, Some(0));
    running.wait_for(|event| starts_with(event, 2));
    let (status, _, error) = operate(&["drain", "exact", "w9"]);
    assert_eq!(status, Some(1));
    assert!(error.contains("no worker `w9`"), "{error}");
    assert_eq!(operate(&["scale", "exact", "1"]).0, Some(0));
    running.wait_for(|event| starts_with(event, 1));
    let disturbed = running.finish();
    assert_eq!(disturbed.hashes(), cluster.undisturbed());
    assert_eq!(disturbed.events("worker_lost").len(), 0, "{disturbed:?}");
    let (status, _, error) = operate(&["scale", "exact", "2"]);
    assert_eq!(status, Some(1));
    assert!(error.contains("job `exact` is finished"), "{error}");
}

/// A standby that finds no log would take the job for itself.
fn ruling_has_written(cluster: &Cluster) {
    let log = PathBuf::from(cluster.0.store("cluster"));
    wait_until(Duration::from_secs(20), "the first log entry", || {
        let jobs = std::fs::read_dir(&log).into_iter().flatten().flatten();
        jobs.into_iter()
            .any(|job| job.path().join("log/00000000.json").exists())
    });
}
