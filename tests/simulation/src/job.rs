//! The made-up job, and what its undisturbed run gives at every step.
//!
//! A replica is a chain of hashes: the next value depends on the one before, the cursor, and every
//! sample of the batch in the order of its slots. A sample that is lost, doubled or shifted changes all
//! values after it.

use perennial_plan::ledger::{LedgerRoot, StepRecord};
use perennial_plan::order::{batch_range, slot_range, steps_per_epoch, visiting_order};
use perennial_plan::random::mix;
use perennial_plan::{Cursor, Spec};
use perennial_proto::rules::part_kinds;
use perennial_proto::v1;

pub const TRAIN_SAMPLES: usize = 66;
pub const VAL_SAMPLES: usize = 17;
pub const NUMERICS: &str = "simulated";
pub const FINGERPRINT: &str = "made up";

/// Parameters, optimizer state and average of a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Replica {
    /// The next step.
    pub cursor: Cursor,
    pub hash: u64,
    /// How often each sample was applied in the epoch that is under way.
    pub seen: Vec<u8>,
}

/// One slot of a batch, computed.
#[derive(Debug, Clone)]
pub struct SlotGradient {
    pub slot: u32,
    pub value: u64,
    pub samples: Vec<u32>,
}

pub struct Job {
    pub spec: Spec,
    pub steps_per_epoch: u32,
    pub total_steps: u64,
    orders: Vec<Vec<u32>>,
    /// Of the replica, by the number of steps applied.
    hashes: Vec<u64>,
    /// Over the ledger, by the number of steps in it.
    roots: Vec<LedgerRoot>,
}

// === impl Job ===

impl Job {
    pub fn new(spec: Spec) -> Self {
        let epochs = spec.train.epochs;
        let steps_per_epoch = steps_per_epoch(TRAIN_SAMPLES, spec.train.batch_size as usize);
        let orders = (0..epochs)
            .map(|epoch| visiting_order(&spec, epoch, TRAIN_SAMPLES))
            .collect();
        let mut job = Self {
            total_steps: u64::from(epochs) * u64::from(steps_per_epoch),
            steps_per_epoch,
            orders,
            hashes: Vec::new(),
            roots: Vec::new(),
            spec,
        };
        let mut replica = job.initial();
        let mut root = LedgerRoot::default();
        job.hashes.push(replica.hash);
        job.roots.push(root.clone());
        while replica.cursor.epoch < epochs {
            let slots: Vec<SlotGradient> = (0..job.spec.train.slots)
                .map(|slot| job.gradient(replica.cursor, slot))
                .collect();
            let cursor = replica.cursor;
            replica = job.apply(&replica, &slots);
            let done = job.step_done(cursor, job.batch_len(cursor.step), replica.hash);
            root.push(&record(&done));
            job.hashes.push(replica.hash);
            job.roots.push(root.clone());
        }
        job
    }

    /// The replica before the first step.
    pub fn initial(&self) -> Replica {
        Replica {
            cursor: Cursor::default(),
            hash: mix(self.spec.seed),
            seen: vec![0; TRAIN_SAMPLES],
        }
    }

    /// The one true hash of a replica at this cursor.
    pub fn hash_at(&self, cursor: Cursor) -> u64 {
        self.hashes[cursor.global_step(self.steps_per_epoch) as usize]
    }

    /// The one true hash over the ledger's first `steps` steps.
    pub fn ledger_root(&self, steps: u64) -> LedgerRoot {
        self.roots[steps as usize].clone()
    }

    /// What a member says of a step that gave a replica of this hash; times are its own.
    pub fn step_done(&self, step: Cursor, samples: u64, hash: u64) -> v1::StepDone {
        v1::StepDone {
            epoch: step.epoch,
            step: step.step,
            samples,
            loss_sum: (hash >> 40) as f64 / 64.0,
            top1: samples / 2,
            top5: samples,
            learning_rate: 0.5 / (1.0 + f64::from(step.step)),
            grad_norm: (hash >> 44) as f64 / 1024.0,
            replica_hash: hash,
            global_step: self.global_step(step) + 1,
            ..v1::StepDone::default()
        }
    }

    pub fn global_step(&self, cursor: Cursor) -> u64 {
        cursor.global_step(self.steps_per_epoch)
    }

    pub fn batch_len(&self, step: u32) -> u64 {
        batch_range(TRAIN_SAMPLES, self.spec.train.batch_size as usize, step).len() as u64
    }

    pub fn gradient(&self, cursor: Cursor, slot: u32) -> SlotGradient {
        let batch = batch_range(
            TRAIN_SAMPLES,
            self.spec.train.batch_size as usize,
            cursor.step,
        );
        let places = slot_range(batch, self.spec.train.slots, slot);
        let samples = self.orders[cursor.epoch as usize][places].to_vec();
        let value = samples.iter().fold(mix(u64::from(slot)), |value, sample| {
            mix(value.rotate_left(23) ^ mix(u64::from(*sample)))
        });
        SlotGradient {
            slot,
            value,
            samples,
        }
    }

    /// The replica after a step over `slots`, which are in their order.
    pub fn apply(&self, replica: &Replica, slots: &[SlotGradient]) -> Replica {
        let mut hash = mix(replica.hash ^ mix(1 + self.global_step(replica.cursor)));
        let mut seen = if replica.cursor.step == 0 {
            vec![0; TRAIN_SAMPLES]
        } else {
            replica.seen.clone()
        };
        for gradient in slots {
            hash = mix(hash.rotate_left(17) ^ gradient.value);
            for sample in &gradient.samples {
                seen[*sample as usize] += 1;
            }
        }
        Replica {
            cursor: replica.cursor.next(self.steps_per_epoch),
            hash,
            seen,
        }
    }

    /// Validation samples in these slots.
    pub fn validation_samples(&self, slots: std::ops::Range<u32>) -> u64 {
        let count = |slot| slot_range(0..VAL_SAMPLES, self.spec.train.slots, slot).len() as u64;
        slots.map(count).sum()
    }

    /// What a member of hash `hash` says of the validation side, of which `samples` were seen.
    pub fn evaluation(&self, hash: u64, samples: u64) -> Vec<u8> {
        let one = |salt: u64| {
            let word = mix(hash ^ salt);
            let right = word % (samples + 1);
            serde_json::json!({
                "samples": samples,
                "loss": (word >> 40) as f64 / 1024.0,
                "top1": right as f64 / samples as f64,
                "top5": 1.0,
                "k": 2,
                "confusion": [[right, samples - right], [0, 0]],
                "mistakes": [],
            })
        };
        let ema = (self.spec.ema.decay > 0.0).then(|| one(2));
        serde_json::json!({ "raw": one(1), "ema": ema })
            .to_string()
            .into_bytes()
    }

    pub fn ready(&self, collective_address: String, replica_address: String) -> v1::Ready {
        v1::Ready {
            data_fingerprint: FINGERPRINT.into(),
            train_samples: TRAIN_SAMPLES as u64,
            val_samples: VAL_SAMPLES as u64,
            classes: vec!["a".into(), "b".into()],
            skipped: 0,
            parameters: 1000,
            collective_address,
            replica_address,
        }
    }

    /// The kind of part by which a checkpoint is known here.
    pub fn kind(&self) -> &'static str {
        part_kinds(&self.spec)[0]
    }

    /// The hash of the weights that the job ends with.
    pub fn weights(&self) -> String {
        let last = Cursor {
            epoch: self.spec.train.epochs,
            step: 0,
        };
        match &self.spec.evaluate {
            None => Self::tensors("model", self.hash_at(last)),
            Some(evaluate) => evaluate.weights_sha256.clone(),
        }
    }

    /// The hash of the tensors of this kind in a replica.
    pub fn tensors(kind: &str, hash: u64) -> String {
        format!("{kind}-{hash:016x}")
    }
}

fn record(done: &v1::StepDone) -> StepRecord {
    StepRecord {
        epoch: done.epoch,
        step: done.step,
        generation: 0,
        samples: done.samples,
        loss_sum: done.loss_sum,
        top1: done.top1,
        top5: done.top5,
        learning_rate: done.learning_rate,
        grad_norm: done.grad_norm,
        loss_scale: done.loss_scale,
        skipped: done.skipped,
        replica_hash: done.replica_hash,
        seconds: 0.0,
        confirmed: Vec::new(),
    }
}
