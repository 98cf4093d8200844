//! What was applied: every member's reports, compared with each other and with the plan.

use std::collections::{BTreeMap, VecDeque};

use perennial_plan::invariants::{Invariant, Violation};
use perennial_plan::order::{batch_range, steps_per_epoch};
use perennial_plan::{Cursor, Generation};
use perennial_proto::v1::{EpochDone, Ready, StepDone};
use perennial_report::EpochRecord;

use super::{Config, Evaluations, Failure, Progress, Snapshot};

/// A fact that all members agree on.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Applied {
    Step(StepDone),
    Epoch(EpochRecord),
}

/// A step that not all members have reported yet.
#[derive(Debug)]
struct Reported {
    /// How many have.
    members: usize,
    /// Who was the first, and what it said.
    first: usize,
    report: StepDone,
}

/// The account of a run's steps.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Names by rank.
    members: Vec<String>,
    train_samples: u64,
    val_samples: u64,
    batch_size: usize,
    steps_per_epoch: u32,
    epochs: u32,
    /// The next step that no member has reported yet, by rank.
    reported: Vec<Cursor>,
    /// The next step that not all members have reported.
    applied: Cursor,
    /// The steps from `applied` on that some member has reported.
    ahead: VecDeque<Reported>,
    last_step: StepDone,
    /// Epochs that are evaluated and in the history.
    closed: u32,
    evaluations: BTreeMap<u32, Evaluations>,
    last_evaluations: Option<Evaluations>,
    progress: Progress,
    history: Vec<EpochRecord>,
    /// Validation top-1 of the last evaluation: of the average where there is one.
    metric: Option<f64>,
}

// === impl Ledger ===

impl Ledger {
    pub fn new(config: &Config, generation: &Generation, ready: &Ready) -> Self {
        let batch_size = config.spec.train.batch_size as usize;
        let snapshot = config
            .resume
            .as_ref()
            .map(|resume| resume.snapshot.clone())
            .unwrap_or_default();
        Self {
            members: generation
                .members
                .iter()
                .map(|member| member.worker.clone())
                .collect(),
            train_samples: ready.train_samples,
            val_samples: ready.val_samples,
            batch_size,
            steps_per_epoch: steps_per_epoch(ready.train_samples as usize, batch_size),
            epochs: config.spec.train.epochs,
            reported: vec![generation.start; generation.members.len()],
            applied: generation.start,
            ahead: VecDeque::new(),
            last_step: StepDone::default(),
            closed: generation.start.epoch,
            evaluations: BTreeMap::new(),
            last_evaluations: None,
            progress: snapshot.progress,
            history: snapshot.history,
            metric: snapshot.metric,
        }
    }

    /// The cursor up to which all members have applied everything.
    pub fn cursor(&self) -> Cursor {
        self.applied
    }

    pub fn steps_per_epoch(&self) -> u32 {
        self.steps_per_epoch
    }

    /// Steps that all members have applied, since the start of the job.
    pub fn global_step(&self) -> u64 {
        self.applied.global_step(self.steps_per_epoch)
    }

    pub fn total_steps(&self) -> u64 {
        u64::from(self.epochs) * u64::from(self.steps_per_epoch)
    }

    /// Samples that are still to be trained on.
    pub fn remaining_samples(&self) -> u64 {
        let epochs = u64::from(self.epochs.saturating_sub(self.applied.epoch));
        (epochs * self.train_samples).saturating_sub(self.progress.samples)
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            cursor: self.applied,
            history: self.history.clone(),
            progress: self.progress.clone(),
            metric: self.metric,
        }
    }

    pub fn history(&self) -> &[EpochRecord] {
        &self.history
    }

    /// The global step at the end of the last evaluated epoch, and how many epochs that are.
    pub fn evaluated(&self) -> (u64, u32) {
        let cursor = Cursor {
            epoch: self.closed,
            step: 0,
        };
        (cursor.global_step(self.steps_per_epoch), self.closed)
    }

    /// A member takes no further step.
    pub fn finished(&self, rank: usize, cursor: Cursor) -> Result<(), Violation> {
        let expected = self.reported[rank];
        Invariant::Ex2.check(cursor == expected, || {
            let name = &self.members[rank];
            format!("worker `{name}` finishes at {cursor} where {expected} is next")
        })
    }

    /// All members have finished: they stand at the same cursor, and all epochs were evaluated.
    pub fn close(&self) -> Result<(), Violation> {
        for (name, cursor) in self.members.iter().zip(&self.reported) {
            Invariant::Ex2.check(*cursor == self.applied, || {
                format!(
                    "worker `{name}` finished at {cursor}, others at {}",
                    self.applied
                )
            })?;
        }
        Invariant::Ev1.check(self.closed == self.applied.epoch, || {
            format!("epoch {} was never evaluated", self.closed)
        })
    }

    /// The last evaluation in this run.
    pub fn last_evaluations(&self) -> Option<&Evaluations> {
        self.last_evaluations.as_ref()
    }

    /// Takes a member's report of a step.
    pub fn step_done(&mut self, rank: usize, done: StepDone) -> Result<(), Violation> {
        let cursor = Cursor {
            epoch: done.epoch,
            step: done.step,
        };
        let expected = self.reported[rank];
        Invariant::Ex2.check(cursor == expected && cursor.epoch < self.epochs, || {
            let name = &self.members[rank];
            format!("worker `{name}` reports {cursor} where {expected} is next")
        })?;
        let planned =
            batch_range(self.train_samples as usize, self.batch_size, done.step).len() as u64;
        Invariant::Ex1.check(done.samples == planned, || {
            let (name, samples) = (&self.members[rank], done.samples);
            format!("worker `{name}` applied {samples} samples at {cursor}, the plan has {planned}")
        })?;
        let distance = expected.global_step(self.steps_per_epoch) - self.global_step();
        match self.ahead.get_mut(distance as usize) {
            Some(step) => {
                let (ours, theirs) = (done.replica_hash, step.report.replica_hash);
                Invariant::Rep1.check(ours == theirs, || {
                    let (name, first) = (&self.members[rank], &self.members[step.first]);
                    format!("after {cursor} worker `{first}` has replica {theirs:016x}, worker `{name}` {ours:016x}")
                })?;
                step.members += 1;
                step.report.seconds = step.report.seconds.max(done.seconds);
            }
            None => self.ahead.push_back(Reported {
                members: 1,
                first: rank,
                report: done,
            }),
        }
        self.reported[rank] = cursor.next(self.steps_per_epoch);
        Ok(())
    }

    /// Takes the evaluation at an epoch's end.
    pub fn epoch_done(&mut self, rank: usize, done: &EpochDone) -> Result<(), Failure> {
        let name = &self.members[rank];
        let evaluations: Evaluations =
            serde_json::from_slice(&done.evaluation_json).map_err(|error| {
                Failure::resumable(format!(
                    "the evaluation that worker `{name}` sent cannot be read: {error}"
                ))
            })?;
        let next = self.reported[rank];
        let in_turn = rank == 0
            && next.step == 0
            && next.epoch == done.epoch + 1
            && !self.evaluations.contains_key(&done.epoch);
        Invariant::Ex2.check(in_turn, || {
            let epoch = done.epoch;
            format!("worker `{name}` reports the end of epoch {epoch} where {next} is next")
        })?;
        let counted = [Some(&evaluations.raw), evaluations.ema.as_ref()];
        for evaluation in counted.into_iter().flatten() {
            let (samples, expected) = (evaluation.samples, self.val_samples);
            Invariant::Ev1.check(samples == expected, || {
                format!(
                    "worker `{name}` evaluated {samples} of {expected} samples after epoch {}",
                    done.epoch
                )
            })?;
        }
        self.evaluations.insert(done.epoch, evaluations);
        Ok(())
    }

    /// The next fact on which all members agree, if there is one. Until the next call everything else
    /// that the ledger tells stands exactly at that fact.
    pub fn advance(&mut self) -> Result<Option<Applied>, Violation> {
        let all_reported = self
            .ahead
            .front()
            .is_some_and(|step| step.members == self.members.len());
        if self.applied.epoch > self.closed {
            let Some(evaluations) = self.evaluations.remove(&self.closed) else {
                Invariant::Ev1.check(!all_reported, || {
                    format!("epoch {} was never evaluated", self.closed)
                })?;
                return Ok(None);
            };
            return Ok(Some(Applied::Epoch(self.close_epoch(evaluations)?)));
        }
        if !all_reported {
            return Ok(None);
        }
        let Some(step) = self.ahead.pop_front() else {
            return Ok(None);
        };
        self.progress.add(&step.report);
        self.last_step = step.report;
        self.applied = self.applied.next(self.steps_per_epoch);
        Ok(Some(Applied::Step(step.report)))
    }

    fn close_epoch(&mut self, evaluations: Evaluations) -> Result<EpochRecord, Violation> {
        let progress = std::mem::take(&mut self.progress);
        let (samples, expected) = (progress.samples, self.train_samples);
        Invariant::Ex1.check(samples == expected, || {
            format!(
                "epoch {} applied {samples} of {expected} samples",
                self.closed
            )
        })?;
        self.closed += 1;
        let (raw, ema) = (&evaluations.raw, evaluations.ema.as_ref());
        let record = EpochRecord {
            epoch: self.closed,
            train_loss: progress.loss_sum / samples as f64,
            train_top1: progress.top1 as f64 / samples as f64,
            learning_rate: self.last_step.learning_rate,
            grad_norm: self.last_step.grad_norm,
            val_loss: raw.loss,
            val_top1: raw.top1,
            val_top5: raw.top5,
            ema_loss: ema.map(|ema| ema.loss),
            ema_top1: ema.map(|ema| ema.top1),
            ema_top5: ema.map(|ema| ema.top5),
            images_per_second: per_second(samples, progress.seconds),
            seconds: progress.seconds,
            workers: self.members.len() as u32,
        };
        self.metric = Some(ema.unwrap_or(raw).top1);
        self.last_evaluations = Some(evaluations);
        self.history.push(record.clone());
        Ok(record)
    }
}

/// Samples a second; 0 where no time was measured.
pub(super) fn per_second(samples: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        samples as f64 / seconds
    } else {
        0.0
    }
}
