//! What made-up workers say of a made-up job: 25 samples in batches of 10, so three steps an epoch, and two
//! epochs.

use perennial_plan::{Cursor, Spec};
use perennial_proto::v1::{EpochDone, Finished, Hello, PartWritten, Ready, Standing, StepDone};
use perennial_report::Evaluation;

use crate::machine::{Config, ConnectionId, Evaluations};

pub const STEPS: u32 = 3;
pub const EPOCHS: u32 = 2;

pub fn spec() -> Spec {
    let mut spec = Spec {
        name: "seedlings".into(),
        ..Spec::default()
    };
    spec.data.dir = "seedlings".into();
    spec.train.epochs = EPOCHS;
    spec.train.batch_size = 10;
    spec.train.slots = 8;
    spec
}

pub fn config(wanted: u32) -> Config {
    Config {
        spec: spec(),
        wanted,
        version: "1.0.0".into(),
        store_url: "store".into(),
        address: "here:1".into(),
        resume: None,
        writer: "first".into(),
        log: Vec::new(),
        resume_command: "perennial train --resume".into(),
        shared: false,
    }
}

/// `worker` is the number of its connection, and of its process.
pub fn hello(worker: ConnectionId) -> Hello {
    Hello {
        version: "1.0.0".into(),
        numerics: "cpu".into(),
        threads: 2,
        worker: String::new(),
        incarnation: worker,
        job: String::new(),
    }
}

pub fn ready(worker: ConnectionId) -> Ready {
    Ready {
        data_fingerprint: "abc".into(),
        train_samples: 25,
        val_samples: 8,
        classes: vec!["a".into(), "b".into()],
        skipped: 1,
        parameters: 100,
        collective_address: format!("sum:{worker}"),
        replica_address: format!("replica:{worker}"),
    }
}

pub fn cursor(epoch: u32, step: u32) -> Cursor {
    Cursor { epoch, step }
}

/// Of the one true replica at this cursor.
pub fn hash(at: Cursor) -> u64 {
    1000 + at.global_step(STEPS)
}

pub fn step(generation: u64, at: Cursor) -> StepDone {
    let samples = if at.step == STEPS - 1 { 5 } else { 10 };
    let after = at.next(STEPS);
    StepDone {
        generation,
        epoch: at.epoch,
        step: at.step,
        samples,
        loss_sum: samples as f64 * 0.5,
        top1: samples / 5,
        top5: samples,
        learning_rate: 0.1,
        grad_norm: 1.0,
        replica_hash: hash(after),
        seconds: 0.5,
        compute_seconds: 0.4,
        global_step: after.global_step(STEPS),
        phases: None,
        loss_scale: None,
        skipped: false,
    }
}

pub fn evaluations() -> Evaluations {
    let raw = Evaluation {
        samples: 8,
        loss: 0.7,
        top1: 0.5,
        top5: 1.0,
        k: 2,
        confusion: vec![vec![4, 0], vec![4, 0]],
        mistakes: Vec::new(),
    };
    Evaluations {
        ema: Some(raw.clone()),
        raw,
    }
}

pub fn epoch(generation: u64, epoch: u32) -> EpochDone {
    EpochDone {
        generation,
        epoch,
        evaluation_json: serde_json::to_vec(&evaluations()).unwrap(),
    }
}

pub fn part(generation: u64, global_step: u64, kind: &str) -> PartWritten {
    PartWritten {
        generation,
        global_step,
        kind: kind.into(),
        path: format!("checkpoints/{global_step}/{kind}-{generation}.safetensors"),
        bytes: 10,
        sha256: format!("file {kind} {global_step}"),
        tensors_sha256: format!("{kind} {global_step}"),
    }
}

/// A member that takes no further step.
pub fn halted(generation: u64, at: Cursor) -> Standing {
    Standing {
        generation,
        epoch: at.epoch,
        step: at.step,
        replica_hash: hash(at),
        halted: true,
        lost: Vec::new(),
        empty: false,
    }
}

/// A worker that trains in no generation.
pub fn unoccupied(generation: u64) -> Standing {
    Standing {
        generation,
        halted: true,
        empty: true,
        ..Standing::default()
    }
}

pub fn finished(generation: u64, at: Cursor) -> Finished {
    Finished {
        generation,
        epoch: at.epoch,
        step: at.step,
        stopped_early: at.epoch < EPOCHS,
        replica_hash: hash(at),
    }
}
