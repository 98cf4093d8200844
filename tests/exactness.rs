//! The promise, over real processes: the same job gives the same weights, whoever computes it and
//! however often it is interrupted.

mod support;

use std::time::Duration;

use support::{Bench, JOB, Running, is_alive, run, s3_variables, serve_s3, signal, wait_until};

#[test]
fn the_weights_do_not_depend_on_workers_threads_kills_or_the_store() {
    let bench = Bench::new(JOB);
    let alone = run(&mut bench.train(&bench.store("alone"), 1, 1));
    let hashes = alone.hashes();
    assert_ne!(hashes.0, hashes.1, "the average is not the weights");
    assert_eq!(alone.events("epoch").len(), 2);
    assert_eq!(alone.status, Some(0));

    for (workers, threads) in [(1, 2), (2, 1), (3, 2)] {
        let run = run(&mut bench.train(
            &bench.store(&format!("{workers}x{threads}")),
            workers,
            threads,
        ));
        assert_eq!(
            run.hashes(),
            hashes,
            "{workers} workers of {threads} threads"
        );
    }

    // Killed without warning in the middle of an epoch, gone on with by another number of workers.
    let store = bench.store("killed");
    let mut killed = Running::start(&mut bench.train(&store, 2, 1));
    killed.wait_for(|event| event["event"] == "checkpoint");
    let workers = killed.workers();
    assert_eq!(workers.len(), 2);
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    wait_until(Duration::from_secs(30), "the workers' end", || {
        !workers.iter().any(|id| is_alive(*id))
    });
    let resumed = run(bench.train(&store, 3, 1).arg("--resume"));
    let from = resumed.events("started")[0]["resumed_from"].as_u64();
    assert!(
        from.is_some_and(|step| step % 3 == 0 || step % 8 == 0),
        "{from:?}"
    );
    assert_eq!(resumed.hashes(), hashes, "killed and resumed");

    // On object storage, stopped on request and gone on with.
    let (endpoint, _server) = serve_s3(&bench.folder.path().join("s3"), "secret");
    let variables = s3_variables(&endpoint, "secret");
    let mut stopped = Running::start(bench.train("s3://bucket/jobs", 1, 2).envs(&variables));
    stopped.wait_for(|event| event["event"] == "step" && event["global_step"].as_u64() >= Some(4));
    signal(stopped.child.id(), "INT");
    let stopped = stopped.finish();
    assert_eq!(stopped.events("stopped").len(), 1, "{stopped:?}");
    assert_eq!(stopped.status, Some(130));
    let resumed = run(bench
        .train("s3://bucket/jobs", 2, 1)
        .arg("--resume")
        .envs(&variables));
    assert_eq!(
        resumed.hashes(),
        hashes,
        "stopped and resumed on object storage"
    );

    // A key that is refused is one sentence, and nothing is written.
    let refused = run(bench
        .train("s3://bucket/refused", 1, 1)
        .envs(s3_variables(&endpoint, "wrong")));
    assert_eq!(refused.status, Some(1));
    assert!(!bench.folder.path().join("s3/bucket/refused").exists());
}

#[test]
fn the_weights_of_a_job_in_bf16_do_not_depend_on_workers_or_threads_and_are_not_those_of_f32() {
    let bench = Bench::new(JOB);
    let store = |name: &str| bench.store(name);
    let train = |store: &str, workers, threads, precision: &str| {
        let mut command = bench.train(store, workers, threads);
        command.args(["--set", &format!("train.precision={precision}")]);
        command.args([
            "--set",
            "train.epochs=1",
            "--set",
            "schedule.warmup_epochs=0",
        ]);
        command
    };
    let full = run(&mut train(&store("f32"), 1, 1, "f32"));
    let alone = run(&mut train(&store("alone"), 1, 1, "bf16"));
    assert_ne!(alone.hashes(), full.hashes(), "bf16 rounds");
    for (workers, threads) in [(1, 2), (2, 1)] {
        let name = format!("{workers}x{threads}");
        let run = run(&mut train(&store(&name), workers, threads, "bf16"));
        assert_eq!(run.hashes(), alone.hashes(), "{name}");
    }

    // Neither goes on with the other's checkpoint.
    for (kept, precision) in [("f32", "bf16"), ("alone", "f32")] {
        let refused = run(train(&store(kept), 1, 1, precision).arg("--resume"));
        assert_eq!(refused.status, Some(1), "{refused:?}");
        assert!(
            refused.stderr.contains("train.precision"),
            "{}",
            refused.stderr
        );
    }
}
