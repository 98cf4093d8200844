//! The training loop of a member.

use std::time::{Duration, Instant};

use perennial_collective::Contribution;
use perennial_data::{DataError, Prefetcher, Request, SlotBatch};
use perennial_model::{Bound, DropPathKey};
use perennial_plan::order::{batch_range, epoch_order, slot_range, steps_per_epoch};
use perennial_plan::{Cursor, Spec};
use perennial_proto::rules::{checkpoint_due, control};
use perennial_proto::v1::{EpochDone, Finished, StepDone};
use perennial_session::{Assignment, Report};
use perennial_train::{SlotInput, StepDelta, StepOutcome, slot_gradient};

use crate::checkpointing::Part;
use crate::error::WorkerError;
use crate::member::Member;
use crate::numerics::operands;
use crate::slots::contribution;

/// What a step did, and what the members agreed on with it.
struct Stepped {
    outcome: StepOutcome,
    control: u64,
    compute: Duration,
}

impl Member<'_> {
    /// Does what is due at the generation's start, then trains to the job's end, or to a stop or a halt on
    /// which all members agree. Returns the last report.
    pub fn train(&mut self, assignment: &Assignment) -> Result<Report, WorkerError> {
        let worker = self.worker;
        let (job, reporter) = (&worker.job, &worker.reporter);
        let (epochs, steps) = (job.spec.train.epochs, job.steps_per_epoch);
        let start = assignment.generation.start;
        if assignment.evaluate && start.epoch > 0 {
            self.close_epoch(start.epoch - 1)?;
        }
        if assignment.checkpoint {
            self.checkpoint(start, true);
        }
        if assignment.finish || start.epoch >= epochs {
            return Ok(self.finished(start));
        }
        let mut batches = prefetch(self);
        let mut cursor = start;
        loop {
            let started = Instant::now();
            let global_step = cursor.global_step(steps);
            let learning_rate = job.schedule.at(global_step);
            let stepped = self.step(cursor, global_step, learning_rate, &mut batches)?;
            let outcome = stepped.outcome;
            reporter.send(Report::StepDone(StepDone {
                generation: self.generation.id,
                epoch: cursor.epoch,
                step: cursor.step,
                samples: outcome.samples,
                loss_sum: outcome.loss_sum,
                top1: outcome.top1,
                top5: outcome.top5,
                learning_rate,
                grad_norm: outcome.grad_norm,
                replica_hash: outcome.hash,
                seconds: started.elapsed().as_secs_f64(),
                compute_seconds: stepped.compute.as_secs_f64(),
                global_step: global_step + 1,
            }));
            let epoch = cursor.epoch;
            cursor = cursor.next(steps);
            if cursor.step == 0 {
                self.close_epoch(epoch)?;
            }
            let is_set = |flag: u64| stepped.control & flag != 0;
            let ends = cursor.epoch >= epochs || is_set(control::STOP);
            let last = ends || is_set(control::CHECKPOINT);
            if last || checkpoint_due(&job.spec, cursor, steps) {
                self.checkpoint(cursor, last);
            }
            if ends {
                return Ok(self.finished(cursor));
            }
            if is_set(control::REGROUP) {
                return Ok(worker.halted(self.generation.id, Vec::new()));
            }
        }
    }

    fn close_epoch(&mut self, epoch: u32) -> Result<(), WorkerError> {
        let evaluation_json = self.evaluate()?;
        self.worker.reporter.send(Report::EpochDone(EpochDone {
            generation: self.generation.id,
            epoch,
            evaluation_json,
        }));
        Ok(())
    }

    /// This member's parts of the checkpoint at `cursor`; `last`: it must be written, even if another one
    /// is on its way.
    fn checkpoint(&self, cursor: Cursor, last: bool) {
        let asked = Instant::now();
        self.worker.checkpoints.write(Part {
            global_step: cursor.global_step(self.worker.job.steps_per_epoch),
            generation: self.generation.id,
            rank: self.rank,
            world_size: self.generation.members.len(),
            last,
        });
        tracing::debug!(%cursor, stall = ?asked.elapsed(), "a checkpoint is being copied");
    }

    fn finished(&self, cursor: Cursor) -> Report {
        let (_, replica_hash) = self.worker.replica.standing().unwrap_or_default();
        Report::Finished(Finished {
            generation: self.generation.id,
            epoch: cursor.epoch,
            step: cursor.step,
            stopped_early: cursor.epoch < self.worker.job.spec.train.epochs,
            replica_hash,
        })
    }

    /// One step: own slots, the sum over all, the change of the replica.
    fn step(
        &mut self,
        cursor: Cursor,
        global_step: u64,
        learning_rate: f64,
        batches: &mut Prefetcher<Result<SlotBatch, DataError>>,
    ) -> Result<Stepped, WorkerError> {
        let (worker, turn) = (self.worker, self.turn);
        let job = &worker.job;
        let (network, spec) = (&job.network, &job.spec);
        let size = spec.data.image_size as usize;
        let owned = self.generation.members[self.rank].slots.clone();
        let samples = job.pipeline.data().train.len();
        let occupied = occupied_slots(spec, samples, cursor, owned.clone());

        let began = Instant::now();
        let bound = worker.replica.read(|held| {
            let held = held.expect("a member holds a replica");
            Bound::new(
                &network.table,
                &held.replica.weights,
                &worker.device,
                operands(spec.train.precision),
            )
        });
        // The prefetcher was asked for just these slots, in this order.
        let mut slots = occupied.into_iter();
        let next = || {
            if let Err(over) = turn.check() {
                return Some(Err(over));
            }
            let (slot, _) = slots.next()?;
            let batch = batches.next()?;
            Some(batch.map(|batch| (slot, batch)).map_err(WorkerError::from))
        };
        let work = |(slot, batch): (u32, SlotBatch)| {
            let input = SlotInput {
                images: batch.images,
                targets: batch.targets,
                labels: batch.labels,
            };
            let key = DropPathKey {
                seed: spec.seed,
                global_step,
                slot,
            };
            slot_gradient(network, &bound, input, size, key).map(|outcome| (slot, outcome))
        };
        let outcomes = worker.cores.for_each(next, work)?;
        let outcomes = outcomes.into_iter().collect::<Result<_, _>>()?;
        drop(bound);
        let compute = began.elapsed();

        let reduced = self.all_reduce(Contribution {
            control: turn.flags(),
            ..contribution(network, spec.train.slots, owned, outcomes)?
        })?;
        let delta = StepDelta {
            gradient: reduced.gradients,
            statistics: reduced.statistics,
            learning_rate,
        };
        let (outcome, waited) = worker.replica.apply(&network.table, delta)?;
        if waited > Duration::from_millis(1) {
            tracing::debug!(
                global_step,
                ?waited,
                "the step waited for a copy of the replica"
            );
        }
        Ok(Stepped {
            outcome,
            control: reduced.control,
            compute,
        })
    }
}

/// The slots of `owned` that have samples at `cursor`, with the places of these in the epoch's order.
fn occupied_slots(
    spec: &Spec,
    samples: usize,
    cursor: Cursor,
    owned: std::ops::Range<u32>,
) -> Vec<(u32, std::ops::Range<usize>)> {
    let batch = batch_range(samples, spec.train.batch_size as usize, cursor.step);
    owned
        .map(|slot| (slot, slot_range(batch.clone(), spec.train.slots, slot)))
        .filter(|(_, places)| !places.is_empty())
        .collect()
}

/// The member's slots from the generation's start to the job's end, in the order of [`occupied_slots`],
/// prepared ahead in the background.
fn prefetch(member: &Member) -> Prefetcher<Result<SlotBatch, DataError>> {
    let job = &member.worker.job;
    let owned = member.generation.members[member.rank].slots.clone();
    let start = member.generation.start;
    let samples = job.pipeline.data().train.len();
    let requests = requests(job.spec.clone(), samples, owned, start);
    let threads = member.worker.threads;
    job.pipeline
        .prefetch(threads, look_ahead(threads), requests)
}

/// How many slots are prepared ahead of their use.
pub(crate) fn look_ahead(threads: usize) -> usize {
    2 * threads.max(1) + 2
}

/// What the owner of the slots `owned` trains from `start` to the job's end.
pub(crate) fn requests(
    spec: Spec,
    samples: usize,
    owned: std::ops::Range<u32>,
    start: Cursor,
) -> impl Iterator<Item = Request> + Send + 'static {
    let steps = steps_per_epoch(samples, spec.train.batch_size as usize);
    (start.epoch..spec.train.epochs).flat_map(move |epoch| {
        let order = epoch_order(spec.seed, epoch, samples);
        let first = if epoch == start.epoch { start.step } else { 0 };
        let (spec, owned) = (spec.clone(), owned.clone());
        (first..steps).flat_map(move |step| {
            let cursor = Cursor { epoch, step };
            let requests: Vec<Request> = occupied_slots(&spec, samples, cursor, owned.clone())
                .into_iter()
                .map(|(slot, places)| Request::Train {
                    epoch,
                    global_step: cursor.global_step(steps),
                    slot,
                    samples: order[places].to_vec(),
                })
                .collect();
            requests
        })
    })
}
