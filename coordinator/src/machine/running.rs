//! A generation at work: steps, epochs, checkpoints, and the way to its end.

use perennial_plan::Cursor;
use perennial_plan::invariants::Invariant;
use perennial_proto::rules::checkpoint_due;
use perennial_proto::v1::worker_message::Kind;
use perennial_proto::v1::{Finished, StepDone};

use super::checkpoints::Provenance;
use super::ledger::{Applied, per_second};
use super::{Effect, Failure, Hashes, Machine, Phase};
use crate::JobEvent;

/// The weight of the newest step in the smoothed speed.
const SPEED_SMOOTHING: f64 = 0.1;

impl Machine {
    /// A message that belongs to a generation. Of another one, or out of its time, it has no effect.
    pub(super) fn member_message(&mut self, rank: usize, kind: Kind) -> Result<(), Failure> {
        let (what, generation) = match &kind {
            Kind::StepDone(done) => ("step", done.generation),
            Kind::EpochDone(done) => ("epoch", done.generation),
            Kind::PartWritten(part) => ("checkpoint part", part.generation),
            Kind::CheckpointFailed(failed) => ("checkpoint", failed.generation),
            Kind::Finished(finished) => ("end", finished.generation),
            _ => ("greeting", 0),
        };
        let live = matches!(
            self.phase,
            Phase::Running | Phase::Stopping | Phase::Finishing
        );
        let current = self.generation.as_ref().map(|generation| generation.id);
        let Some(ledger) = self
            .ledger
            .as_mut()
            .filter(|_| live && current == Some(generation))
        else {
            self.say_stale(rank, what);
            return Ok(());
        };
        match kind {
            Kind::StepDone(done) => ledger.step_done(rank, done)?,
            Kind::EpochDone(done) => ledger.epoch_done(rank, &done)?,
            Kind::PartWritten(part) => {
                let name = &self.workers[rank].name;
                self.checkpoints.part_written(part).map_err(|why| {
                    Failure::resumable(format!("worker `{name}` broke the protocol: {why}"))
                })?;
            }
            Kind::CheckpointFailed(failed) => {
                let name = self.workers[rank].name.clone();
                self.checkpoint_failed(
                    failed.global_step,
                    &format!("worker `{name}`: {}", failed.message),
                )?;
            }
            Kind::Finished(finished) => self.member_finished(rank, finished)?,
            _ => {}
        }
        self.advance()
    }

    /// Says once that something stale came and was ignored.
    pub(super) fn say_stale(&mut self, rank: usize, what: &str) {
        if !std::mem::replace(&mut self.stale_reported, true) {
            let (number, rule) = Invariant::Gen2.describe();
            let name = &self.workers[rank].name;
            self.warn(format!(
                "worker `{name}` reported a {what} that belongs to no running generation; it was ignored ({number}: {rule}), and so are others from now on"
            ));
        }
    }

    /// Follows the ledger as far as all members agree.
    fn advance(&mut self) -> Result<(), Failure> {
        while let Some(ledger) = &mut self.ledger {
            let Some(applied) = ledger.advance()? else {
                break;
            };
            let (cursor, steps_per_epoch) = (ledger.cursor(), ledger.steps_per_epoch());
            match applied {
                Applied::Step(step) => {
                    // The checkpoint at an epoch's end waits for the evaluation.
                    if cursor.step != 0
                        && checkpoint_due(&self.config.spec, cursor, steps_per_epoch)
                    {
                        self.checkpoints.due(ledger);
                    }
                    self.emit_step(&step);
                }
                Applied::Epoch(record) => {
                    self.checkpoints.due(ledger);
                    self.emit(JobEvent::Epoch {
                        epoch: record.epoch,
                        train_loss: record.train_loss,
                        val_top1: record.val_top1,
                        val_top5: record.val_top5,
                        ema_top1: record.ema_top1,
                        ema_top5: record.ema_top5,
                        images_per_second: record.images_per_second,
                        seconds: record.seconds,
                    });
                }
            }
        }
        self.finish_if_all_have()?;
        self.commit_complete();
        self.conclude_if_written()
    }

    fn emit_step(&mut self, step: &StepDone) {
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
            images_per_second: smoothed,
            eta_seconds: if smoothed > 0.0 {
                ledger.remaining_samples() as f64 / smoothed
            } else {
                0.0
            },
        };
        self.images_per_second = Some(smoothed);
        self.emit(event);
    }

    fn member_finished(&mut self, rank: usize, finished: Finished) -> Result<(), Failure> {
        let cursor = Cursor {
            epoch: finished.epoch,
            step: finished.step,
        };
        let name = &self.workers[rank].name;
        if let Some(ledger) = &self.ledger {
            ledger.finished(rank, cursor)?;
        }
        let early = cursor.epoch < self.config.spec.train.epochs;
        if early != finished.stopped_early || (early && !self.stop_requested) {
            return Err(Failure::resumable(format!(
                "worker `{name}` finished at {cursor} though nobody asked it to stop there"
            )));
        }
        self.workers[rank].finished = true;
        Ok(())
    }

    fn finish_if_all_have(&mut self) -> Result<(), Failure> {
        let running = matches!(self.phase, Phase::Running | Phase::Stopping);
        let Some(ledger) = self.ledger.as_ref().filter(|_| running) else {
            return Ok(());
        };
        if !self.workers.iter().all(|worker| worker.finished) {
            return Ok(());
        }
        ledger.close()?;
        if self.has_moved()
            && !checkpoint_due(&self.config.spec, ledger.cursor(), ledger.steps_per_epoch())
        {
            self.checkpoints.due(ledger);
        }
        self.phase = Phase::Finishing;
        Ok(())
    }

    /// Whether the run has applied a step.
    pub(super) fn has_moved(&self) -> bool {
        let start = self.generation.as_ref().map(|generation| generation.start);
        self.ledger.as_ref().map(|ledger| ledger.cursor()) != start
    }

    fn commit_complete(&mut self) {
        let (Some(generation), Some(first)) = (&self.generation, self.workers.first()) else {
            return;
        };
        let provenance = Provenance {
            generation: generation.id,
            numerics: first.hello.numerics.clone(),
            data_fingerprint: first
                .ready
                .as_ref()
                .map(|ready| ready.data_fingerprint.clone())
                .unwrap_or_default(),
        };
        for commit in self.checkpoints.take_complete(&provenance) {
            self.effects
                .push(Effect::CommitCheckpoint(Box::new(commit)));
        }
    }

    pub(super) fn checkpoint_committed(&mut self, global_step: u64) -> Result<(), Failure> {
        let Some(commit) = self.checkpoints.committed(global_step) else {
            return Ok(());
        };
        let weights_sha256 = commit
            .tensors_sha256("model")
            .unwrap_or_default()
            .to_string();
        let cursor = commit.snapshot.cursor;
        if cursor.step == 0 {
            self.evaluated = Some(Hashes {
                epochs_done: cursor.epoch,
                weights_sha256: weights_sha256.clone(),
                ema_sha256: commit.tensors_sha256("ema").map(str::to_string),
            });
        }
        self.emit(JobEvent::Checkpoint {
            global_step,
            weights_sha256,
        });
        if matches!(self.phase, Phase::Failing(_)) {
            self.end_failing_unless_committing();
            return Ok(());
        }
        self.effects.push(Effect::Prune);
        self.conclude_if_written()
    }

    pub(super) fn checkpoint_failed(
        &mut self,
        global_step: u64,
        message: &str,
    ) -> Result<(), Failure> {
        self.checkpoints.failed(global_step, message.to_string());
        if matches!(self.phase, Phase::Failing(_)) {
            self.end_failing_unless_committing();
            return Ok(());
        }
        self.warn(format!(
            "checkpoint {global_step} could not be written: {message}"
        ));
        self.conclude_if_written()
    }
}
