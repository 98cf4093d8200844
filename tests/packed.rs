//! A job on a pack of its pictures: the weights of the folder, whatever happens on the way.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::{Bench, JOB, Run, Running, perennial, run, s3_variables, serve_s3, signal};

/// `perennial --json data pack` into shards of a megabyte.
fn pack(dir: &Path, url: &str) -> Command {
    let mut command = perennial();
    command.args(["--json", "data", "pack"]).arg(dir).arg(url);
    command.args(["--shard-size", "1"]);
    command
}

fn packed(dir: &Path, url: &str) -> Value {
    let run = run(&mut pack(dir, url));
    assert_eq!(run.status, Some(0), "{run:?}");
    run.events[0].clone()
}

/// The one sentence on stderr.
fn sentence(run: &Run) -> &str {
    assert_eq!(run.status, Some(1), "{run:?}");
    let mut errors = run
        .stderr
        .lines()
        .filter(|line| line.starts_with("error: "));
    let sentence = errors.next().expect("an error");
    assert_eq!(errors.next(), None, "{}", run.stderr);
    sentence
}

#[test]
fn a_job_ends_with_the_same_weights_on_a_pack_as_on_its_folder() {
    let bench = Bench::new(JOB);
    let folder = run(&mut bench.train(&bench.store("folder"), 1, 2));
    let hashes = folder.hashes();
    let (endpoint, _server) = serve_s3(&bench.folder.path().join("s3"), "secret");
    let variables = s3_variables(&endpoint, "secret");
    let cache = bench.folder.path().join("cache");
    let faults = |seed: u32, rate: f32| {
        let count = bench.folder.path().join(format!("faults-{seed}"));
        (
            format!("seed={seed},rate={rate},count-file={}", count.display()),
            count,
        )
    };

    // Packed into a bucket that fails now and then, and trained from it by two workers.
    let url = "s3://bucket/pictures";
    // A few requests are all that it takes to pack these.
    let (suffered, counts) = faults(1, 0.5);
    let made = run(pack(&bench.data, url)
        .envs(&variables)
        .env("PERENNIAL_STORE_FAULTS", suffered));
    assert_eq!(made.status, Some(0), "{made:?}");
    assert!(counts.exists(), "the packing met a fault");
    let (suffered, counts) = faults(2, 0.2);
    let on_bucket = |store: &str, workers| {
        let mut command = support::train(&bench.job, Path::new(url), store, workers, 1);
        command.envs(&variables).env("XDG_CACHE_HOME", &cache);
        command
    };
    let trained = run(on_bucket("s3://bucket/jobs", 2).env("PERENNIAL_STORE_FAULTS", suffered));
    assert_eq!(trained.hashes(), hashes, "on a bucket with faults");
    assert!(counts.exists(), "the training met a fault");
    assert!(cache.join("perennial").is_dir(), "what was read is kept");
    for key in ["train_samples", "val_samples", "classes", "skipped"] {
        assert_eq!(
            trained.events("job")[0][key],
            folder.events("job")[0][key],
            "{key}"
        );
    }
    let scores = |run: &Run| {
        let epochs = run.events("epoch").into_iter();
        epochs.map(|epoch| epoch["val"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(scores(&trained), scores(&folder));

    // Begun on the folder, gone on with from a pack of it.
    let pack = bench.folder.path().join("pack");
    packed(&bench.data, pack.to_str().unwrap());
    let store = bench.store("both");
    let mut begun = Running::start(&mut bench.train(&store, 1, 2));
    begun.wait_for(|event| event["event"] == "checkpoint");
    signal(begun.child.id(), "INT");
    assert_eq!(begun.finish().status, Some(130));
    let mut resume = support::train(&bench.job, &pack, &store, 2, 1);
    let resumed = run(resume.arg("--resume"));
    assert_eq!(
        resumed.hashes(),
        hashes,
        "begun on a folder, resumed on a pack"
    );
}

#[test]
fn a_pack_of_other_pictures_is_not_gone_on_with() {
    let bench = Bench::with(made_up, JOB);
    let store = bench.store("store");
    let mut begun = Running::start(&mut bench.train(&store, 1, 2));
    begun.wait_for(|event| event["event"] == "checkpoint");
    signal(begun.child.id(), "INT");
    assert_eq!(begun.finish().status, Some(130));
    let other = bench.data.join("..").join("other");
    let class = first_class(&bench.data);
    let status = Command::new("cp")
        .arg("-r")
        .arg(&bench.data)
        .arg(&other)
        .status();
    assert!(status.unwrap().success());
    let (lost, target) = (
        class.join("0001.png"),
        other.join(class.file_name().unwrap()),
    );
    std::fs::rename(target.join("0001.png"), target.join("renamed.png")).unwrap();
    assert!(lost.exists());
    let pack = bench.folder.path().join("pack");
    packed(&other, pack.to_str().unwrap());
    let refused = run(support::train(&bench.job, &pack, &store, 1, 2).arg("--resume"));
    assert!(sentence(&refused).contains("fingerprint"), "{refused:?}");
}

#[test]
fn training_begins_before_the_whole_pack_is_there_and_a_broken_one_is_one_sentence() {
    let bench = Bench::with(made_up, JOB);
    let pack = bench.folder.path().join("pack");
    packed(&bench.data, pack.to_str().unwrap());
    let train = |store: &str| {
        run(&mut support::train(
            &bench.job,
            &pack,
            &bench.store(store),
            1,
            2,
        ))
    };

    // What validates is needed at the end of an epoch, and not before.
    let shard = pack.join("val-000000.tar");
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::remove_file(&shard).unwrap();
    let without = train("without");
    assert!(without.events("step").len() > 5, "{without:?}");
    assert_eq!(without.events("epoch").len(), 0);
    let said = sentence(&without);
    assert!(
        said.contains("sample `") && said.contains("`val-000000.tar` does not exist"),
        "{said}"
    );
    std::fs::write(&shard, &bytes).unwrap();

    let shard = pack.join("train-000000.tar");
    let mut bytes = std::fs::read(&shard).unwrap();
    for byte in bytes.iter_mut().skip(512).step_by(1000) {
        *byte ^= 1;
    }
    std::fs::write(&shard, bytes).unwrap();
    let damaged = train("damaged");
    assert_eq!(damaged.events("step").len(), 0);
    let said = sentence(&damaged);
    assert!(
        said.contains("is damaged") && said.contains("`train-000000.tar`"),
        "{said}"
    );

    std::fs::write(pack.join("PACK.json"), "{").unwrap();
    let cut = train("cut");
    assert!(sentence(&cut).contains("`PACK.json` of pack"), "{cut:?}");
    assert!(
        !bench.folder.path().join("cut").exists(),
        "nothing is written"
    );
}

#[test]
fn weights_say_the_same_of_a_pack_as_of_its_folder() {
    let bench = Bench::with(made_up, JOB);
    assert_eq!(
        run(&mut bench.train(&bench.store("store"), 1, 2)).status,
        Some(0)
    );
    let weights = bench.folder.path().join("weights.safetensors");
    let mut export = perennial();
    export.args([
        "checkpoint",
        "export",
        "exact",
        "--store",
        &bench.store("store"),
        "--out",
    ]);
    assert!(export.arg(&weights).status().unwrap().success());
    let (endpoint, _server) = serve_s3(&bench.folder.path().join("s3"), "secret");
    let (local, url) = (bench.folder.path().join("pack"), "s3://bucket/pictures");
    packed(&bench.data, local.to_str().unwrap());
    let variables = s3_variables(&endpoint, "secret");
    assert_eq!(run(pack(&bench.data, url).envs(&variables)).status, Some(0));

    let ask = |command: &[&str], data: &Path| {
        let mut ask = perennial();
        ask.arg("--json").args(command);
        ask.envs(&variables)
            .env("XDG_CACHE_HOME", bench.folder.path());
        let run = run(ask.arg(data));
        assert_eq!(run.status, Some(0), "{run:?}");
        run.events
    };
    let weights = weights.to_str().unwrap();
    let folder = bench.data.as_path();
    for pack in [local.as_path(), Path::new(url)] {
        let evaluate = ["evaluate", "--weights", weights, "--data"];
        assert_eq!(ask(&evaluate, pack), ask(&evaluate, folder));

        let predict = ["predict", "--weights", weights, "--logits"];
        let (of_pack, of_folder) = (ask(&predict, pack), ask(&predict, folder));
        assert_eq!(of_pack.len(), 240);
        for (one, other) in of_pack.iter().zip(&of_folder) {
            let name = |event: &Value, root: &Path| {
                let path = event["path"].as_str().unwrap();
                path.strip_prefix(root.to_str().unwrap())
                    .unwrap()
                    .to_string()
            };
            assert_eq!(name(one, pack), name(other, folder));
            assert_eq!(one["logits"], other["logits"]);
        }

        let stats = ["data", "stats"];
        let (mut of_pack, of_folder) = (ask(&stats, pack), ask(&stats, folder));
        of_pack[0]["dir"] = of_folder[0]["dir"].clone();
        assert_eq!(of_pack, of_folder);
    }
}

fn first_class(dir: &Path) -> PathBuf {
    let classes = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    classes.min().expect("there are classes")
}

fn made_up(folder: &Path) -> PathBuf {
    let dir = folder.join("made-up");
    let mut synth = perennial();
    synth.args(["data", "synth"]).arg(&dir);
    synth.args(["--classes", "12", "--per-class", "20", "--size", "64"]);
    assert!(synth.status().unwrap().success());
    dir
}
