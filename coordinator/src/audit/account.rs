//! What the log tells, gathered.

use std::collections::{BTreeMap, BTreeSet};

use perennial_plan::Spec;
use perennial_plan::ledger::{LedgerRoot, StepRecord};
use perennial_plan::order::steps_per_epoch;
use perennial_report::EpochRecord;
use serde::Serialize;

use crate::log::DataFacts;

/// What the job did, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Account {
    pub log_entries: u64,
    pub terms: u64,
    pub generations: u64,
    /// Epochs that are applied and evaluated.
    pub epochs: u32,
    pub planned_epochs: u32,
    /// Steps that count.
    pub steps: u64,
    /// 0 before the data is known.
    pub planned_steps: u64,
    pub steps_per_epoch: u32,
    pub samples_applied: u64,
    pub train_samples: u64,
    /// Of the steps that count, those whose hash every member of their generation reported.
    pub steps_confirmed_by_all: u64,
    /// The others: last steps of a generation that broke, which count because the next one began behind
    /// them with the replica of the furthest survivor. Some members of theirs never reported them.
    pub steps_confirmed_by_survivors: u64,
    /// Steps that were applied again after going back to a checkpoint, with the same result.
    pub steps_recomputed: u64,
    /// How the last run ended, unless it goes on or was cut off.
    pub ended: Option<String>,
    /// Merkle root over all steps that count.
    pub ledger_root: Option<String>,
}

/// A step as the log had it first.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub position: u64,
    pub record: StepRecord,
}

/// A step that counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Live {
    pub generation: u64,
    pub samples: u64,
    pub by_all: bool,
}

/// Everything that was ever applied or evaluated, also what was gone back on: it must be the same again.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub data: Option<DataFacts>,
    /// By steps before them.
    pub steps: BTreeMap<u64, Seen>,
    /// By their number, from 1.
    pub epochs: BTreeMap<u32, EpochRecord>,
}

// === impl Known ===

impl Known {
    /// Steps in an epoch; 0 before the data is known.
    pub fn steps_per_epoch(&self, spec: &Spec) -> u32 {
        let samples = self.train_samples();
        steps_per_epoch(samples as usize, spec.train.batch_size as usize)
    }

    pub fn train_samples(&self) -> u64 {
        self.data.as_ref().map_or(0, |data| data.train_samples)
    }

    /// Steps from the first one on without a gap.
    pub fn contiguous(&self) -> u64 {
        let gap = (0..)
            .zip(self.steps.keys())
            .find(|(expected, step)| expected != *step);
        gap.map_or(self.steps.len() as u64, |(expected, _)| expected)
    }

    /// The ledger's root after each of these numbers of steps, as far as every step before is there.
    pub fn roots(&self, counts: &BTreeSet<u64>) -> BTreeMap<u64, String> {
        let mut root = LedgerRoot::default();
        let mut roots = BTreeMap::new();
        for count in counts {
            while root.count() < *count {
                match self.steps.get(&root.count()) {
                    Some(seen) => root.push(&seen.record),
                    None => return roots,
                }
            }
            roots.insert(*count, root.root());
        }
        roots
    }
}

/// Whether two numbers are the same, of which JSON may have changed the last bits.
pub(super) fn same(a: f64, b: f64) -> bool {
    const SHARE: f64 = 1e-9;
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= SHARE * a.abs().max(b.abs())
}

/// The first number in which two records of an epoch differ: its name, and both values. Speeds and times
/// are not compared, and what a resumed run did not know (the last step's rate and norm) is no difference.
pub(super) fn difference(
    ours: &EpochRecord,
    theirs: &EpochRecord,
) -> Option<(&'static str, f64, f64)> {
    let nan = |value: Option<f64>| value.unwrap_or(f64::NAN);
    let numbers = |record: &EpochRecord| {
        [
            ("epoch", f64::from(record.epoch)),
            ("train_loss", record.train_loss),
            ("train_top1", record.train_top1),
            ("learning_rate", record.learning_rate),
            ("grad_norm", record.grad_norm),
            ("val_loss", record.val_loss),
            ("val_top1", record.val_top1),
            ("val_top5", record.val_top5),
            ("ema_loss", nan(record.ema_loss)),
            ("ema_top1", nan(record.ema_top1)),
            ("ema_top5", nan(record.ema_top5)),
        ]
    };
    let pairs = numbers(ours).into_iter().zip(numbers(theirs));
    pairs
        .map(|((name, ours), (_, theirs))| (name, ours, theirs))
        .find(|(name, ours, theirs)| {
            let unknown =
                ["learning_rate", "grad_norm"].contains(name) && (ours.is_nan() || theirs.is_nan());
            !unknown && !same(*ours, *theirs)
        })
}
