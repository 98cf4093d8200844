//! `perennial chaos` brings its faults about, and fails when it cannot.

mod support;

use std::path::{Path, PathBuf};

use support::{Bench, JOB, Run, perennial, run};

const KINDS: [&str; 5] = ["kill", "stop", "partition", "coordinator", "store"];

/// Seconds of undisturbed training that leave time for one fault of each kind and what follows on it.
const SECONDS: f64 = 30.0;

/// A small job on made-up pictures.
struct Trial(Bench);

impl Trial {
    fn new() -> Self {
        Self(Bench::with(made_up, JOB))
    }

    /// `perennial --json chaos` with so many epochs.
    fn chaos(&self, epochs: u32, options: &[&str]) -> Run {
        let mut command = perennial();
        command
            .args(["--json", "chaos"])
            .arg(&self.0.job)
            .arg("--data")
            .arg(&self.0.data)
            .args(["--store", &self.0.store("store"), "--threads", "1"])
            .args(["--set", &format!("train.epochs={epochs}")])
            .args(options);
        run(&mut command)
    }

    /// Epochs of three workers on this machine that take about so many seconds.
    fn epochs_for(&self, seconds: f64) -> u32 {
        let measured = run(&mut self.0.train(&self.0.store("measured"), 3, 1));
        let last = measured.events("epoch").last().unwrap()["seconds"].as_f64();
        (seconds / last.unwrap()).ceil() as u32
    }
}

fn made_up(folder: &Path) -> PathBuf {
    let data = folder.join("pictures");
    let made = perennial()
        .args(["data", "synth"])
        .arg(&data)
        .args(["--classes", "4", "--per-class", "50", "--size", "48"])
        .status()
        .unwrap();
    assert!(made.success());
    data
}

#[test]
fn one_fault_of_each_kind_happens_and_the_weights_are_the_same() {
    let trial = Trial::new();
    // What each process said stays there, for whoever reads of a failure.
    let logs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos");
    let _ = std::fs::remove_dir_all(&logs);
    let mut options = vec!["--every", "2s", "--count", "5", "--seed", "1"];
    options.extend(["--logs", logs.to_str().unwrap()]);
    let done = trial.chaos(trial.epochs_for(SECONDS), &options);
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

#[test]
fn a_planned_fault_that_cannot_happen_any_more_makes_it_fail() {
    let trial = Trial::new();
    let mut options = vec!["--faults", "kill", "--every", "600s", "--count", "1"];
    options.extend(["--set", "schedule.warmup_epochs=0"]);
    let done = trial.chaos(1, &options);
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
