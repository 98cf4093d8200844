//! Evaluation as a job of its own: whoever measures the pictures, what comes out has the same bits.

mod support;

use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::{Bench, JOB, Processes, Run, Running, free_address, perennial, run, signal};

/// A job that was trained, and pictures to measure its weights on.
struct Trained {
    bench: Bench,
    store: String,
}

impl Trained {
    fn new() -> Self {
        let one = JOB.replace("epochs = 2", "epochs = 1");
        let bench = Bench::new(&one.replace("warmup_epochs = 1", "warmup_epochs = 0"));
        let store = bench.store("store");
        let trained = run(&mut bench.train(&store, 1, 2));
        assert_eq!(trained.status, Some(0), "{trained:?}");
        Self { bench, store }
    }

    /// `perennial --json WORDS --store STORE`.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = perennial();
        command.arg("--json").args(words);
        command.args(["--store", &self.store]);
        command
    }

    /// The evaluation of the job on all pictures, in so small steps that there are many of them.
    fn evaluate(&self, options: &[&str]) -> Command {
        let data = self.bench.data.display().to_string();
        let words = ["evaluate", "--weights", "exact", "--data", &data];
        let steps = ["--slots", "3", "--batch", "3"];
        self.command(&[&words[..], &steps[..], options].concat())
    }
}

/// What came out, but for the job's name.
fn evaluation(run: &Run) -> Value {
    assert_eq!(run.status, Some(0), "{run:?}");
    let [evaluation] = run.events("evaluation")[..] else {
        panic!("there is one evaluation: {run:?}");
    };
    let mut evaluation = evaluation.clone();
    evaluation["job"] = Value::Null;
    evaluation
}

fn steps(run: &Run) -> Vec<u64> {
    let steps = run.events("step").into_iter();
    steps
        .filter_map(|step| step["global_step"].as_u64())
        .collect()
}

fn starts_with(event: &Value, workers: u64) -> bool {
    event["event"] == "started" && event["workers"] == workers
}

#[test]
fn an_evaluation_has_the_same_bits_on_any_number_of_workers_whoever_dies_and_in_one_process() {
    let trained = Trained::new();
    let alone = evaluation(&run(&mut trained.evaluate(&[])));
    assert!(alone["ema"]["evaluation"]["top1"].is_number(), "{alone}");

    let one = run(&mut trained.evaluate(&["--workers", "1", "--name", "one"]));
    assert_eq!(evaluation(&one), alone);
    let all = steps(&one);
    assert_eq!(all, (1..=all.len() as u64).collect::<Vec<_>>());
    assert!(all.len() > 20, "{all:?}");

    let two = run(trained
        .evaluate(&["--workers", "2", "--name", "two", "--threads", "1"])
        .env("PERENNIAL_STORE_FAULTS", "seed=3,rate=0.1"));
    assert_eq!(evaluation(&two), alone);

    // Of three, one is killed, and another comes in its place.
    let options = ["--workers", "3", "--name", "three", "--threads", "1"];
    let mut running = Running::start(&mut trained.evaluate(&options));
    running.wait_for(|event| event["event"] == "step");
    signal(running.workers()[0], "KILL");
    running.wait_for(|event| event["event"] == "worker_lost");
    let three = running.finish();
    assert_eq!(evaluation(&three), alone);
    assert_eq!(steps(&three), all, "each picture is measured once");
    assert!(
        three.events("started").iter().any(|it| starts_with(it, 2)),
        "the two others went on: {three:?}"
    );

    // It is in the store, with the account of who measured what, and is not done again.
    let again = run(&mut trained.evaluate(&["--workers", "1", "--name", "three"]));
    assert_eq!(again.events.len(), 1, "{again:?}");
    assert_eq!(evaluation(&again), alone);
    for job in ["one", "two", "three"] {
        let audit = run(&mut trained.command(&["audit", job]));
        assert_eq!(audit.status, Some(0), "{audit:?}");
    }
    let report = run(&mut trained.command(&["report", "three"]));
    assert_eq!(report.events[0]["raw"]["top1"], alone["evaluation"]["top1"]);
    let train = run(&mut trained.evaluate(&["--workers", "1", "--name", "exact"]));
    assert_eq!(train.status, Some(1), "a job that trains is no evaluation");
}

#[test]
fn an_evaluation_that_was_stopped_goes_on_from_what_it_had_found() {
    let trained = Trained::new();
    let options = ["--workers", "1", "--threads", "1"];
    let mut running = Running::start(&mut trained.evaluate(&options));
    running.wait_for(|event| event["event"] == "checkpoint");
    signal(running.child.id(), "INT");
    let stopped = running.finish();
    assert_eq!(stopped.status, Some(130), "{stopped:?}");
    let had = *steps(&stopped).last().unwrap();

    let rest = run(&mut trained.evaluate(&options));
    assert_eq!(steps(&rest)[0], had + 1, "{rest:?}");
    assert_eq!(
        evaluation(&rest),
        evaluation(&run(&mut trained.evaluate(&[])))
    );
}

#[test]
fn a_job_is_measured_on_what_it_holds_out_by_the_workers_of_a_queue() {
    let trained = Trained::new();
    let address = free_address();
    let mut coordinator =
        Running::start(&mut trained.command(&["coordinator", "--listen", &address]));
    coordinator.wait_for(|event| event["entry"] == "term");
    let worker = || -> Child {
        let mut worker = perennial();
        worker.args(["worker", "--coordinator", &address, "--threads", "1"]);
        worker.stdout(Stdio::null()).stderr(Stdio::null());
        worker.spawn().unwrap()
    };
    let _workers = Processes(vec![worker(), worker()]);
    let words = [
        "evaluate",
        "--weights",
        "exact",
        "--slots",
        "5",
        "--batch",
        "320",
    ];
    let submitted = run(&mut trained.command(&[&words[..], &["--submit"]].concat()));
    assert_eq!(submitted.status, Some(0), "{submitted:?}");
    let name = submitted.events[0]["job"].as_str().unwrap().to_string();
    coordinator.wait_for(|event| event["job"] == name.as_str() && event["entry"] == "ended");

    // As the training itself evaluated its last epoch, in as many slots and all at once.
    let report = |job: &str| run(&mut trained.command(&["report", job])).events[0].clone();
    let (own, other) = (report("exact"), report(&name));
    for weights in ["raw", "ema"] {
        assert_eq!(own[weights], other[weights], "{weights}");
    }
    assert_eq!(own["weights_sha256"], other["weights_sha256"]);
    // Asked for again, it is there.
    let shown = run(&mut trained.command(&[&words[..], &["--workers", "1"]].concat()));
    assert_eq!(shown.events.len(), 1, "{shown:?}");
}
