//! A job that went through much.

use std::ops::Range;

use perennial_plan::ledger::{LedgerRoot, StepRecord};
use perennial_plan::{Cursor, Generation, Member, Spec};
use perennial_report::{EpochRecord, Evaluation, Report};
use perennial_store::{FORMAT_VERSION, Manifest, Part, PartKind};

use super::super::{Object, Stored};
use crate::log::{DataFacts, LogEntry, LogRecord};
use crate::machine::{Evaluations, Progress, ReportInput};

/// Ten samples in batches of four: three steps an epoch, two epochs, three slots.
pub fn spec() -> Spec {
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

pub fn data() -> DataFacts {
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

pub fn generation(
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

pub fn step(generation: u64, epoch: u32, step: u32, confirmed: &[u32]) -> StepRecord {
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
        loss_scale: None,
        skipped: false,
        replica_hash: 0x1000 + at,
        seconds: 0.5,
        confirmed: confirmed.to_vec(),
    }
}

pub fn evaluation() -> Evaluation {
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

pub fn epoch_record(epoch: u32) -> EpochRecord {
    let steps: Vec<StepRecord> = (0..3).map(|at| step(1, epoch - 1, at, &[])).collect();
    EpochRecord {
        epoch,
        train_loss: steps.iter().map(|step| step.loss_sum).sum::<f64>() / 10.0,
        train_top1: 0.3,
        learning_rate: 1e-3,
        grad_norm: 1.0 / 3.0,
        loss_scale: None,
        skipped_steps: None,
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

pub fn epoch(epoch: u32) -> LogEntry {
    LogEntry::Epoch {
        record: Box::new(epoch_record(epoch)),
        evaluations: Box::new(evaluations()),
    }
}

pub fn evaluations() -> Evaluations {
    Evaluations {
        raw: evaluation(),
        ema: Some(evaluation()),
    }
}

pub fn term() -> LogEntry {
    LogEntry::Term {
        address: "127.0.0.1:1".into(),
        version: "0".into(),
    }
}

pub fn steps(steps: &[StepRecord]) -> LogEntry {
    LogEntry::Steps {
        steps: steps.to_vec(),
    }
}

pub fn root(count: u64) -> String {
    let mut root = LedgerRoot::default();
    for at in 0..count as u32 {
        root.push(&step(1, at / 3, at % 3, &[]));
    }
    root.root()
}

pub fn manifest(global_step: u64, epochs: u32) -> Manifest {
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

pub fn report() -> Report {
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
pub fn stored() -> Stored {
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
