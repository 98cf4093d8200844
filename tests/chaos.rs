//! `perennial chaos` brings its faults about, and fails when it cannot.

mod support;

use std::process::Command;

use support::{JOB, perennial, run};
use tempfile::TempDir;

const KINDS: [&str; 5] = ["kill", "stop", "partition", "coordinator", "store"];

/// `perennial --json chaos` over made-up pictures, with so many epochs of them.
fn chaos(folder: &TempDir, epochs: u32, options: &[&str]) -> Command {
    let pictures = folder.path().join("pictures");
    let made = perennial()
        .args(["data", "synth"])
        .arg(&pictures)
        .args(["--classes", "4", "--per-class", "50", "--size", "48"])
        .status()
        .unwrap();
    assert!(made.success());
    let job = folder.path().join("job.toml");
    std::fs::write(&job, JOB).unwrap();
    let mut command = perennial();
    command
        .args(["--json", "chaos"])
        .arg(&job)
        .arg("--data")
        .arg(&pictures)
        .arg("--store")
        .arg(folder.path().join("store"))
        .args(["--threads", "1"])
        .args(["--set", &format!("train.epochs={epochs}")])
        .args(options);
    command
}

#[test]
fn one_fault_of_each_kind_happens_and_the_weights_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let options = ["--every", "2s", "--count", "5", "--seed", "1"];
    let done = run(&mut chaos(&folder, EPOCHS, &options));
    assert_eq!(done.status, Some(0), "{done:?}");
    assert_eq!(done.events.len(), 1, "{done:?}");
    let outcome = &done.events[0];
    for (row, kind) in outcome["faults"].as_array().unwrap().iter().zip(KINDS) {
        assert_eq!(row["fault"], kind);
        assert_eq!((&row["planned"], &row["happened"]), (&1.into(), &1.into()));
        assert_eq!(row["recovery"]["count"], 1, "{outcome}");
        let noticed = if kind == "store" { 0 } else { 1 };
        assert_eq!(row["detection"]["count"].as_u64().unwrap_or(0), noticed);
    }
    assert_eq!(outcome["same_weights"], true);
    assert_eq!(outcome["disturbed"], outcome["undisturbed"]);
    assert_eq!(outcome["account"]["lost"], 0);
    assert_eq!(outcome["account"]["repeated"], 0);
    // Somebody was always left who had the replica.
    assert_eq!(outcome["computed_again"]["from_checkpoint"], 0);
}

/// Enough for the faults of the test above and for what follows on them.
const EPOCHS: u32 = 20;

#[test]
fn a_planned_fault_that_cannot_happen_any_more_makes_it_fail() {
    let folder = tempfile::tempdir().unwrap();
    let options = ["--faults", "kill", "--every", "600s", "--count", "1"];
    let done = run(&mut chaos(&folder, 1, &options));
    assert_eq!(done.status, Some(1), "{done:?}");
    assert!(
        done.stderr
            .contains("1 of 1 planned faults of the kind `kill` did not happen"),
        "{done:?}"
    );
    let outcome = &done.events[0];
    assert_eq!(outcome["faults"][0]["happened"], 0);
    assert_eq!(outcome["same_weights"], true);
}
