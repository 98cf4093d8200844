//! What goes wrong with a job's past or its start: one sentence that names what is at fault, and nothing
//! half-written.

mod support;

use std::path::{Path, PathBuf};

use support::{Bench, JOB, Run, run};

/// A job of so many epochs.
fn bench_of(epochs: u32) -> Bench {
    let job = JOB.replace("epochs = 2", &format!("epochs = {epochs}"));
    Bench::new(&job.replace("warmup_epochs = 1", ""))
}

fn trained(bench: &Bench, options: &[&str]) -> Run {
    run(bench.train(&bench.store("store"), 1, 2).args(options))
}

/// The newest checkpoint's files.
fn newest_checkpoint(bench: &Bench) -> PathBuf {
    let folder = bench.folder.path().join("store/exact/checkpoints");
    let mut steps: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    steps.sort();
    steps.pop().expect("there is a checkpoint")
}

/// The one sentence on stderr.
fn sentence(run: &Run) -> &str {
    assert_eq!(run.status, Some(1), "{run:?}");
    let errors: Vec<&str> = run
        .stderr
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{}", run.stderr);
    errors[0]
}

fn assert_names(run: &Run, words: &[&str]) {
    let sentence = sentence(run);
    for word in words {
        assert!(sentence.contains(word), "`{word}` is not in: {sentence}");
    }
}

fn file_of(checkpoint: &Path, kind: &str) -> PathBuf {
    let mut files = std::fs::read_dir(checkpoint)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .find(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with(kind)
        })
        .expect("the part is there")
}

#[test]
fn a_checkpoint_that_was_damaged_or_belongs_to_another_job_is_not_gone_on_from() {
    let bench = bench_of(3);
    // Stopped before its end, so that there is something to go on with.
    let mut stopped = support::Running::start(&mut bench.train(&bench.store("store"), 1, 2));
    stopped.wait_for(|event| event["event"] == "checkpoint");
    support::signal(stopped.child.id(), "INT");
    let stopped = stopped.finish();
    assert_eq!(stopped.status, Some(130), "{stopped:?}");

    assert_names(&trained(&bench, &[]), &["exact", "--resume"]);
    let other = trained(
        &bench,
        &[
            "--resume",
            "--set",
            "train.batch_size=23",
            "--set",
            "mix.prob=0.5",
        ],
    );
    assert_names(&other, &["train.batch_size", "23", "22", "mix.prob"]);

    let part = file_of(&newest_checkpoint(&bench), "optimizer");
    let bytes = std::fs::read(&part).unwrap();
    let name = part.file_name().unwrap().to_str().unwrap();
    std::fs::write(&part, &bytes[..bytes.len() / 2]).unwrap();
    assert_names(&trained(&bench, &["--resume"]), &[name]);
    let mut flipped = bytes.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    std::fs::write(&part, &flipped).unwrap();
    assert_names(&trained(&bench, &["--resume"]), &[name]);
    std::fs::remove_file(&part).unwrap();
    assert_names(&trained(&bench, &["--resume"]), &[name]);
    std::fs::write(&part, &bytes).unwrap();
    assert_eq!(trained(&bench, &["--resume"]).status, Some(0));
    assert_names(&trained(&bench, &["--resume"]), &["finished"]);
    // Also of a job that is over, what must not change is named.
    let other = trained(&bench, &["--resume", "--set", "train.batch_size=44"]);
    assert_names(&other, &["another job", "train.batch_size", "44", "22"]);
}

#[test]
fn weights_of_another_network_are_refused_with_names_and_shapes() {
    let bench = bench_of(1);
    let wrong = bench.folder.path().join("wrong.safetensors");
    std::fs::write(&wrong, b"not a weights file").unwrap();
    let path = wrong.to_str().unwrap();
    assert_names(
        &trained(&bench, &["--set", &format!("model.weights={path}")]),
        &["wrong.safetensors"],
    );

    assert_eq!(trained(&bench, &["--set", "name=first"]).status, Some(0));
    let exported = bench.folder.path().join("first.safetensors");
    let status = support::perennial()
        .args(["checkpoint", "export", "first", "--store"])
        .arg(bench.store("store"))
        .arg("--out")
        .arg(&exported)
        .status()
        .unwrap();
    assert!(status.success());
    let weights = format!("model.weights={}", exported.display());
    let other = trained(
        &bench,
        &[
            "--set",
            "name=second",
            "--set",
            "model.name=casvit_s",
            "--set",
            &weights,
        ],
    );
    assert_names(
        &other,
        &[
            "first.safetensors",
            "missing",
            "another shape",
            "network.0.2",
        ],
    );
    // The same network takes them up, and learns something else than from a random start.
    let continued = trained(&bench, &["--set", "name=third", "--set", &weights]);
    let fresh = trained(&bench, &["--set", "name=fourth"]);
    assert_ne!(continued.hashes(), fresh.hashes());
}

#[test]
fn a_broken_picture_ends_the_run_or_is_left_out_as_the_job_says() {
    let bench = bench_of(1);
    let class = std::fs::read_dir(&bench.data)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::write(class.join("broken.jpg"), b"\xff\xd8\xff\xe0 cut").unwrap();
    assert_names(&trained(&bench, &[]), &["broken.jpg"]);
    let skipping = trained(
        &bench,
        &["--on-bad-image", "skip", "--set", "name=skipping"],
    );
    assert_eq!(skipping.events("job")[0]["skipped"], 1);
    assert_eq!(skipping.status, Some(0));
}
