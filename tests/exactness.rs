//! The promise, over real processes: the same job gives the same weights, whoever computes it and
//! however often it is interrupted.

mod support;

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use support::{
    Bench, JOB, Run, Running, is_alive, perennial, run, s3_variables, serve_s3, signal, wait_until,
};

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
fn the_weights_of_a_job_in_f16_do_not_depend_on_workers_or_kills_though_steps_are_skipped() {
    let bench = Bench::new(JOB);
    // So large a scale overflows until it is halved a few times.
    let train = |store: &str, workers| {
        let mut command = bench.train(store, workers, 1);
        for assignment in [
            "train.precision=f16",
            "train.loss_scale=16777216",
            "train.epochs=1",
            "schedule.warmup_epochs=0",
            "checkpoint.every_steps=2",
        ] {
            command.args(["--set", assignment]);
        }
        command
    };
    // Loss, scale and whether it was skipped, of each step.
    let steps = |run: &Run| -> Vec<[Value; 3]> {
        let event = |event: &Value| ["loss", "loss_scale", "skipped"].map(|key| event[key].clone());
        run.events("step").into_iter().map(event).collect()
    };
    let alone = run(&mut train(&bench.store("f16"), 1));
    let of_alone = steps(&alone);
    let mut scale = 16777216.0;
    for [_, found, skipped] in &of_alone {
        assert_eq!(found.as_f64(), Some(scale));
        scale *= if skipped == true { 0.5 } else { 1.0 };
    }
    let skipped = of_alone.iter().filter(|[.., skipped]| skipped == true);
    let skipped = skipped.count();
    assert!((2..of_alone.len() - 1).contains(&skipped), "{of_alone:?}");
    for workers in [2, 3] {
        let run = run(&mut train(&bench.store(&format!("f16-{workers}")), workers));
        assert_eq!(run.hashes(), alone.hashes(), "{workers} workers");
        assert_eq!(steps(&run), of_alone);
    }

    // Killed when the scale is not what the job began with, gone on with by another number of workers.
    let store = bench.store("killed");
    let mut killed = Running::start(&mut train(&store, 2));
    killed.wait_for(|event| event["event"] == "checkpoint");
    let workers = killed.workers();
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    wait_until(Duration::from_secs(30), "the workers' end", || {
        !workers.iter().any(|id| is_alive(*id))
    });
    let resumed = run(train(&store, 3).arg("--resume"));
    assert_eq!(resumed.hashes(), alone.hashes(), "killed and resumed");
    let first = resumed.events("step")[0].clone();
    let index = first["global_step"].as_u64().unwrap() as usize - 1;
    assert!(index > 0 && first["loss_scale"] == of_alone[index][1]);

    // The account of it all holds, the scale in the checkpoints included, and says what was skipped.
    for store in [store, bench.store("f16-3")] {
        let audit = run(perennial().args(["--json", "audit", "exact", "--store", &store]));
        assert_eq!(audit.status, Some(0), "{audit:?}");
        let curves = run(perennial().args(["--json", "curves", "exact", "--store", &store]));
        let epoch = curves.events("epoch")[0].clone();
        assert_eq!(epoch["skipped_steps"], skipped);
        assert_eq!(epoch["loss_scale"], of_alone[of_alone.len() - 1][1]);
    }
}

/// With the scale that it begins with by itself, a job in f16 learns what it learns in f32.
#[test]
fn a_job_in_f16_learns_as_one_in_f32() {
    let pictures = |folder: &Path| {
        let dir = folder.join("synthetic");
        let mut synth = perennial();
        synth.args(["data", "synth"]).arg(&dir);
        synth.args(["--classes", "3", "--per-class", "40", "--size", "32"]);
        assert!(synth.status().unwrap().success());
        dir
    };
    let bench = Bench::with(pictures, LEARNS);
    let [full, half] = ["f32", "f16"].map(|precision| {
        let mut command = bench.train(&bench.store(precision), 1, 2);
        run(command.args(["--set", &format!("train.precision={precision}")]))
    });
    assert_ne!(half.hashes(), full.hashes(), "f16 rounds");
    let last = |run: &Run, key: &str| run.events("epoch").last().unwrap()[key].as_f64().unwrap();
    let of = |key| [last(&full, key), last(&half, key)];
    let ([loss, half_loss], [top1, half_top1]) = (of("train_loss"), of("val_top1"));
    assert!(top1 >= 0.6, "f32 learns: {top1}");
    assert!(
        (half_loss - loss).abs() <= 0.05 * loss,
        "{half_loss} for {loss}"
    );
    assert!((half_top1 - top1).abs() <= 0.12, "{half_top1} for {top1}");
}

const LEARNS: &str = r#"
name = "learns"
[data]
image_size = 32
[train]
epochs = 12
batch_size = 12
slots = 2
"#;

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
