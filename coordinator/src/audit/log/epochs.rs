//! The end of an epoch: its record is that of its steps and its evaluation.

use std::ops::Range;

use perennial_plan::ledger::StepRecord;
use perennial_report::{EpochRecord, Evaluation};

use super::super::account::{difference, same};
use super::Walk;
use crate::machine::Evaluations;

impl Walk<'_> {
    pub(super) fn close_epoch(
        &mut self,
        path: &str,
        record: &EpochRecord,
        evaluations: &Evaluations,
    ) {
        let epoch = record.epoch;
        let steps = u64::from(self.known.steps_per_epoch(self.spec));
        let expected = self.closed.saturating_add(1);
        let end = u64::from(epoch) * steps;
        if (epoch != expected || self.next != end) && !self.after_a_hole {
            let next = self.cursor(self.next);
            self.find(
                path,
                format!("the record of epoch {epoch} stands where {next} is next and that of epoch {expected} is due"),
            );
        }
        self.closed = epoch;
        // All of its steps are to be there, whatever the log has of them.
        self.next = if self.after_a_hole {
            end
        } else {
            self.next.max(end)
        };
        self.check_sums(path, record, end.saturating_sub(steps)..end);
        self.check_evaluations(path, record, evaluations);
        match self.known.epochs.get(&epoch) {
            Some(first) => {
                if let Some((what, theirs, ours)) = difference(first, record) {
                    self.find(
                        path,
                        format!("epoch {epoch} was closed again with another `{what}`: {ours}, before it was {theirs}"),
                    );
                }
            }
            None => {
                self.known.epochs.insert(epoch, record.clone());
            }
        }
    }

    /// The record's means are those of the epoch's steps.
    fn check_sums(&mut self, path: &str, record: &EpochRecord, steps: Range<u64>) {
        let expected = steps.end - steps.start;
        let seen: Vec<&StepRecord> = self
            .known
            .steps
            .range(steps)
            .map(|(_, seen)| &seen.record)
            .collect();
        let samples: u64 = seen.iter().map(|step| step.samples).sum();
        if seen.len() as u64 != expected || samples == 0 {
            // Steps that are missing are named by themselves.
            return;
        }
        let loss = seen.iter().map(|step| step.loss_sum).sum::<f64>() / samples as f64;
        let top1 = seen.iter().map(|step| step.top1).sum::<u64>() as f64 / samples as f64;
        let last = seen.last().copied();
        let rate = last.map_or(f64::NAN, |step| step.learning_rate);
        let norm = last.map_or(f64::NAN, |step| step.grad_norm);
        let pairs = [
            ("train_loss", record.train_loss, loss),
            ("train_top1", record.train_top1, top1),
            ("learning_rate", record.learning_rate, rate),
            ("grad_norm", record.grad_norm, norm),
        ];
        for (index, (name, found, expected)) in pairs.into_iter().enumerate() {
            // A resumed run does not know the step before.
            let unknown = index > 1 && found.is_nan();
            if !unknown && !same(found, expected) {
                let epoch = record.epoch;
                self.find(
                    path,
                    format!("the record of epoch {epoch} has `{name}` {found}, its steps in the log give {expected}"),
                );
            }
        }
    }

    /// All validation samples were evaluated, and the record says what came out.
    fn check_evaluations(&mut self, path: &str, record: &EpochRecord, evaluations: &Evaluations) {
        let epoch = record.epoch;
        let expected = self.known.data.as_ref().map_or(0, |data| data.val_samples);
        let (raw, ema) = (&evaluations.raw, evaluations.ema.as_ref());
        for evaluation in std::iter::once(raw).chain(ema) {
            let counted: u64 = evaluation.confusion.iter().flatten().sum();
            if self.known.data.is_some() && (evaluation.samples != expected || counted != expected)
            {
                let samples = evaluation.samples;
                self.find(
                    path,
                    format!("epoch {epoch} was evaluated on {samples} samples with {counted} answers, the data has {expected}"),
                );
            }
        }
        let mut pairs = vec![
            ("val_loss", record.val_loss, raw.loss),
            ("val_top1", record.val_top1, raw.top1),
            ("val_top5", record.val_top5, raw.top5),
        ];
        let nan = |value: Option<f64>| value.unwrap_or(f64::NAN);
        let of_ema = |value: fn(&Evaluation) -> f64| ema.map_or(f64::NAN, value);
        pairs.extend([
            ("ema_loss", nan(record.ema_loss), of_ema(|ema| ema.loss)),
            ("ema_top1", nan(record.ema_top1), of_ema(|ema| ema.top1)),
            ("ema_top5", nan(record.ema_top5), of_ema(|ema| ema.top5)),
        ]);
        for (name, found, expected) in pairs {
            if !same(found, expected) {
                self.find(
                    path,
                    format!("the record of epoch {epoch} has `{name}` {found}, its evaluation gives {expected}"),
                );
            }
        }
    }
}
