//! Training whose sums go over NCCL. A stand-in computes them over sockets and fails on demand; the weights must be those of
//! sums over TCP.

mod support;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use support::{Bench, JOB, Run, Running, free_address, perennial, run, signal};

/// Longer than anything takes that happens at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// The stand-in lies where cargo puts what tests depend on: beside the test.
fn library() -> PathBuf {
    use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
    let test = std::env::current_exe().unwrap();
    test.with_file_name(format!("{DLL_PREFIX}perennial_standin_nccl{DLL_SUFFIX}"))
}

/// Lets the workers that the command starts, or that it is, sum over the stand-in.
fn over_nccl(command: &mut Command) -> &mut Command {
    command
        .env("PERENNIAL_NCCL", library())
        .env("PERENNIAL_NCCL_ON_HOST", "1")
        .env("PERENNIAL_LOG", "info")
}

/// A coordinator whose workers are started one by one.
struct Cluster {
    bench: Bench,
    address: String,
    running: Running,
}

/// A worker that does not outlive the test.
struct Worker {
    child: Child,
    /// What the stand-in says on standard output, and the worker on standard error.
    lines: Receiver<String>,
}

// === impl Cluster ===

impl Cluster {
    fn start(job: &str, workers: u32) -> Self {
        let bench = Bench::new(job);
        let address = free_address();
        let mut command = perennial();
        command
            .args(["--json", "coordinator"])
            .arg(&bench.job)
            .arg("--data")
            .arg(&bench.data)
            .args(["--store", &bench.store("store"), "--listen", &address])
            .args(["--workers", &workers.to_string()]);
        let running = Running::start(&mut command);
        Self {
            bench,
            address,
            running,
        }
    }

    fn worker(&self, faults: &str) -> Worker {
        Worker::start(over_nccl(
            perennial()
                .args(["worker", "--threads", "1", "--coordinator", &self.address])
                .env("STANDIN_NCCL_FAULTS", faults),
        ))
    }

    fn has_started_with(&mut self, workers: u64) {
        self.running
            .wait_for(|event| event["event"] == "started" && event["workers"] == workers);
    }
}

// === impl Worker ===

impl Worker {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let output = child.stdout.take().unwrap();
        let errors = child.stderr.take().unwrap();
        let from_output = sender.clone();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(output).lines().map_while(Result::ok);
            lines.all(|line| from_output.send(line).is_ok())
        });
        std::thread::spawn(move || {
            let mut lines = BufReader::new(errors).lines().map_while(Result::ok);
            lines.all(|line| sender.send(line).is_ok())
        });
        Self { child, lines }
    }

    /// Waits until it says a line with `part`.
    #[track_caller]
    fn says(&self, part: &str) -> String {
        let mut before = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => before.push(line),
                Err(_) => panic!("`{part}` was not said: {before:?}"),
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may be gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Long enough that something is left to train after each change.
fn job() -> String {
    JOB.replace("epochs = 2", "epochs = 5")
}

/// The job with two workers whose sums go over TCP.
fn trained_over_tcp() -> &'static Run {
    static TRAINED: OnceLock<Run> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let bench = Bench::new(&job());
        run(&mut bench.train(&bench.store("tcp"), 2, 1))
    })
}

fn over_tcp() -> (String, String) {
    trained_over_tcp().hashes()
}

#[test]
fn exact_sums_over_nccl_give_the_weights_of_sums_over_tcp() {
    let bench = Bench::new(&job());
    for workers in 1..=3 {
        let store = bench.store(&format!("workers-{workers}"));
        let trained = run(over_nccl(&mut bench.train(&store, workers, 1)));
        assert_eq!(trained.hashes(), over_tcp(), "{workers} workers");
        let said = trained.stderr.contains("sums go over NCCL 2.28.9");
        assert_eq!(said, workers > 1, "{}", trained.stderr);
    }
}

#[test]
fn a_worker_that_is_killed_inside_a_sum_over_nccl_costs_the_others_nothing_and_another_one_joins() {
    let mut cluster = Cluster::start(&job(), 3);
    let others = [cluster.worker("blind"), cluster.worker("none")];
    // Each sum is two groups, so this one is in the middle of the fourth.
    let mut killed = cluster.worker("hang@8");
    killed.says("struck hang@8");
    signal(killed.child.id(), "KILL");
    killed.child.wait().unwrap();
    cluster.has_started_with(2);
    let _joins = cluster.worker("none");
    cluster.has_started_with(3);
    // And one leaves as on a spot machine's notice.
    cluster.running.wait_for(|event| event["event"] == "step");
    signal(others[0].child.id(), "TERM");
    cluster.has_started_with(2);
    for worker in &others {
        worker.says("sums go over NCCL 2.28.9");
    }
    let finished = cluster.running.finish();
    assert_eq!(finished.hashes(), over_tcp());
    let steps = finished.events("step");
    let steps = steps.iter().filter_map(|step| step["global_step"].as_u64());
    assert!(
        steps.eq(1..=finished.events("step").len() as u64),
        "{finished:?}"
    );
}

#[test]
fn an_asynchronous_error_of_nccl_breaks_the_generation_and_not_the_weights() {
    let mut cluster = Cluster::start(&job(), 2);
    let _other = cluster.worker("none");
    // The word of the coordinator that a generation has ended may come before the error is asked for; then the next one is found.
    let failing = cluster.worker("error@5,error@9");
    failing.says("struck error@5");
    failing.says("(a network adapter failed)");
    cluster.running.wait_for(|event| event["event"] == "step");
    let finished = cluster.running.finish();
    assert_eq!(finished.hashes(), over_tcp());
}

#[test]
fn members_that_cannot_all_use_nccl_sum_over_tcp_and_say_why() {
    let cluster = Cluster::start(&job(), 2);
    let first = cluster.worker("none");
    let other = Worker::start(over_nccl(
        perennial()
            .args(["worker", "--threads", "1"])
            .args(["--coordinator", &cluster.address])
            .env("STANDIN_NCCL_VERSION", "22703"),
    ));
    for worker in [&first, &other] {
        let said = worker.says("sums go over TCP, because");
        assert!(said.contains("2.28.9") && said.contains("2.27.3"), "{said}");
    }
    assert_eq!(cluster.running.finish().hashes(), over_tcp());
}

#[test]
fn fast_sums_are_nearly_the_exact_ones_and_the_report_says_that_they_are_not() {
    let fast = job().replace("slots = 5", "slots = 5\nreduction = \"fast\"");
    let bench = Bench::new(&fast);
    let store = bench.store("fast");
    let trained = run(over_nccl(&mut bench.train(&store, 3, 1)));
    trained.hashes();
    let first = |run: &Run| run.events("step")[0]["loss"].as_f64().unwrap();
    assert!((first(&trained) - first(trained_over_tcp())).abs() < 1e-6);
    let report = perennial()
        .args(["report", "exact", "--store", &store])
        .output()
        .unwrap();
    let report = String::from_utf8(report.stdout).unwrap();
    assert!(
        report.contains("fast: the weights depend on the workers"),
        "{report}"
    );
    assert!(report.contains("fast sums"), "{report}");
}

#[test]
fn what_has_other_sums_or_no_stand_in_is_refused_with_the_reason() {
    let mut cluster = Cluster::start(&job(), 2);
    let _first = cluster.worker("none");
    cluster
        .running
        .wait_for(|event| event["event"] == "worker_joined");
    // It computes the same, but over TCP.
    let other = Worker::start(
        perennial()
            .args(["worker", "--threads", "1"])
            .args(["--coordinator", &cluster.address]),
    );
    let said = other.says("error: ");
    assert!(said.contains("sums over a stand-in for NCCL"), "{said}");

    let lacking = cluster.bench.folder.path().join("libnccl.so.2");
    let mut bytes = std::fs::read(library()).unwrap();
    let symbol = b"\0standin_stream_new\0";
    let places: Vec<usize> = (0..bytes.len() - symbol.len())
        .filter(|place| &bytes[*place..*place + symbol.len()] == symbol)
        .collect();
    assert!(!places.is_empty());
    for place in places {
        bytes[place + 1] = b'X';
    }
    std::fs::write(&lacking, bytes).unwrap();
    let real = Worker::start(
        over_nccl(perennial().args(["worker", "--coordinator", &cluster.address]))
            .env("PERENNIAL_NCCL", &lacking),
    );
    real.says("is no stand-in for NCCL");
    drop(cluster.running.child.kill());
}
