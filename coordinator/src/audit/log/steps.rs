//! A step: what the plan has, which all confirmed, the same whenever it is applied.

use std::collections::BTreeSet;

use perennial_plan::ledger::StepRecord;
use perennial_plan::order::batch_range;

use super::super::account::{Live, Seen};
use super::super::{Finding, Object};
use super::Walk;
use crate::log::LogRecord;

impl Walk<'_> {
    pub(super) fn step(&mut self, object: &Object<LogRecord>, step: &StepRecord) {
        let path = object.path.as_str();
        let cursor = step.cursor();
        let steps = self.known.steps_per_epoch(self.spec);
        let epochs = self.spec.train.epochs;
        if step.step >= steps || step.epoch >= epochs {
            self.find(
                path,
                format!("{cursor} is not in the plan of {epochs} epochs with {steps} steps each"),
            );
            return;
        }
        let at = cursor.global_step(steps);
        if at != self.next && !self.after_a_hole {
            let expected = self.cursor(self.next);
            let message = if self.live.contains_key(&at) {
                format!("{cursor} is applied a second time, where {expected} is next")
            } else {
                format!("{cursor} is applied where {expected} is next")
            };
            self.find(path, message);
        }
        if self.after_a_hole {
            (self.next, self.closed) = (at, step.epoch);
        }
        self.after_a_hole = false;
        if step.epoch > self.closed {
            let missing = self.closed.saturating_add(1);
            self.find(
                path,
                format!("{cursor} is applied before epoch {missing} was closed"),
            );
            self.closed = step.epoch;
        }
        self.next = self.next.max(at + 1);
        self.check_counts(path, step);
        let by_all = self.check_confirmed(path, step);
        self.check_again(object, at, step);
        let live = Live {
            generation: step.generation,
            samples: step.samples,
            by_all,
        };
        self.live.entry(at).or_default().push(live);
    }

    fn check_counts(&mut self, path: &str, step: &StepRecord) {
        let cursor = step.cursor();
        let batch = self.spec.train.batch_size as usize;
        let samples = self.known.train_samples() as usize;
        let planned = batch_range(samples, batch, step.step).len() as u64;
        if step.samples != planned {
            let found = step.samples;
            self.find(
                path,
                format!("{cursor} applied {found} samples, the plan has {planned}"),
            );
        } else if step.top1 > step.top5 || step.top5 > step.samples {
            let (top1, top5) = (step.top1, step.top5);
            self.find(
                path,
                format!("{cursor} counts {top1} first and {top5} fifth guesses right of {planned} samples, which cannot be"),
            );
        }
    }

    /// Whether every member of the generation reported the step's hash.
    fn check_confirmed(&mut self, path: &str, step: &StepRecord) -> bool {
        let (cursor, id) = (step.cursor(), step.generation);
        if self.generation_in_doubt {
            self.generation = self.generations.get(&id).copied();
        }
        let in_force = self.generation.filter(|generation| generation.id == id);
        let Some(generation) = in_force else {
            let message = match self.generation {
                // The entry that is missing has been named.
                _ if self.generation_in_doubt => return false,
                Some(other) => {
                    let other = other.id;
                    format!("{cursor} is of generation {id}, where generation {other} is in force")
                }
                None => format!("{cursor} is of generation {id}, where none is in force"),
            };
            self.find(path, message);
            return false;
        };
        let members = generation.members.len();
        let ranks: BTreeSet<u32> = step.confirmed.iter().copied().collect();
        let inside = ranks.iter().all(|rank| (*rank as usize) < members);
        if ranks.is_empty() || ranks.len() != step.confirmed.len() || !inside {
            let confirmed = &step.confirmed;
            self.find(
                path,
                format!("{cursor} was confirmed by the ranks {confirmed:?}, where generation {id} has {members} members"),
            );
            return false;
        }
        if ranks.len() < members {
            let count = ranks.len();
            let finding = Finding::new(
                path,
                format!(
                    "the replica after {cursor} was confirmed by {count} of {members} members of generation {id}, which went on; all must agree"
                ),
            );
            self.unconfirmed.push(finding);
            return false;
        }
        // The generation was whole after them: nobody was lost who could have kept a confirmation.
        self.findings.append(&mut self.unconfirmed);
        true
    }

    /// What is applied again after going back gives the same, to the bit.
    fn check_again(&mut self, object: &Object<LogRecord>, at: u64, step: &StepRecord) {
        let cursor = step.cursor();
        let Some(seen) = self.known.steps.get(&at) else {
            let position = object.number;
            let record = step.clone();
            self.known.steps.insert(at, Seen { position, record });
            return;
        };
        self.account.steps_recomputed += 1;
        let first = seen.position;
        let words = |step: &StepRecord| {
            [
                ("replica hash", format!("{:016x}", step.replica_hash)),
                ("sum of losses", step.loss_sum.to_string()),
                ("norm of the gradient", step.grad_norm.to_string()),
                ("learning rate", step.learning_rate.to_string()),
                ("loss scale", format!("{:?}", step.loss_scale)),
                ("word on its being skipped", step.skipped.to_string()),
                ("samples", step.samples.to_string()),
                ("count of first guesses", step.top1.to_string()),
                ("count of fifth guesses", step.top5.to_string()),
            ]
        };
        let differs = words(step)
            .into_iter()
            .zip(words(&seen.record))
            .find(|(ours, theirs)| ours != theirs);
        if let Some(((what, ours), (_, theirs))) = differs {
            self.find(
                &object.path,
                format!("{cursor} was applied again with another {what}: {ours}, at position {first} it was {theirs}"),
            );
        }
    }
}
