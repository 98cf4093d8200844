//! What was applied: every member's reports, compared with each other and with the plan.

use std::collections::{BTreeMap, VecDeque};

use perennial_plan::invariants::{Invariant, Violation};
use perennial_plan::ledger::{LedgerRoot, StepRecord};
use perennial_plan::order::{batch_range, steps_per_epoch};
use perennial_plan::{Cursor, Generation, Spec};
use perennial_proto::v1::{EpochDone, StepDone};
use perennial_report::EpochRecord;

use super::{Evaluations, Failure, Progress, Snapshot};
use crate::log::DataFacts;
use crate::replay::Replayed;

/// A fact on which all members agree.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Applied {
    Step(StepRecord),
    Epoch(Box<EpochRecord>, Box<Evaluations>),
}

/// The account of a job's steps.
#[derive(Debug)]
pub(super) struct Ledger {
    train_samples: u64,
    val_samples: u64,
    batch_size: usize,
    steps_per_epoch: u32,
    epochs: u32,
    /// Names by rank, in the generation at hand.
    members: Vec<String>,
    /// The next step that no member has reported yet, by rank.
    reported: Vec<Cursor>,
    /// The next step that is not settled: reported by all members, or left behind by a generation.
    applied: Cursor,
    /// The steps from `applied` on that some member has reported.
    ahead: VecDeque<StepRecord>,
    /// Steps before it count though not all have reported them: the next generation begins here.
    settled: Cursor,
    /// Epochs that are evaluated and in the history.
    closed: u32,
    evaluations: BTreeMap<u32, Evaluations>,
    last_evaluations: Option<Evaluations>,
    progress: Progress,
    history: Vec<EpochRecord>,
    /// Validation top-1 of the last evaluation: of the average where there is one.
    metric: Option<f64>,
    root: LedgerRoot,
    last_step: Option<StepRecord>,
}

// === impl Ledger ===

impl Ledger {
    /// The account before the first step.
    pub fn new(spec: &Spec, data: &DataFacts) -> Self {
        let batch_size = spec.train.batch_size as usize;
        Self {
            train_samples: data.train_samples,
            val_samples: data.val_samples,
            batch_size,
            steps_per_epoch: steps_per_epoch(data.train_samples as usize, batch_size),
            epochs: spec.train.epochs,
            members: Vec::new(),
            reported: Vec::new(),
            applied: Cursor::default(),
            ahead: VecDeque::new(),
            settled: Cursor::default(),
            closed: 0,
            evaluations: BTreeMap::new(),
            last_evaluations: None,
            progress: Progress::default(),
            history: Vec::new(),
            metric: None,
            root: LedgerRoot::default(),
            last_step: None,
        }
    }

    /// The account as the log has it.
    pub fn restore(spec: &Spec, data: &DataFacts, replayed: &Replayed) -> Self {
        let mut ledger = Self::new(spec, data);
        ledger.history.clone_from(&replayed.history);
        ledger.metric = replayed.history.last().map(metric);
        ledger.last_evaluations = replayed.evaluations.clone();
        ledger.closed = replayed.history.len() as u32;
        for step in &replayed.steps {
            ledger.root.push(step);
            ledger.applied = ledger.applied.next(ledger.steps_per_epoch);
            if step.epoch >= ledger.closed {
                ledger.progress.add(step);
            }
        }
        ledger.last_step = replayed.steps.last().cloned();
        ledger
    }

    /// Goes back to a checkpoint; what came after it is applied anew.
    pub fn rewind(&mut self, snapshot: Snapshot) {
        self.applied = snapshot.cursor;
        self.settled = snapshot.cursor;
        self.ahead.clear();
        self.closed = snapshot.cursor.epoch;
        self.evaluations.clear();
        // An evaluation of later weights is made again.
        if snapshot.history.len() < self.history.len() {
            self.last_evaluations = None;
        }
        self.progress = snapshot.progress;
        self.history = snapshot.history;
        self.metric = snapshot.metric;
        self.root = snapshot.ledger;
        self.last_step = None;
        self.members.clear();
        self.reported.clear();
    }

    /// A generation begins, or goes on under a new coordinator: its members report from here on.
    pub fn begin(&mut self, generation: &Generation) {
        let names = generation.members.iter();
        self.members = names.map(|member| member.worker.clone()).collect();
        self.reported = vec![self.applied; self.members.len()];
        self.ahead.clear();
    }

    /// The cursor up to which everything is settled.
    pub fn cursor(&self) -> Cursor {
        self.applied
    }

    pub fn steps_per_epoch(&self) -> u32 {
        self.steps_per_epoch
    }

    /// Steps that are settled, since the start of the job.
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
            ledger: self.root.clone(),
        }
    }

    pub fn history(&self) -> &[EpochRecord] {
        &self.history
    }

    /// The hash over all settled steps.
    pub fn root(&self) -> &LedgerRoot {
        &self.root
    }

    /// The replica's hash after the last settled step, where it is known.
    pub fn replica_hash(&self) -> Option<u64> {
        self.last_step.as_ref().map(|step| step.replica_hash)
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

    /// The last evaluation.
    pub fn last_evaluations(&self) -> Option<&Evaluations> {
        self.last_evaluations.as_ref()
    }

    /// Takes a member's report of a step. One that was taken before is compared and has no effect.
    pub fn step_done(&mut self, rank: usize, done: &StepDone) -> Result<(), Violation> {
        let cursor = Cursor {
            epoch: done.epoch,
            step: done.step,
        };
        let name = &self.members[rank];
        let expected = self.reported[rank];
        Invariant::Ex2.check(cursor <= expected && cursor.epoch < self.epochs, || {
            format!("worker `{name}` reports {cursor} where {expected} is next")
        })?;
        if cursor < self.applied {
            // Settled while this member was away: it catches up with what it says.
            self.reported[rank] = expected.max(cursor.next(self.steps_per_epoch));
            return Ok(());
        }
        let planned =
            batch_range(self.train_samples as usize, self.batch_size, done.step).len() as u64;
        Invariant::Ex1.check(done.samples == planned, || {
            let samples = done.samples;
            format!("worker `{name}` applied {samples} samples at {cursor}, the plan has {planned}")
        })?;
        let distance = cursor.global_step(self.steps_per_epoch) - self.global_step();
        match self.ahead.get_mut(distance as usize) {
            Some(step) => {
                let ours = (done.loss_scale, done.skipped);
                let theirs = (step.loss_scale, step.skipped);
                Invariant::Sc1.check(ours == theirs, || {
                    let first = &self.members[step.confirmed[0] as usize];
                    let (theirs, ours) = (scaled(theirs), scaled(ours));
                    format!("at {cursor} worker `{first}` {theirs}, worker `{name}` {ours}")
                })?;
                let (ours, theirs) = (done.replica_hash, step.replica_hash);
                Invariant::Rep1.check(ours == theirs, || {
                    let first = &self.members[step.confirmed[0] as usize];
                    format!("after {cursor} worker `{first}` has replica {theirs:016x}, worker `{name}` {ours:016x}")
                })?;
                if cursor == expected {
                    step.confirmed.push(rank as u32);
                    step.seconds = step.seconds.max(done.seconds);
                }
            }
            None => self.ahead.push_back(record(rank, done)),
        }
        if cursor == expected {
            self.reported[rank] = cursor.next(self.steps_per_epoch);
        }
        Ok(())
    }

    /// Takes the evaluation at an epoch's end. One that was taken before has no effect.
    pub fn epoch_done(&mut self, rank: usize, done: &EpochDone) -> Result<(), Failure> {
        if done.epoch < self.closed || self.evaluations.contains_key(&done.epoch) {
            return Ok(());
        }
        let name = &self.members[rank];
        let evaluations: Evaluations =
            serde_json::from_slice(&done.evaluation_json).map_err(|error| {
                Failure::resumable(format!(
                    "the evaluation that worker `{name}` sent cannot be read: {error}"
                ))
            })?;
        let next = self.reported[rank];
        let in_turn = next.epoch > done.epoch;
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

    /// The next generation begins at `start`: what was reported before it counts, whoever of its members
    /// is gone by now; what was reported after it does not.
    pub fn settle(&mut self, start: Cursor) {
        self.settled = start;
    }

    /// The next fact that is settled, if there is one. Until the next call everything else that the
    /// ledger tells stands exactly at that fact.
    pub fn advance(&mut self) -> Result<Option<Applied>, Violation> {
        let all = self.members.len();
        let is_settled = self
            .ahead
            .front()
            .is_some_and(|step| step.confirmed.len() == all || step.cursor() < self.settled);
        if self.applied.epoch > self.closed {
            let Some(evaluations) = self.evaluations.remove(&self.closed) else {
                Invariant::Ev1.check(!is_settled, || {
                    format!("epoch {} was never evaluated", self.closed)
                })?;
                return Ok(None);
            };
            let record = self.close_epoch(&evaluations)?;
            return Ok(Some(Applied::Epoch(
                Box::new(record),
                Box::new(evaluations),
            )));
        }
        if !is_settled {
            return Ok(None);
        }
        let Some(step) = self.ahead.pop_front() else {
            return Ok(None);
        };
        self.progress.add(&step);
        self.root.push(&step);
        self.applied = self.applied.next(self.steps_per_epoch);
        // What is settled is acknowledged: a member that was away then does not report it any more.
        for reported in &mut self.reported {
            *reported = self.applied.max(*reported);
        }
        self.last_step = Some(step.clone());
        Ok(Some(Applied::Step(step)))
    }

    fn close_epoch(&mut self, evaluations: &Evaluations) -> Result<EpochRecord, Violation> {
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
        let last = self.last_step.as_ref();
        let record = EpochRecord {
            epoch: self.closed,
            train_loss: progress.loss_sum / samples as f64,
            train_top1: progress.top1 as f64 / samples as f64,
            learning_rate: last.map_or(f64::NAN, |step| step.learning_rate),
            grad_norm: last.map_or(f64::NAN, |step| step.grad_norm),
            loss_scale: last.and_then(|step| step.loss_scale),
            skipped_steps: (last.is_some_and(|step| step.loss_scale.is_some()))
                .then_some(progress.skipped_steps),
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
        self.metric = Some(metric(&record));
        self.last_evaluations = Some(evaluations.clone());
        self.history.push(record.clone());
        Ok(record)
    }
}

/// Validation top-1 by which the best checkpoint is chosen.
fn metric(record: &EpochRecord) -> f64 {
    record.ema_top1.unwrap_or(record.val_top1)
}

fn record(rank: usize, done: &StepDone) -> StepRecord {
    StepRecord {
        epoch: done.epoch,
        step: done.step,
        generation: done.generation,
        samples: done.samples,
        loss_sum: done.loss_sum,
        top1: done.top1,
        top5: done.top5,
        learning_rate: done.learning_rate,
        grad_norm: done.grad_norm,
        loss_scale: done.loss_scale,
        skipped: done.skipped,
        replica_hash: done.replica_hash,
        seconds: done.seconds,
        confirmed: vec![rank as u32],
    }
}

/// What a member did with a step's gradient, for people.
fn scaled((scale, skipped): (Option<f64>, bool)) -> String {
    let did = if skipped { "skipped" } else { "took" };
    match scale {
        Some(scale) => format!("{did} the step at a loss scale of {scale}"),
        None => format!("{did} the step without a loss scale"),
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
