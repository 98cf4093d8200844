//! Many jobs over one pool of workers, through a coordinator that may die: each ends with the weights that it
//! has alone.

mod support;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;
use support::{Bench, JOB, Processes, Running, free_address, perennial, run, wait_until};

/// Many small steps: a job is long enough to be disturbed, and cheap. 14 steps an epoch.
const SIZE: [(&str, &str); 3] = [
    ("epochs = 2", "epochs = 3"),
    ("batch_size = 22", "batch_size = 12"),
    ("every_steps = 3", "every_steps = 5"),
];

/// A store with a queue, and what is trained in it.
struct Cluster {
    bench: Bench,
    store: String,
    address: String,
    workers: Processes,
}

/// A coordinator of a queue, which does not end by itself.
fn coordinator(store: &str, address: &str, options: &[&str]) -> Running {
    let mut command = perennial();
    command.args([
        "--json",
        "coordinator",
        "--store",
        store,
        "--listen",
        address,
    ]);
    Running::start(command.args(options))
}

impl Cluster {
    fn new() -> Self {
        let job = (SIZE.iter()).fold(JOB.to_string(), |job, (from, to)| job.replace(from, to));
        let bench = Bench::new(&job);
        Self {
            store: bench.store("queue"),
            address: free_address(),
            workers: Processes(Vec::new()),
            bench,
        }
    }

    /// The hashes of a job with this seed that one worker trains and nobody disturbs.
    fn alone(&self, seed: u32) -> (String, String) {
        static HASHES: OnceLock<std::sync::Mutex<BTreeMap<u32, (String, String)>>> =
            OnceLock::new();
        let mut known = HASHES.get_or_init(Default::default).lock().unwrap();
        let train = || {
            let store = self.bench.store(&format!("alone-{seed}"));
            let mut command = self.bench.train(&store, 1, 2);
            command.args(["--set", &format!("seed={seed}")]);
            // Which changes no weight.
            run(command.args(["--set", "checkpoint.every_steps=0"])).hashes()
        };
        known.entry(seed).or_insert_with(train).clone()
    }

    fn coordinator(&self) -> Running {
        let mut coordinator = coordinator(&self.store, &self.address, &[]);
        coordinator.wait_for(|event| event["entry"] == "term");
        coordinator
    }

    fn start_workers(&mut self, count: usize) {
        for _ in 0..count {
            let worker = perennial()
                .args(["worker", "--coordinator", &self.address, "--threads", "1"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            self.workers.0.push(worker.unwrap());
        }
    }

    /// `perennial --json WORDS --store STORE`.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = perennial();
        command.arg("--json").args(words);
        command.args(["--store", &self.store]);
        command
    }

    /// The status, what was printed and the error.
    fn tell(&self, words: &[&str]) -> (Option<i32>, Value, String) {
        let output = self.command(words).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        let said = text.lines().next().map(serde_json::from_str);
        let said = said.transpose().unwrap().unwrap_or_default();
        (output.status.code(), said, error)
    }

    fn done(&self, words: &[&str]) -> Value {
        let (status, said, error) = self.tell(words);
        assert_eq!(status, Some(0), "{words:?}: {error}");
        said
    }

    fn refused(&self, words: &[&str]) -> String {
        let (status, said, error) = self.tell(words);
        assert_eq!(status, Some(1), "{words:?}: {said}");
        error
    }

    fn submit(&self, name: &str, seed: u32, options: &[&str]) -> Value {
        let job = self.bench.job.display().to_string();
        let data = self.bench.data.display().to_string();
        let (name, seed) = (format!("name={name}"), format!("seed={seed}"));
        let words = [
            "submit", &job, "--data", &data, "--set", &name, "--set", &seed,
        ];
        self.done(&[&words, options].concat())
    }

    fn status(&self, job: &str) -> Value {
        self.done(&["status", job])
    }
}

fn entry<'a>(job: &'a str, kind: &'a str) -> impl Fn(&Value) -> bool + 'a {
    move |event| event["job"] == job && event["entry"] == kind
}

fn has_stepped(job: &str, step: u64) -> impl Fn(&Value) -> bool + '_ {
    move |event| {
        let stepped = event["event"] == "step" && event["global_step"].as_u64() >= Some(step);
        event["job"] == job && stepped
    }
}

/// The hashes of every job that has finished by now.
fn hashes(events: &[Value]) -> BTreeMap<String, (String, String)> {
    let finished = events.iter().filter(|event| event["event"] == "finished");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let hashes = finished.map(|event| {
        let hashes = (text(&event["weights_sha256"]), text(&event["ema_sha256"]));
        (text(&event["job"]), hashes)
    });
    hashes.collect()
}

/// Waits until so many jobs have left the queue.
fn wait_for_ends(running: &mut Running, count: usize) {
    let ended = |events: &[Value]| events.iter().filter(|it| it["entry"] == "ended").count();
    while ended(&running.events) < count {
        running.wait_for(|event| event["entry"] == "ended");
    }
}

#[test]
fn a_job_of_higher_priority_takes_workers_from_others_and_all_end_with_the_weights_that_they_have_alone()
 {
    let mut cluster = Cluster::new();
    let mut running = cluster.coordinator();
    cluster.start_workers(3);
    cluster.submit("one", 1, &[]);
    cluster.submit("two", 2, &[]);
    running.wait_for(has_stepped("one", 2));
    running.wait_for(has_stepped("two", 2));
    // All three workers and more: the others go back to the queue with a checkpoint.
    let needs = ["--priority", "5", "--set", "elastic.min_workers=3"];
    cluster.submit("urgent", 3, &needs);
    running.wait_for(entry("urgent", "started"));
    running.wait_for(has_stepped("urgent", 1));
    let waits = cluster.status("one");
    assert_eq!(waits["state"], "queued", "{waits}");
    let reason = waits["reason"].as_str().unwrap();
    assert!(
        reason.contains("0 of 3 are left after `urgent`"),
        "{reason}"
    );
    wait_for_ends(&mut running, 3);
    let events = &running.events;
    let first = events
        .iter()
        .find(|event| event["entry"] == "ended")
        .unwrap();
    assert_eq!(first["job"], "urgent", "{first}");
    let lost = events
        .iter()
        .filter(|event| event["event"] == "worker_lost");
    assert_eq!(lost.count(), 0, "{events:?}");
    let steps = |job: &str| {
        let steps = events
            .iter()
            .filter(|it| it["job"] == job && it["event"] == "step");
        steps
            .filter_map(|it| it["global_step"].as_u64())
            .collect::<Vec<u64>>()
    };
    for (job, seed) in [("one", 1), ("two", 2), ("urgent", 3)] {
        assert_eq!(hashes(events)[job], cluster.alone(seed), "{job}");
        let all: Vec<u64> = (1..=steps(job).len() as u64).collect();
        assert_eq!(steps(job), all, "no step of {job} is computed twice");
        cluster.done(&["audit", job]);
    }
    let logs = cluster.command(&["logs", "two"]).output().unwrap();
    let logs = String::from_utf8(logs.stdout).unwrap();
    for event in [
        "\"worker_joined\"",
        "\"stopped\"",
        "\"epoch\"",
        "\"finished\"",
    ] {
        assert!(logs.contains(event), "no {event} in {logs}");
    }
}

#[test]
fn a_coordinator_that_is_killed_and_started_again_goes_on_with_all_jobs() {
    let mut cluster = Cluster::new();
    let mut killed = cluster.coordinator();
    cluster.start_workers(2);
    cluster.submit("one", 1, &["--workers", "1"]);
    cluster.submit("two", 2, &["--workers", "1"]);
    let needs = ["--priority", "-1", "--set", "elastic.min_workers=2"];
    cluster.submit("three", 3, &needs);
    killed.wait_for(has_stepped("one", 2));
    killed.wait_for(has_stepped("two", 2));
    assert_eq!(cluster.status("three")["state"], "queued");
    killed.kill();
    // Nobody rules: what is in the store says so.
    let meanwhile = cluster.status("three");
    assert!(
        meanwhile["reason"]
            .as_str()
            .unwrap()
            .contains("perennial coordinator"),
        "{meanwhile}"
    );
    let mut again = cluster.coordinator();
    wait_for_ends(&mut again, 3);
    for (job, seed) in [("one", 1), ("two", 2), ("three", 3)] {
        assert_eq!(hashes(&again.events)[job], cluster.alone(seed), "{job}");
    }
    let began = again
        .events
        .iter()
        .filter(|event| event["event"] == "started");
    let restarted = began.filter(|event| event["job"] != "three");
    assert_eq!(
        restarted.count(),
        0,
        "nobody had to halt: {:?}",
        again.events
    );
}

#[test]
fn a_standby_takes_the_queue_over_from_a_coordinator_that_was_killed() {
    let mut cluster = Cluster::new();
    let mut ruling = cluster.coordinator();
    let first = cluster.address.clone();
    let second = free_address();
    let mut standby = coordinator(&cluster.store, &second, &["--standby"]);
    standby.wait_for(|event| event["listening"] == second.as_str());
    cluster.address = format!("{first},{second}");
    cluster.start_workers(2);
    cluster.submit("one", 1, &[]);
    // Whoever is still on its way would join under the next one.
    ruling.wait_for(|event| event["event"] == "started" && event["workers"] == 2);
    ruling.wait_for(has_stepped("one", 3));
    ruling.kill();
    wait_for_ends(&mut standby, 1);
    assert_eq!(hashes(&standby.events)["one"], cluster.alone(1));
    let started = standby
        .events
        .iter()
        .filter(|event| event["event"] == "started");
    assert_eq!(started.count(), 0, "nobody had to halt");
    assert_eq!(cluster.done(&["status", "one"])["state"], "finished");
}

#[test]
fn jobs_are_scaled_drained_stopped_and_resumed_by_command() {
    let mut cluster = Cluster::new();
    let mut running = cluster.coordinator();
    cluster.start_workers(3);
    let submitted = cluster.submit("one", 1, &[]);
    assert_eq!(submitted["state"], "queued", "{submitted}");
    let job = cluster.bench.job.display().to_string();
    let data = cluster.bench.data.display().to_string();
    let again = ["submit", &job, "--data", &data, "--set", "name=one"];
    assert!(cluster.refused(&again).contains("`perennial resume one`"));
    running.wait_for(has_stepped("one", 1));

    assert_eq!(cluster.done(&["scale", "one", "1"])["wanted"], 1);
    let smaller = |event: &Value| event["event"] == "started" && event["workers"] == 1;
    running.wait_for(smaller);
    assert!(
        cluster
            .refused(&["scale", "one", "9"])
            .contains("`elastic.max_workers`")
    );
    cluster.done(&["stop", "one"]);
    let ended = running.wait_for(entry("one", "ended"));
    assert_eq!(ended["how"], "stopped");
    let stopped = cluster.status("one");
    assert_eq!(stopped["state"], "stopped", "{stopped}");
    assert!(
        stopped["reason"]
            .as_str()
            .unwrap()
            .contains("perennial resume one"),
        "{stopped}"
    );
    assert!(
        cluster
            .refused(&["stop", "one"])
            .contains("stopped already")
    );

    // All workers are back in the pool, under their names.
    wait_until(Duration::from_secs(30), "three workers that wait", || {
        let look = cluster.done(&["top", "--count", "1"]);
        let workers = look["queue"]["workers"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        workers.len() == 3 && workers.iter().all(|worker| worker["job"].is_null())
    });
    cluster.done(&["drain", "w2"]);
    wait_until(
        Duration::from_secs(30),
        "the end of the drained worker",
        || {
            let look = cluster.done(&["top", "--count", "1"]);
            look["queue"]["workers"]
                .as_array()
                .is_some_and(|workers| workers.len() == 2)
        },
    );
    cluster.done(&["resume", "one", "--workers", "3"]);
    running.wait_for(has_stepped("one", 4));
    // At once: what came after the newest checkpoint is computed again.
    cluster.done(&["stop", "one", "--now"]);
    running.wait_for(entry("one", "ended"));
    cluster.done(&["resume", "one"]);
    running.wait_for(|event| event["event"] == "finished");
    assert_eq!(hashes(&running.events)["one"], cluster.alone(1));
    running.wait_for(entry("one", "ended"));
    assert!(cluster.refused(&["resume", "one"]).contains("is finished"));
    cluster.done(&["audit", "one"]);
    cluster.done(&["report", "one"]);
}
