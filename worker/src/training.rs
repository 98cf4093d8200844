//! The training loop of a member.

use std::time::{Duration, Instant};

use perennial_collective::Contribution;
use perennial_data::{DataError, Prefetcher, Request, Side, SlotBatch};
use perennial_model::DropPathKey;
use perennial_plan::order::{batch_range, slot_range, steps_per_epoch, visiting_order};
use perennial_plan::{Cursor, Spec};
use perennial_proto::rules::{checkpoint_due, control};
use perennial_proto::v1::{EpochDone, Finished, StepDone};
use perennial_session::{Assignment, Report};
use perennial_train::{StepDelta, StepOutcome, loss_factor, slot_gradient};

use crate::checkpointing::Part;
use crate::error::WorkerError;
use crate::member::{Member, slot_failure};
use crate::numerics::operands;
use crate::own_slots::{Clock, OwnSlots};
use crate::phases::Phases;
use crate::pictures;
use crate::slots::SlotSums;

/// What a step did, and what the members agreed on with it.
pub(crate) struct Stepped {
    pub outcome: StepOutcome,
    pub control: u64,
    pub phases: Phases,
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
        let evaluated = job.evaluated.as_ref();
        let evaluated = evaluated.map(|it| it.bound(&job.network, &worker.device));
        let mut cursor = start;
        loop {
            let started = Instant::now();
            let global_step = cursor.global_step(steps);
            let (learning_rate, stepped) = match &evaluated {
                None => {
                    let rate = job.schedule.at(global_step);
                    (rate, self.step(cursor, global_step, rate, &mut batches)?)
                }
                Some(weights) => (0.0, self.score(cursor, weights, &mut batches)?),
            };
            let outcome = stepped.outcome;
            stepped.phases.trace(self, global_step + 1);
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
                loss_scale: outcome.loss_scale.map(f64::from),
                skipped: outcome.skipped,
                replica_hash: outcome.hash,
                seconds: started.elapsed().as_secs_f64(),
                compute_seconds: stepped.phases.own().as_secs_f64(),
                global_step: global_step + 1,
                phases: Some(stepped.phases.told()),
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
        let worker = self.worker;
        let job = &worker.job;
        let (network, spec) = (&job.network, &job.spec);
        let size = spec.data.image_size as usize;
        let owned = self.generation.members[self.rank].slots.clone();
        let samples = job.pipeline.data().train.len();
        let own = OwnSlots::new(self, cursor, batches);
        let (bound, loss_scale) = worker.replica.glance(|held| {
            let replica = held.expect("a member holds a replica").replica();
            let precision = operands(spec.train.precision);
            let bound = replica.bound(&network.table, &worker.device, precision);
            (bound, replica.loss_scale())
        });
        let batch = batch_range(samples, spec.train.batch_size as usize, cursor.step);
        let factor = loss_factor(loss_scale, batch.len());
        let generation = self.generation.clone();
        let sums = SlotSums::new(network, spec.train.slots, owned, self.device_slots());
        let work = |(slot, batch): (u32, SlotBatch)| {
            let input = pictures::input(batch, size, &worker.device);
            let key = DropPathKey {
                seed: spec.seed,
                global_step,
                slot,
            };
            let outcome = slot_gradient(network, &bound, input, key, factor)?;
            sums.add(slot, outcome)
        };
        let failed = |error| slot_failure(worker, error, &generation);
        let (clock, _) = own.compute(&worker.cores, work).map_err(failed)?;
        drop(bound);
        let contribution = sums.finish().map_err(|error| failed(error.into()))?;
        self.conclude(cursor, clock, contribution, learning_rate)
    }

    /// The rest of a step, once the own slots are computed: the sum over all slots, the change of the replica.
    pub(crate) fn conclude(
        &mut self,
        cursor: Cursor,
        clock: Clock,
        contribution: Contribution,
        learning_rate: f64,
    ) -> Result<Stepped, WorkerError> {
        let worker = self.worker;
        let computed = Instant::now();
        let sum = self.all_reduce(Contribution {
            control: self.turn.flags(),
            ..contribution
        })?;
        let reduced = Instant::now();
        let delta = StepDelta {
            gradient: sum.gradients,
            statistics: sum.statistics,
            learning_rate,
        };
        let (outcome, stalled) = worker.replica.apply(&worker.job.network.table, delta)?;
        if stalled > Duration::from_millis(1) {
            let global_step = cursor.global_step(worker.job.steps_per_epoch);
            tracing::debug!(
                global_step,
                ?stalled,
                "the step waited for a copy of the replica"
            );
        }
        Ok(Stepped {
            outcome,
            control: sum.control,
            phases: Phases {
                began: clock.began,
                data: clock.waited,
                computed,
                reduced,
                stalled,
                applied: Instant::now(),
                sent_bytes: self.sent_bytes() - clock.sent,
            },
        })
    }
}

/// The slots of `owned` that have samples at `cursor`, with the places of these in the epoch's order.
pub(crate) fn occupied_slots(
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
    let samples = job.samples();
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
        let order = visiting_order(&spec, epoch, samples);
        let first = if epoch == start.epoch { start.step } else { 0 };
        let (spec, owned) = (spec.clone(), owned.clone());
        (first..steps).flat_map(move |step| {
            let cursor = Cursor { epoch, step };
            let requests: Vec<Request> = occupied_slots(&spec, samples, cursor, owned.clone())
                .into_iter()
                .map(|(slot, places)| match spec.evaluate {
                    None => Request::Train {
                        epoch,
                        global_step: cursor.global_step(steps),
                        slot,
                        samples: order[places].to_vec(),
                    },
                    Some(_) => Request::Eval {
                        side: Side::Val,
                        samples: order[places].to_vec(),
                    },
                })
                .collect();
            requests
        })
    })
}
