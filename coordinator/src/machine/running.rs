//! A generation at work: steps, epochs, checkpoints, and the way to its end.

use std::time::Duration;

use perennial_plan::Cursor;
use perennial_plan::invariants::Invariant;
use perennial_plan::ledger::StepRecord;
use perennial_proto::rules::checkpoint_due;
use perennial_proto::v1::worker_message::Kind;
use perennial_proto::v1::{self, Finished};

use super::checkpoints::Provenance;
use super::ledger::{Applied, per_second};
use super::worker::{Place, Standing};
use super::{Effect, Failure, Hashes, Machine, Phase, ResumePoint};
use crate::JobEvent;
use crate::log::LogEntry;

/// The weight of the newest step in the smoothed speed.
const SPEED_SMOOTHING: f64 = 0.1;
/// Settled steps go to the log when there are so many of them, or when the first one is so old.
const STEPS_AN_ENTRY: usize = 256;
const STEPS_AGE: Duration = Duration::from_secs(3);

impl Machine {
    /// What a worker says of a generation. Of another one than the one in force it has no effect.
    pub(super) fn member_message(&mut self, index: usize, kind: Kind) -> Result<(), Failure> {
        let (what, generation) = match &kind {
            Kind::StepDone(done) => ("step", done.generation),
            Kind::EpochDone(done) => ("epoch", done.generation),
            Kind::PartWritten(part) => ("checkpoint part", part.generation),
            Kind::CheckpointFailed(failed) => ("checkpoint", failed.generation),
            Kind::Finished(finished) => ("end", finished.generation),
            _ => ("message", 0),
        };
        let live = matches!(
            self.phase,
            Phase::Running | Phase::Assembling | Phase::Finishing
        );
        // A part's bytes do not depend on the generation in which they were written.
        let is_part = matches!(kind, Kind::PartWritten(_) | Kind::CheckpointFailed(_));
        let current =
            generation == self.generation_id() || (is_part && generation < self.generation_id());
        let rank = self.workers[index].rank;
        if let Kind::Finished(finished) = &kind
            && !(live && current && rank.is_some())
        {
            self.finished_elsewhere(index, finished);
            return Ok(());
        }
        let Some(rank) =
            rank.filter(|_| current && (live || (is_part && self.phase == Phase::Starting)))
        else {
            self.say_stale(index, what, generation);
            return Ok(());
        };
        let Some(ledger) = &mut self.ledger else {
            return Ok(());
        };
        match kind {
            Kind::StepDone(done) => {
                ledger.step_done(rank, &done)?;
                let slots = self
                    .generation
                    .as_ref()
                    .map_or(0, |generation| generation.members[rank].slots.len() as u32);
                self.workers[index].measure(slots, done.compute_seconds);
                self.workers[index].count(&done);
            }
            Kind::EpochDone(done) => ledger.epoch_done(rank, &done)?,
            Kind::PartWritten(part) => {
                let name = self.workers[index].name.clone();
                self.checkpoints.part_written(part).map_err(|why| {
                    let (number, rule) = Invariant::Rep1.describe();
                    Failure::resumable(format!("worker `{name}`: {why} ({number}: {rule})"))
                })?;
            }
            Kind::CheckpointFailed(failed) => {
                let name = self.workers[index].name.clone();
                let message = format!("worker `{name}`: {}", failed.message);
                self.part_failed(failed.global_step, generation, message);
            }
            Kind::Finished(finished) => self.member_finished(index, rank, &finished)?,
            _ => {}
        }
        Ok(())
    }

    /// A worker came to an end that is not that of the generation at work: it takes no step.
    fn finished_elsewhere(&mut self, index: usize, finished: &Finished) {
        let standing = Standing {
            cursor: Some(Cursor {
                epoch: finished.epoch,
                step: finished.step,
            }),
            hash: finished.replica_hash,
        };
        let ours = finished.generation == self.generation_id();
        let worker = &self.workers[index];
        match worker.place {
            _ if self.is_member(worker) && ours => {
                self.workers[index].place = Place::Halted(standing);
            }
            _ if self.is_member(worker) => {
                self.stands_elsewhere(index, finished.generation, standing);
            }
            Place::Stray => self.workers[index].place = Place::Pool,
            _ => {}
        }
    }

    /// Says once that something stale came and was ignored.
    fn say_stale(&mut self, index: usize, what: &str, generation: u64) {
        if !std::mem::replace(&mut self.stale_reported, true) {
            let (number, rule) = Invariant::Gen2.describe();
            let name = &self.workers[index].name;
            self.warn(format!(
                "worker `{name}` reported a {what} of generation {generation}, which is not at work; it was ignored ({number}: {rule}), and so are others from now on"
            ));
        }
    }

    /// Follows the ledger as far as things are settled, and does what is due on the way.
    pub(super) fn advance(&mut self) -> Result<(), Failure> {
        let live = matches!(
            self.phase,
            Phase::Running | Phase::Assembling | Phase::Finishing
        );
        while let Some(ledger) = self.ledger.as_mut().filter(|_| live) {
            let Some(applied) = ledger.advance()? else {
                break;
            };
            match applied {
                Applied::Step(step) => self.step_settled(step),
                Applied::Epoch(record, evaluations) => {
                    self.flush();
                    self.log.push(LogEntry::Epoch {
                        record: record.clone(),
                        evaluations,
                    });
                    self.expect_checkpoint_here();
                    self.emit(JobEvent::Epoch {
                        epoch: record.epoch,
                        train_loss: record.train_loss,
                        val_loss: record.val_loss,
                        val_top1: record.val_top1,
                        val_top5: record.val_top5,
                        ema_loss: record.ema_loss,
                        ema_top1: record.ema_top1,
                        ema_top5: record.ema_top5,
                        images_per_second: record.images_per_second,
                        seconds: record.seconds,
                    });
                }
            }
        }
        self.flush_if_due();
        self.commit_complete();
        Ok(())
    }

    fn step_settled(&mut self, step: StepRecord) {
        if self.unlogged.is_empty() {
            self.unlogged_since = self.now;
        }
        self.unlogged.push(step.clone());
        self.expect_checkpoint();
        self.emit_step(&step);
        self.let_the_released_go();
    }

    // --- the ledger in the log ----------------------------------------------------------------------

    /// Sends settled steps to the log.
    pub(super) fn flush(&mut self) {
        let steps = std::mem::take(&mut self.unlogged);
        if !steps.is_empty() {
            self.log.push(LogEntry::Steps { steps });
        }
    }

    fn flush_if_due(&mut self) {
        let many = self.unlogged.len() >= STEPS_AN_ENTRY;
        let old = self.now - self.unlogged_since >= STEPS_AGE;
        // A checkpoint waits for the steps before it.
        let flushed = self
            .ledger
            .as_ref()
            .map_or(0, |ledger| ledger.global_step())
            - self.unlogged.len() as u64;
        let needed = self.checkpoints.complete() > Some(flushed);
        if !self.unlogged.is_empty() && (many || old || needed) {
            self.flush();
        }
    }

    /// Tells the members what they need not say again.
    pub(super) fn acknowledge(&mut self) {
        let ack = v1::Ack {
            global_step: self.logged,
            epochs: self.logged_epochs,
            checkpoint: self.checkpoints.newest().unwrap_or(0),
        };
        for index in self.members() {
            self.send_to(index, ack);
        }
    }

    // --- steps --------------------------------------------------------------------------------------

    fn emit_step(&mut self, step: &StepRecord) {
        let Some(ledger) = &self.ledger else {
            return;
        };
        let speed = per_second(step.samples, step.seconds);
        let smoothed = match self.images_per_second {
            Some(before) => before + SPEED_SMOOTHING * (speed - before),
            None => speed,
        };
        let samples = step.samples as f64;
        let event = JobEvent::Step {
            epoch: step.epoch + 1,
            step: step.step + 1,
            global_step: ledger.global_step(),
            total_steps: ledger.total_steps(),
            loss: step.loss_sum / samples,
            top1: step.top1 as f64 / samples,
            learning_rate: step.learning_rate,
            grad_norm: step.grad_norm,
            loss_scale: step.loss_scale,
            skipped: step.loss_scale.map(|_| step.skipped),
            images_per_second: smoothed,
            eta_seconds: if smoothed > 0.0 {
                ledger.remaining_samples() as f64 / smoothed
            } else {
                0.0
            },
        };
        self.images_per_second = Some(smoothed);
        self.step_seconds += step.seconds;
        self.emit(event);
    }

    fn member_finished(
        &mut self,
        index: usize,
        rank: usize,
        finished: &Finished,
    ) -> Result<(), Failure> {
        let cursor = Cursor {
            epoch: finished.epoch,
            step: finished.step,
        };
        if let Some(ledger) = &self.ledger {
            ledger.finished(rank, cursor)?;
        }
        let early = cursor.epoch < self.config.spec.train.epochs;
        if early != finished.stopped_early {
            let name = &self.workers[index].name;
            return Err(Failure::resumable(format!(
                "worker `{name}` finished at {cursor} though the job does not end there"
            )));
        }
        // A stop that an earlier coordinator asked for is kept.
        self.stop_requested |= early;
        let worker = &mut self.workers[index];
        worker.halt_asked = None;
        worker.place = Place::Finished(Standing {
            cursor: Some(cursor),
            hash: finished.replica_hash,
        });
        Ok(())
    }

    pub(super) fn finish_if_all_have(&mut self) -> Result<(), Failure> {
        let finished = |index: &usize| matches!(self.workers[*index].place, Place::Finished(_));
        let members = self.members();
        if members.is_empty() || !members.iter().all(finished) {
            return Ok(());
        }
        if let Some(ledger) = &self.ledger {
            ledger.close()?;
        }
        self.expect_checkpoint_here();
        self.phase = Phase::Finishing;
        Ok(())
    }

    // --- checkpoints --------------------------------------------------------------------------------

    /// A checkpoint is due where the ledger stands, if the job says so.
    pub(super) fn expect_checkpoint(&mut self) {
        let Some(ledger) = &self.ledger else {
            return;
        };
        let cursor = ledger.cursor();
        // The one at an epoch's end waits for the evaluation.
        let evaluated = cursor.step != 0 || ledger.evaluated().1 == cursor.epoch;
        if evaluated && checkpoint_due(&self.config.spec, cursor, ledger.steps_per_epoch()) {
            self.expect_checkpoint_here();
        }
    }

    /// The members write a checkpoint where the ledger stands.
    pub(super) fn expect_checkpoint_here(&mut self) {
        let members: Vec<String> = self
            .generation
            .iter()
            .flat_map(|generation| &generation.members)
            .map(|member| member.worker.clone())
            .collect();
        if let Some(ledger) = self
            .ledger
            .as_ref()
            .filter(|ledger| ledger.global_step() > 0)
        {
            let generation = self.generation_id();
            self.checkpoints.due(ledger, &members, generation);
        }
    }

    /// Says which checkpoints nobody can complete any more.
    pub(super) fn report_abandoned(&mut self) {
        let alive: Vec<String> = self
            .workers
            .iter()
            .filter(|worker| worker.connection.is_some() && !worker.released)
            .map(|worker| worker.name.clone())
            .collect();
        for (step, message) in self.checkpoints.abandoned(&alive) {
            self.warn(format!("checkpoint {step} was not completed: {message}"));
        }
    }

    pub(super) fn commit_complete(&mut self) {
        let Some(data) = &self.data else {
            return;
        };
        let provenance = Provenance {
            generation: self.generation_id(),
            numerics: data.numerics.clone(),
            data_fingerprint: data.fingerprint.clone(),
        };
        for commit in self
            .checkpoints
            .take_complete(self.logged, self.logged_epochs, &provenance)
        {
            self.effects
                .push(Effect::CommitCheckpoint(Box::new(commit)));
        }
    }

    pub(super) fn checkpoint_committed(&mut self, global_step: u64) {
        let ledger = self.ledger.as_ref();
        if ledger.is_some_and(|ledger| ledger.global_step() < global_step) {
            // The run went back behind it meanwhile, and will come to it again.
            self.checkpoints.drop(global_step);
            return self.end_failing_unless_committing();
        }
        let Some(commit) = self.checkpoints.committed(global_step) else {
            return;
        };
        let (weights_sha256, ema_sha256) = commit.weights(&self.config.spec);
        self.is_newest(ResumePoint {
            global_step,
            snapshot: commit.snapshot,
            numerics: commit.provenance.numerics,
            data_fingerprint: commit.provenance.data_fingerprint,
            weights_sha256: weights_sha256.clone(),
            ema_sha256,
        });
        self.emit(JobEvent::Checkpoint {
            global_step,
            weights_sha256,
        });
        if matches!(self.phase, Phase::Failing(_)) {
            return self.end_failing_unless_committing();
        }
        self.acknowledge();
        self.effects.push(Effect::Prune {
            newest: global_step,
            term: self.term,
            position: self.log.position(),
        });
    }

    /// A checkpoint that an earlier coordinator committed, perhaps while this one was claiming the job.
    pub(super) fn found_checkpoint(&mut self, found: ResumePoint) {
        let known = self.checkpoints.newest();
        if Some(found.global_step) > known {
            self.checkpoints.found(found.global_step);
            self.is_newest(found);
        }
    }

    /// A generation without survivors begins there.
    fn is_newest(&mut self, checkpoint: ResumePoint) {
        let cursor = checkpoint.snapshot.cursor;
        if cursor.step == 0 {
            self.evaluated = Some(Hashes {
                epochs_done: cursor.epoch,
                weights_sha256: checkpoint.weights_sha256.clone(),
                ema_sha256: checkpoint.ema_sha256.clone(),
            });
        }
        self.newest = Some(checkpoint);
    }

    fn part_failed(&mut self, global_step: u64, generation: u64, message: String) {
        if self
            .checkpoints
            .part_failed(global_step, generation, &message)
        {
            self.say_checkpoint_failed(global_step, &message);
        }
    }

    pub(super) fn commit_failed(&mut self, global_step: u64, message: String) {
        self.checkpoints.commit_failed(global_step, &message);
        if matches!(self.phase, Phase::Failing(_)) {
            return self.end_failing_unless_committing();
        }
        self.say_checkpoint_failed(global_step, &message);
    }

    fn say_checkpoint_failed(&mut self, global_step: u64, message: &str) {
        self.warn(format!(
            "checkpoint {global_step} could not be written: {message}"
        ));
    }
}
