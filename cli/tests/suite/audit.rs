use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Kept, Ran, run, workshop, write};

/// A folder in which job `tiny` was trained by two workers for two epochs of three steps.
fn trained() -> TempDir {
    let folder = workshop();
    let job = std::fs::read_to_string(folder.path().join("job.toml")).unwrap();
    write(
        folder.path(),
        "job.toml",
        &job.replace("epochs = 1", "epochs = 2"),
    );
    let line = "train job.toml --store store --workers 2 --threads 1";
    run(folder.path(), &line.split(' ').collect::<Vec<_>>()).ok();
    folder
}

/// A copy of the trained store, to doctor.
struct Copy<'a> {
    folder: &'a Path,
    store: TempDir,
}

// === impl Copy ===

impl<'a> Copy<'a> {
    fn of(folder: &'a Path) -> Self {
        let store = tempfile::tempdir_in(folder).unwrap();
        copy(&folder.join("store"), store.path());
        Self { folder, store }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.store.path().join("tiny").join(path)
    }

    fn edit(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let path = self.path(path);
        let mut value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        std::fs::write(&path, value.to_string()).unwrap();
    }

    /// The positions of log entries of this kind.
    fn entries(&self, kind: &str) -> Vec<String> {
        let mut paths: Vec<String> = std::fs::read_dir(self.path("log"))
            .unwrap()
            .map(|entry| format!("log/{}", entry.unwrap().file_name().to_str().unwrap()))
            .filter(|path| self.json(path)["entry"] == kind)
            .collect();
        paths.sort();
        paths
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.path(path)).unwrap()).unwrap()
    }

    fn audit(&self, options: &[&str]) -> Ran {
        let store = self.store.path().to_str().unwrap();
        let mut arguments = vec!["audit", "tiny", "--store", store];
        arguments.extend(options);
        run(self.folder, &arguments)
    }

    /// The checkpoint of step 6 says that its part of this kind is the file of step 3.
    fn take_part_of_step_3(&self, kind: &str) {
        let name = format!("{kind}-00001-of-00001.safetensors");
        std::fs::copy(
            self.path(CHECKPOINT_3).with_file_name(&name),
            self.path(CHECKPOINT_6).with_file_name(&name),
        )
        .unwrap();
        let other = self.json(CHECKPOINT_3);
        self.edit(CHECKPOINT_6, |manifest| {
            let of = |manifest: &Value| {
                let parts = manifest["parts"].as_array().unwrap();
                parts.iter().position(|part| part["kind"] == kind).unwrap()
            };
            let place = of(manifest);
            for key in ["bytes", "sha256"] {
                manifest["parts"][place][key] = other["parts"][of(&other)][key].clone();
            }
            if kind == "model" {
                manifest["weights_sha256"] = other["weights_sha256"].clone();
            }
        });
    }
}

const CHECKPOINT_3: &str = "checkpoints/000000000003/MANIFEST.json";
const CHECKPOINT_6: &str = "checkpoints/000000000006/MANIFEST.json";
const MODEL_6: &str = "checkpoints/000000000006/model-00001-of-00001.safetensors";
const REPORT_6: &str = "reports/000000000006/report.json";

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Asserts that the audit of a doctored copy fails and finds these, each an object and a piece of a sentence.
#[track_caller]
fn finds(folder: &TempDir, doctor: impl FnOnce(&Copy), expected: &[(&str, &str)]) {
    let copy = Copy::of(folder.path());
    doctor(&copy);
    let ran = copy.audit(&["--json"]);
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    let findings = answer["findings"].as_array().unwrap();
    assert_eq!(answer["sound"], false);
    for (object, message) in expected {
        let fits = |finding: &Value| {
            finding["object"] == format!("tiny/{object}")
                && finding["message"].as_str().unwrap().contains(message)
        };
        assert!(
            findings.iter().any(fits),
            "{object}: {message} is not in {findings:#?}"
        );
    }
    let sentence = ran.refused(1);
    assert!(
        sentence.starts_with("job `tiny` is not what its ledger says: "),
        "{sentence}"
    );
}

#[test]
fn a_trained_job_is_sound_and_whatever_is_doctored_is_found_and_named() {
    let folder = trained();
    let whole = Copy::of(folder.path());
    let text = whole.audit(&[]).ok();
    for line in [
        "generations      1",
        "epochs           2 of 2",
        "steps            6 of 6, finished",
        "samples applied  42",
        "confirmed        6 steps by all members",
        "recomputed       no step",
        "checkpoints      2 verified: all that are there; retention removes older ones",
        "every sample was applied exactly once in each epoch",
    ] {
        assert!(
            text.lines().any(|there| there == line),
            "{line} is not in\n{text}"
        );
    }
    let answer = whole.audit(&["--json"]).json();
    assert_eq!(answer["sound"], true);
    assert_eq!(answer["samples_applied"], 42);
    assert_eq!(answer["ledger_root"], whole.json(REPORT_6)["ledger_root"]);

    let steps = whole.entries("steps");
    let last = steps.last().unwrap().as_str();
    let generation = whole.entries("generation").remove(0);
    let epoch = whole.entries("epoch").remove(1);
    let at = |path: &str| whole.json(path)["steps"].as_array().unwrap().len() - 1;
    let end = at(last);

    // Whatever reads and writes the floats of an entry changes no proof.
    let rewritten = Copy::of(folder.path());
    for path in [&epoch, CHECKPOINT_6, REPORT_6, last] {
        rewritten.edit(path, |_| {});
    }
    rewritten.audit(&[]).ok();

    let changed_root = "was changed";
    finds(
        &folder,
        |copy| copy.edit(last, |entry| entry["steps"][end]["loss_sum"] = "1.5".into()),
        &[
            (&epoch, "the record of epoch 2 has `train_loss`"),
            (CHECKPOINT_6, changed_root),
            (REPORT_6, "its ledger root is"),
        ],
    );
    finds(
        &folder,
        |copy| {
            copy.edit(last, |entry| {
                entry["steps"][end]["replica_hash"] = "0123456789abcdef".into()
            })
        },
        &[
            (CHECKPOINT_6, changed_root),
            (CHECKPOINT_6, "the ledger has 0123456789abcdef after step 6"),
            (REPORT_6, "its ledger root is"),
        ],
    );
    finds(
        &folder,
        |copy| copy.edit(last, |entry| entry["steps"][end]["confirmed"] = json!([])),
        &[(last, "epoch 1 step 2 was confirmed by the ranks []")],
    );
    finds(
        &folder,
        |copy| {
            copy.edit(last, |entry| {
                let again = entry["steps"][end].clone();
                entry["steps"].as_array_mut().unwrap().push(again);
            });
        },
        &[
            (last, "epoch 1 step 2 is applied a second time"),
            ("log", "epoch 1 applied 5 of its 21 samples more than once"),
        ],
    );
    finds(
        &folder,
        |copy| {
            copy.edit(last, |entry| {
                entry["steps"].as_array_mut().unwrap().pop();
            });
        },
        &[
            ("log", "epoch 1 misses 5 of its 21 samples"),
            (CHECKPOINT_6, "the log has only the first 5 steps"),
        ],
    );
    finds(
        &folder,
        |copy| {
            // The two steps may stand in different entries.
            let mut all: Vec<Value> = Vec::new();
            let entries = copy.entries("steps");
            entries
                .iter()
                .for_each(|path| all.extend(copy.json(path)["steps"].as_array().unwrap().clone()));
            all.swap(0, 1);
            let mut all = all.into_iter();
            for path in entries {
                copy.edit(&path, |entry| {
                    let places = entry["steps"].as_array_mut().unwrap();
                    places
                        .iter_mut()
                        .zip(all.by_ref())
                        .for_each(|(place, step)| *place = step);
                });
            }
        },
        &[(
            &steps[0],
            "epoch 0 step 1 is applied where epoch 0 step 0 is next",
        )],
    );
    finds(
        &folder,
        |copy| std::fs::remove_file(copy.path(last)).unwrap(),
        &[
            (last, "it is missing, though the log goes on to position"),
            (CHECKPOINT_6, "the log has only the first"),
        ],
    );
    finds(
        &folder,
        |copy| {
            let bytes = std::fs::read(copy.path(last)).unwrap();
            std::fs::write(copy.path(last), &bytes[..bytes.len() / 2]).unwrap();
        },
        &[(last, "it cannot be used: ")],
    );
    finds(
        &folder,
        |copy| {
            copy.edit(&generation, |entry| {
                entry["generation"]["members"][1]["slots"]["start"] = 3.into()
            })
        },
        &[
            (&generation, "generation 1 deals slot 2 to nobody"),
            ("log", "epoch 0 misses 5 of its 21 samples"),
        ],
    );
    finds(
        &folder,
        |copy| {
            let mut bytes = std::fs::read(copy.path(MODEL_6)).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(copy.path(MODEL_6), bytes).unwrap();
        },
        &[(MODEL_6, "its SHA-256 is ")],
    );
    finds(
        &folder,
        |copy| {
            let bytes = std::fs::read(copy.path(MODEL_6)).unwrap();
            std::fs::write(copy.path(MODEL_6), &bytes[1..]).unwrap();
        },
        &[(MODEL_6, "bytes, checkpoint 6 says ")],
    );
    finds(
        &folder,
        |copy| std::fs::remove_file(copy.path(MODEL_6)).unwrap(),
        &[(MODEL_6, "it is missing, and checkpoint 6 names it")],
    );
    finds(
        &folder,
        |copy| {
            copy.edit(CHECKPOINT_6, |manifest| {
                manifest["weights_sha256"] = "0".into()
            })
        },
        &[
            (MODEL_6, "checkpoint 6 says 0"),
            (REPORT_6, "those of checkpoint 6 are 0"),
        ],
    );
    finds(
        &folder,
        |copy| copy.take_part_of_step_3("model"),
        &[
            (CHECKPOINT_6, "the replica in its parts has the hash "),
            (REPORT_6, "its weights are "),
        ],
    );
    finds(
        &folder,
        |copy| copy.take_part_of_step_3("optimizer"),
        &[(CHECKPOINT_6, "its optimizer has taken 3 steps instead of 6")],
    );
    finds(
        &folder,
        |copy| copy.edit(CHECKPOINT_6, |manifest| manifest["job"] = "other".into()),
        &[(CHECKPOINT_6, "it is of job `other` step `6`")],
    );
    finds(
        &folder,
        |copy| {
            std::fs::copy(copy.path(CHECKPOINT_3), copy.path(CHECKPOINT_6)).unwrap();
        },
        &[(CHECKPOINT_6, "it is of job `tiny` step `3`")],
    );
    finds(
        &folder,
        |copy| {
            copy.edit(CHECKPOINT_6, |manifest| {
                manifest["ledger_head"] = "0".into()
            })
        },
        &[(
            CHECKPOINT_6,
            "its ledger root after step 6 is 0, the log gives ",
        )],
    );
    finds(
        &folder,
        |copy| copy.edit(REPORT_6, |report| report["ledger_root"] = "0".into()),
        &[(REPORT_6, "its ledger root is 0, the log gives ")],
    );

    // Killed after the first epoch.
    let cut = Copy::of(folder.path());
    let closed = cut.path(&cut.entries("epoch")[0]);
    for entry in std::fs::read_dir(cut.path("log")).unwrap() {
        let path = entry.unwrap().path();
        if path > closed {
            std::fs::remove_file(path).unwrap();
        }
    }
    std::fs::remove_file(cut.path(CHECKPOINT_6)).unwrap();
    std::fs::remove_dir_all(cut.path("reports")).unwrap();
    let text = cut.audit(&[]).ok();
    for line in [
        "epochs           1 of 2",
        "steps            3 of 6, not ended: it is running, or was cut off",
    ] {
        assert!(text.lines().any(|there| there == line), "{text}");
    }
}

#[test]
fn findings_are_a_line_each_for_people() {
    let kept = Kept::with_checkpoints();
    let entry = json!({"term": 1, "writer": "c1", "entry": "term", "address": "a", "version": "0"});
    kept.block_on(kept.job.append_log(0, &entry)).unwrap();
    let ran = kept.run("audit tiny");
    assert!(
        ran.stdout.lines().any(|line| line
            == "tiny/checkpoints/000000000030/MANIFEST.json: it is of step 30, but the log has only the first 0 steps without a gap"),
        "{ran:?}"
    );
    ran.refused(1);
}

#[test]
fn a_job_without_a_ledger_is_said_to_have_none() {
    let kept = Kept::with_checkpoints();
    let before = "job `tiny` has no ledger: it was trained by a version that did not keep one";
    let sentence = kept.run("audit tiny").refused(1);
    assert!(sentence.starts_with(before), "{sentence}");
    let entry = json!({"entry": "generation", "generation": {"id": 1}});
    kept.block_on(kept.job.append_log(0, &entry)).unwrap();
    let sentence = kept.run("audit tiny").refused(1);
    assert!(sentence.starts_with(before), "{sentence}");
    let sentence = Kept::empty().run("audit tiny").refused(1);
    assert!(
        sentence.starts_with("job `tiny` was never started"),
        "{sentence}"
    );
}
