//! Doctored manifests and reports.

use perennial_report::Report;

use super::job::{manifest, root};
use super::*;

#[test]
fn a_manifest_of_another_job_step_data_or_generation_is_named() {
    finds(
        |stored| manifest_of(stored, 1).job = "other".into(),
        &[(
            "checkpoint/6",
            "it is of job `other` step 6, expected job `tiny` step 6",
        )],
    );
    finds(
        |stored| *manifest_of(stored, 1) = manifest(3, 1),
        &[
            (
                "checkpoint/6",
                "it is of job `tiny` step 3, expected job `tiny` step 6",
            ),
            (
                "report/6",
                "its weights are w6, those of checkpoint 6 are w3",
            ),
            (
                "report/6",
                "its averaged weights are e6, those of checkpoint 6 are e3",
            ),
        ],
    );
    finds(
        |stored| manifest_of(stored, 1).spec.seed = 1,
        &[("checkpoint/6", "its `seed` is 1, that of the job is 42")],
    );
    finds(
        |stored| manifest_of(stored, 1).numerics = "m".into(),
        &[(
            "checkpoint/6",
            "its numerics class is `m`, in the log it is `n`",
        )],
    );
    finds(
        |stored| manifest_of(stored, 1).generation = 9,
        &[(
            "checkpoint/6",
            "it was made by generation 9, which the log does not have",
        )],
    );
    finds(
        |stored| drop(manifest_of(stored, 1).parts.pop()),
        &[("checkpoint/6", "it names the parts [\"ema\", \"model\"]")],
    );
    finds(
        |stored| manifest_of(stored, 1).cursor.epoch = 1,
        &[
            (
                "checkpoint/6",
                "its cursor epoch 1 step 0 stands after 3 steps",
            ),
            ("checkpoint/6", "its history has 2 epochs where 1 are done"),
        ],
    );
}

#[test]
fn a_manifest_whose_history_or_sums_are_others_is_named() {
    finds(
        |stored| manifest_of(stored, 1).ledger_head = None,
        &[("checkpoint/6", "its ledger root after step 6 is missing")],
    );
    finds(
        |stored| manifest_of(stored, 1).history[0]["train_loss"] = 0.5.into(),
        &[(
            "checkpoint/6",
            "its history has `train_loss` 0.5 for epoch 1",
        )],
    );
    finds(
        |stored| manifest_of(stored, 1).progress["samples"] = 4.into(),
        &[(
            "checkpoint/6",
            "its progress counts `samples` 4, the log's steps of this epoch give 0",
        )],
    );
    finds(
        |stored| manifest_of(stored, 1).progress["loss_sum"] = 4.5.into(),
        &[("checkpoint/6", "its progress has the sum of losses 4.5")],
    );
    finds(
        |stored| manifest_of(stored, 1).metric = Some(0.75),
        &[(
            "checkpoint/6",
            "its `metric` is 0.75, the last evaluation in the log gives 0.5",
        )],
    );
}

#[test]
fn a_report_of_another_ledger_or_other_weights_is_named() {
    fn report(stored: &mut Stored) -> &mut Report {
        stored.reports[0].content.as_mut().unwrap()
    }
    finds(
        |stored| report(stored).ledger_root = Some(root(5)),
        &[("report/6", "its ledger root is")],
    );
    finds(
        |stored| report(stored).ledger_root = None,
        &[("report/6", "its ledger root is missing, the log gives")],
    );
    finds(
        |stored| report(stored).weights_sha256 = Some("w".into()),
        &[(
            "report/6",
            "its weights are w, those of checkpoint 6 are w6",
        )],
    );
    finds(
        |stored| report(stored).epochs[0].val_top1 = 0.75,
        &[(
            "report/6",
            "it has `val_top1` 0.75 for epoch 1, the log has 0.5",
        )],
    );
    finds(
        |stored| report(stored).epochs_done = 1,
        &[(
            "report/6",
            "it tells of 1 epochs in 2 records, which is not step 6 of 3 an epoch",
        )],
    );
}

#[test]
fn a_history_that_cannot_be_read_and_a_report_of_other_generations_are_named() {
    finds(
        |stored| manifest_of(stored, 1).history = "x".into(),
        &[("checkpoint/6", "its history cannot be read: ")],
    );
    finds(
        |stored| manifest_of(stored, 1).progress = "x".into(),
        &[("checkpoint/6", "its progress cannot be read: ")],
    );
    finds(
        |stored| {
            let report = stored.reports[0].content.as_mut().unwrap();
            report.generations = 7;
        },
        &[("report/6", "it counts 7 generations, the log has 3")],
    );
}
