use std::ops::Range;

use perennial_plan::ledger::{LedgerRoot, StepRecord};
use perennial_plan::{Cursor, Generation, Member, Spec};
use perennial_report::{EpochRecord, Evaluation, Report};
use perennial_store::{FORMAT_VERSION, Manifest, Part, PartKind};

use super::{Audit, Object, Stored};
use crate::log::{DataFacts, LogEntry, LogRecord};
use crate::machine::{Evaluations, Progress, ReportInput};

/// Ten samples in batches of four: three steps an epoch, two epochs, three slots.
fn spec() -> Spec {
    let mut spec = Spec {
        name: "tiny".into(),
        ..Spec::default()
    };
    spec.data.dir = "/pictures".into();
    spec.train.epochs = 2;
    spec.train.batch_size = 4;
    spec.train.slots = 3;
    spec
}

fn data() -> DataFacts {
    DataFacts {
        fingerprint: "f".into(),
        numerics: "n".into(),
        train_samples: 10,
        val_samples: 2,
        classes: vec!["maple".into(), "oak".into()],
        skipped: 0,
        parameters: 3,
    }
}

fn generation(
    id: u64,
    members: &[(&str, Range<u32>)],
    start: (u32, u32),
    checkpoint: Option<u64>,
) -> LogEntry {
    let member = |(worker, slots): &(&str, Range<u32>)| Member {
        worker: worker.to_string(),
        incarnation: 1,
        address: String::new(),
        slots: slots.clone(),
    };
    LogEntry::Generation {
        generation: Generation {
            id,
            members: members.iter().map(member).collect(),
            start: Cursor {
                epoch: start.0,
                step: start.1,
            },
            checkpoint,
        },
        reason: String::new(),
        data: data(),
    }
}

fn step(generation: u64, epoch: u32, step: u32, confirmed: &[u32]) -> StepRecord {
    let at = u64::from(3 * epoch + step);
    StepRecord {
        epoch,
        step,
        generation,
        samples: [4, 4, 2][step as usize],
        loss_sum: 0.1 + at as f64,
        top1: 1,
        top5: 2,
        learning_rate: 1e-3,
        grad_norm: 1.0 / 3.0,
        replica_hash: 0x1000 + at,
        seconds: 0.5,
        confirmed: confirmed.to_vec(),
    }
}

fn evaluation() -> Evaluation {
    Evaluation {
        samples: 2,
        loss: 0.7,
        top1: 0.5,
        top5: 1.0,
        k: 2,
        confusion: vec![vec![1, 0], vec![1, 0]],
        mistakes: Vec::new(),
    }
}

fn epoch_record(epoch: u32) -> EpochRecord {
    let steps: Vec<StepRecord> = (0..3).map(|at| step(1, epoch - 1, at, &[])).collect();
    EpochRecord {
        epoch,
        train_loss: steps.iter().map(|step| step.loss_sum).sum::<f64>() / 10.0,
        train_top1: 0.3,
        learning_rate: 1e-3,
        grad_norm: 1.0 / 3.0,
        val_loss: 0.7,
        val_top1: 0.5,
        val_top5: 1.0,
        ema_loss: Some(0.7),
        ema_top1: Some(0.5),
        ema_top5: Some(1.0),
        images_per_second: 1.0,
        seconds: 1.5,
        workers: 2,
    }
}

fn epoch(epoch: u32) -> LogEntry {
    LogEntry::Epoch {
        record: Box::new(epoch_record(epoch)),
        evaluations: Box::new(evaluations()),
    }
}

fn evaluations() -> Evaluations {
    Evaluations {
        raw: evaluation(),
        ema: Some(evaluation()),
    }
}

fn term() -> LogEntry {
    LogEntry::Term {
        address: "127.0.0.1:1".into(),
        version: "0".into(),
    }
}

fn steps(steps: &[StepRecord]) -> LogEntry {
    LogEntry::Steps {
        steps: steps.to_vec(),
    }
}

fn root(count: u64) -> String {
    let mut root = LedgerRoot::default();
    for at in 0..count as u32 {
        root.push(&step(1, at / 3, at % 3, &[]));
    }
    root.root()
}

fn manifest(global_step: u64, epochs: u32) -> Manifest {
    let part = |kind: PartKind| Part {
        kind,
        path: format!("checkpoints/{global_step:012}/{}", kind.as_str()),
        bytes: 1,
        sha256: "s".into(),
    };
    let history: Vec<EpochRecord> = (1..=epochs).map(epoch_record).collect();
    Manifest {
        format_version: FORMAT_VERSION,
        job: "tiny".into(),
        global_step,
        cursor: Cursor {
            epoch: epochs,
            step: (global_step % 3) as u32,
        },
        created: "2026-01-02T03:04:05Z".into(),
        spec: spec(),
        spec_identity: spec().identity_hash(),
        data_fingerprint: "f".into(),
        numerics: "n".into(),
        version: "0".into(),
        parts: [PartKind::Model, PartKind::Ema, PartKind::Optimizer]
            .map(part)
            .to_vec(),
        weights_sha256: format!("w{global_step}"),
        ema_sha256: Some(format!("e{global_step}")),
        history: serde_json::to_value(history).unwrap(),
        progress: serde_json::to_value(Progress::default()).unwrap(),
        metric: Some(0.5),
        generation: 1,
        ledger_head: Some(root(global_step)),
    }
}

fn report() -> Report {
    let input = ReportInput {
        finished: true,
        epochs_done: 2,
        global_step: 6,
        data: data(),
        workers: 2,
        generation: 3,
        history: vec![epoch_record(1), epoch_record(2)],
        evaluations: evaluations(),
        weights_sha256: Some("w6".into()),
        ema_sha256: Some("e6".into()),
        ledger_root: Some(root(6)),
    };
    crate::build_report(&spec(), &input, "2026-01-02T03:04:05Z".into(), None)
}

/// A finished job. A member died after step 0 of epoch 1; then all were gone, and another coordinator went
/// back to the checkpoint at the start of that epoch.
fn stored() -> Stored {
    let both = [("w1", 0..2), ("w2", 2..3)];
    let entries = [
        (1, term()),
        (1, generation(1, &both, (0, 0), None)),
        (1, steps(&[step(1, 0, 0, &[0, 1]), step(1, 0, 1, &[1, 0])])),
        (1, steps(&[step(1, 0, 2, &[0, 1])])),
        (1, epoch(1)),
        (1, steps(&[step(1, 1, 0, &[0])])),
        (1, generation(2, &[("w1", 0..3)], (1, 1), None)),
        (1, steps(&[step(2, 1, 1, &[0])])),
        (2, term()),
        (
            2,
            generation(3, &[("w3", 0..1), ("w4", 1..3)], (1, 0), Some(3)),
        ),
        (2, steps(&[step(3, 1, 0, &[0, 1]), step(3, 1, 1, &[0, 1])])),
        (2, steps(&[step(3, 1, 2, &[0, 1])])),
        (2, epoch(2)),
        (
            2,
            LogEntry::Ended {
                how: "finished".into(),
                global_step: 6,
            },
        ),
    ];
    let object = |(position, (term, entry)): (u64, (u64, LogEntry))| Object {
        path: format!("log/{position}"),
        number: position,
        content: Ok(LogRecord {
            term,
            writer: format!("c{term}"),
            entry,
        }),
    };
    let checkpoint = |(step, epochs)| Object {
        path: format!("checkpoint/{step}"),
        number: step,
        content: Ok(manifest(step, epochs)),
    };
    Stored {
        spec: spec(),
        log: (0..).zip(entries).map(object).collect(),
        manifests: [(3, 1), (6, 2)].map(checkpoint).to_vec(),
        reports: vec![Object {
            path: "report/6".into(),
            number: 6,
            content: Ok(report()),
        }],
    }
}

fn entry(stored: &mut Stored, position: usize) -> &mut LogRecord {
    stored.log[position].content.as_mut().unwrap()
}

fn steps_at(stored: &mut Stored, position: usize) -> &mut Vec<StepRecord> {
    match &mut entry(stored, position).entry {
        LogEntry::Steps { steps } => steps,
        other => panic!("no steps: {other:?}"),
    }
}

fn generation_at(stored: &mut Stored, position: usize) -> &mut Generation {
    match &mut entry(stored, position).entry {
        LogEntry::Generation { generation, .. } => generation,
        other => panic!("no generation: {other:?}"),
    }
}

fn manifest_of(stored: &mut Stored, index: usize) -> &mut Manifest {
    stored.manifests[index].content.as_mut().unwrap()
}

/// Asserts that exactly these are found in the doctored job: the object, and a piece of the sentence.
#[track_caller]
fn finds(doctor: impl FnOnce(&mut Stored), expected: &[(&str, &str)]) {
    let mut stored = stored();
    doctor(&mut stored);
    let findings = Audit::of(&stored).findings;
    let fits = findings.len() == expected.len()
        && findings
            .iter()
            .zip(expected)
            .all(|(finding, (object, message))| {
                finding.object == *object && finding.message.contains(message)
            });
    assert!(fits, "found {findings:#?}\nexpected {expected:#?}");
}

/// What a changed ledger also breaks: the manifest of step 6 and the report.
const ROOTS_OF_6: [(&str, &str); 2] = [
    (
        "checkpoint/6",
        "one of steps 4 to 6 in the log, or the manifest, was changed",
    ),
    ("report/6", "its ledger root is"),
];

fn with_roots<'a>(first: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    first.iter().copied().chain(ROOTS_OF_6).collect()
}

#[test]
fn a_job_with_deaths_and_a_second_coordinator_is_sound() {
    let audit = Audit::of(&stored());
    assert_eq!(audit.findings, []);
    let account = &audit.account;
    assert_eq!(
        (account.log_entries, account.terms, account.generations),
        (14, 2, 3)
    );
    assert_eq!(
        (account.epochs, account.steps, account.planned_steps),
        (2, 6, 6)
    );
    assert_eq!(account.samples_applied, 20);
    assert_eq!(account.steps_confirmed_by_all, 6);
    assert_eq!(account.steps_recomputed, 2);
    assert_eq!(account.ended.as_deref(), Some("finished"));
    assert_eq!(account.ledger_root, Some(root(6)));
    assert_eq!(audit.replica_hash(6), Some(0x1005));
}

#[test]
fn a_job_under_way_is_sound_as_far_as_it_goes() {
    for entries in 0..14 {
        let mut stored = stored();
        stored.log.truncate(entries);
        stored.manifests.clear();
        stored.reports.clear();
        assert_eq!(
            Audit::of(&stored).findings,
            [],
            "the first {entries} entries"
        );
    }
}

#[test]
fn steps_that_a_broken_generation_left_count_as_confirmed_by_survivors() {
    let mut stored = stored();
    stored.log.truncate(8);
    stored.manifests.clear();
    stored.reports.clear();
    let account = Audit::of(&stored).account;
    assert_eq!(
        (
            account.steps_confirmed_by_all,
            account.steps_confirmed_by_survivors
        ),
        (4, 1)
    );
}

#[test]
fn a_missing_entry_is_named_and_what_is_lost_with_it() {
    let missing = |stored: &mut Stored| stored.log[11].content = Err("it is missing".into());
    finds(
        missing,
        &[
            ("log/11", "it is missing"),
            ("log", "epoch 1 misses 2 of its 10 samples"),
            ("checkpoint/6", "the log has only the first 5 steps"),
            ("report/6", "none, as steps before are missing"),
        ],
    );
    finds(
        |stored| stored.log[4].content = Err("it is missing".into()),
        &[
            ("log/4", "it is missing"),
            ("checkpoint/3", "its history has epoch 1, the log does not"),
            ("checkpoint/3", "its `metric` is 0.5"),
            ("checkpoint/6", "its history has epoch 1, the log does not"),
            ("report/6", "it has epoch 1, the log does not"),
        ],
    );
}

#[test]
fn a_log_that_lost_its_end_is_behind_its_checkpoints() {
    finds(
        |stored| stored.log.truncate(11),
        &[
            (
                "checkpoint/6",
                "it is of step 6, but the log has only the first 5 steps",
            ),
            ("report/6", "its ledger root is"),
            ("report/6", "it has epoch 2, the log does not"),
        ],
    );
}

#[test]
fn a_changed_number_of_a_step_breaks_the_root_of_the_first_checkpoint_after_it() {
    finds(
        |stored| steps_at(stored, 11)[0].replica_hash ^= 1,
        &ROOTS_OF_6,
    );
    finds(
        |stored| steps_at(stored, 11)[0].learning_rate *= 2.0,
        &with_roots(&[(
            "log/12",
            "`learning_rate` 0.001, its steps in the log give 0.002",
        )]),
    );
    finds(
        |stored| steps_at(stored, 11)[0].loss_sum = 5.2,
        &with_roots(&[("log/12", "the record of epoch 2 has `train_loss`")]),
    );
}

#[test]
fn a_changed_step_before_two_checkpoints_breaks_both() {
    finds(
        |stored| steps_at(stored, 3)[0].replica_hash ^= 1,
        &[
            ("checkpoint/3", "one of steps 1 to 3 in the log"),
            ("checkpoint/6", "one of steps 1 to 6 in the log"),
            ("report/6", "its ledger root is"),
        ],
    );
}

#[test]
fn a_step_that_is_missing_twice_there_or_swapped_is_named() {
    finds(
        |stored| drop(steps_at(stored, 2).remove(1)),
        &[
            (
                "log/3",
                "epoch 0 step 2 is applied where epoch 0 step 1 is next",
            ),
            ("log", "epoch 0 misses 4 of its 10 samples"),
            ("checkpoint/3", "the log has only the first 1 steps"),
            ("checkpoint/6", "the log has only the first 1 steps"),
            ("report/6", "its ledger root is"),
        ],
    );
    finds(
        |stored| {
            let again = steps_at(stored, 2)[0].clone();
            steps_at(stored, 2).insert(1, again);
        },
        &[
            (
                "log/2",
                "epoch 0 step 0 is applied a second time, where epoch 0 step 1 is next",
            ),
            ("log", "epoch 0 applied 4 of its 10 samples more than once"),
        ],
    );
    finds(
        |stored| steps_at(stored, 2).swap(0, 1),
        &[
            (
                "log/2",
                "epoch 0 step 1 is applied where epoch 0 step 0 is next",
            ),
            (
                "log/2",
                "epoch 0 step 0 is applied where epoch 0 step 2 is next",
            ),
        ],
    );
}

#[test]
fn a_step_with_other_samples_than_planned_is_named() {
    finds(
        |stored| steps_at(stored, 11)[0].samples = 3,
        &with_roots(&[
            ("log/11", "epoch 1 step 2 applied 3 samples, the plan has 2"),
            ("log/12", "`train_loss`"),
            ("log/12", "`train_top1`"),
        ]),
    );
}

#[test]
fn slots_that_nobody_or_two_hold_are_named_with_the_samples() {
    finds(
        |stored| generation_at(stored, 9).members[1].slots = 2..3,
        &[
            ("log/9", "generation 3 deals slot 1 to nobody"),
            ("log", "epoch 1 misses 3 of its 10 samples"),
        ],
    );
    finds(
        |stored| generation_at(stored, 9).members[1].slots = 0..3,
        &[
            ("log/9", "generation 3 deals slot 0 to `w3` and `w4`"),
            ("log", "epoch 1 applied 5 of its 10 samples more than once"),
        ],
    );
}

#[test]
fn a_step_that_members_did_not_confirm_is_named_unless_the_generation_broke_there() {
    finds(
        |stored| steps_at(stored, 2)[0].confirmed = vec![1],
        &[(
            "log/2",
            "the replica after epoch 0 step 0 was confirmed by 1 of 2 members of generation 1, which went on",
        )],
    );
    finds(
        |stored| steps_at(stored, 10)[0].confirmed = vec![0, 0],
        &[("log/10", "epoch 1 step 0 was confirmed by the ranks [0, 0]")],
    );
    finds(
        |stored| steps_at(stored, 10)[0].confirmed = vec![0, 2],
        &[(
            "log/10",
            "epoch 1 step 0 was confirmed by the ranks [0, 2], where generation 3 has 2 members",
        )],
    );
    finds(
        |stored| steps_at(stored, 10)[0].confirmed.clear(),
        &[("log/10", "epoch 1 step 0 was confirmed by the ranks []")],
    );
}

#[test]
fn a_step_that_came_out_otherwise_when_it_was_applied_again_is_named() {
    finds(
        |stored| steps_at(stored, 10)[1].replica_hash = 7,
        &[(
            "log/10",
            "epoch 1 step 1 was applied again with another replica hash: 0000000000000007, at position 7 it was 0000000000001004",
        )],
    );
}

#[test]
fn generations_out_of_turn_are_named() {
    finds(
        |stored| generation_at(stored, 6).id = 4,
        &[
            ("log/6", "generation 4 begins where generation 2 is next"),
            (
                "log/7",
                "epoch 1 step 1 is of generation 2, where generation 4 is in force",
            ),
            ("log/9", "generation 3 begins where generation 5 is next"),
        ],
    );
    finds(
        |stored| generation_at(stored, 6).start.step = 2,
        &[
            (
                "log/6",
                "generation 2 begins at epoch 1 step 2 where epoch 1 step 1 is next",
            ),
            (
                "log/7",
                "epoch 1 step 1 is applied where epoch 1 step 2 is next",
            ),
        ],
    );
    finds(
        |stored| generation_at(stored, 9).checkpoint = Some(4),
        &[(
            "log/9",
            "which is after 3 steps, from the checkpoint of step 4",
        )],
    );
    finds(
        |stored| generation_at(stored, 9).checkpoint = None,
        &[(
            "log/9",
            "generation 3 begins at epoch 1 step 0 where epoch 1 step 2 is next",
        )],
    );
}

#[test]
fn entries_by_others_than_the_ruler_are_named() {
    finds(
        |stored| entry(stored, 3).writer = "somebody".into(),
        &[(
            "log/3",
            "the entry is of term 1 by `somebody`, where term 1 by `c1` rules",
        )],
    );
    finds(
        |stored| entry(stored, 10).term = 1,
        &[(
            "log/10",
            "the entry is of term 1 by `c2`, where term 2 by `c2` rules",
        )],
    );
    finds(
        |stored| entry(stored, 8).term = 1,
        &[
            ("log/8", "term 1 begins after term 1"),
            ("log/9", "term 2"),
            ("log/10", "term 2"),
            ("log/11", "term 2"),
            ("log/12", "term 2"),
            ("log/13", "term 2"),
        ],
    );
}

#[test]
fn data_that_changes_under_way_is_named() {
    finds(
        |stored| {
            if let LogEntry::Generation { data, .. } = &mut entry(stored, 9).entry {
                data.fingerprint = "g".into();
            }
        },
        &[("log/9", "all steps are of the same data")],
    );
}

#[test]
fn an_epoch_that_was_not_evaluated_on_all_or_says_otherwise_is_named() {
    finds(
        |stored| {
            if let LogEntry::Epoch { evaluations, .. } = &mut entry(stored, 4).entry {
                evaluations.raw.samples = 1;
            }
        },
        &[(
            "log/4",
            "epoch 1 was evaluated on 1 samples with 2 answers, the data has 2",
        )],
    );
    finds(
        |stored| {
            if let LogEntry::Epoch { record, .. } = &mut entry(stored, 12).entry {
                record.val_top1 = 0.9;
            }
        },
        &[
            (
                "log/12",
                "the record of epoch 2 has `val_top1` 0.9, its evaluation gives 0.5",
            ),
            (
                "checkpoint/6",
                "`val_top1` 0.5 for epoch 2, the log has 0.9",
            ),
            ("report/6", "`val_top1` 0.5 for epoch 2, the log has 0.9"),
        ],
    );
    finds(
        |stored| entry(stored, 4).entry = LogEntry::Scale { wanted: 2 },
        &[
            (
                "log/5",
                "epoch 1 step 0 is applied before epoch 1 was closed",
            ),
            ("checkpoint/3", "the log does not"),
            (
                "checkpoint/3",
                "its `metric` is 0.5, the last evaluation in the log gives none",
            ),
            ("checkpoint/6", "the log does not"),
            ("report/6", "the log does not"),
        ],
    );
}

#[test]
fn an_end_that_comes_too_early_is_named() {
    finds(
        |stored| {
            if let LogEntry::Ended { global_step, .. } = &mut entry(stored, 13).entry {
                *global_step = 5;
            }
        },
        &[
            (
                "log/13",
                "the run finished after 5 steps, the log has 6 before",
            ),
            (
                "log/13",
                "the run finished after 5 of 6 steps and 2 of 2 epochs",
            ),
        ],
    );
}

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
fn everything_that_is_wrong_is_listed_not_only_the_first() {
    finds(
        |stored| {
            stored.log[0].content = Err("it is missing".into());
            steps_at(stored, 2)[0].confirmed = vec![1];
            steps_at(stored, 10)[1].replica_hash = 7;
            stored.manifests[0].content = Err("it cannot be used: no".into());
            manifest_of(stored, 1).numerics = "m".into();
        },
        &[
            ("log/0", "it is missing"),
            ("log/2", "confirmed by 1 of 2"),
            ("log/10", "another replica hash"),
            ("checkpoint/3", "it cannot be used"),
            ("checkpoint/6", "numerics class"),
        ],
    );
}
