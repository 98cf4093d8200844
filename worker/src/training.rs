//! The training loop of a member.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use perennial_collective::{Contribution, Partial, SlotSum};
use perennial_data::{DataError, Prefetcher, Request, SlotBatch};
use perennial_model::{Bound, DropPathKey};
use perennial_plan::order::{batch_range, epoch_order, slot_range, steps_per_epoch};
use perennial_plan::{Cursor, Spec};
use perennial_proto::rules::{checkpoint_due, control};
use perennial_proto::v1::{EpochDone, Finished, Lost, Standing, StepDone};
use perennial_session::{Assignment, Report};
use perennial_train::{SlotInput, StepDelta, StepOutcome, slot_gradient, statistics_len};

use crate::checkpointing::Urgency;
use crate::ears::Turn;
use crate::error::WorkerError;
use crate::member::Member;
use crate::prepare::Worker;

type Batches = Prefetcher<Result<SlotBatch, DataError>>;

/// A stall below this is not worth a line.
const NOTABLE: Duration = Duration::from_millis(1);

impl Worker {
    /// Trains in a generation until the job's end, a stop, a change of membership, or its breaking; says
    /// how it ended.
    pub fn train(&self, assignment: &Assignment, turn: &Turn) {
        let trained = turn
            .check()
            .and_then(|()| self.bring_to_start(assignment, turn))
            .and_then(|()| Member::connect(self, assignment, turn))
            .and_then(|mut member| member.train(assignment));
        let report = match trained {
            Ok(report) => report,
            Err(WorkerError::Broken { reason, lost }) => {
                let generation = assignment.generation.id;
                tracing::debug!(generation, reason, "the generation is over");
                self.halted(assignment, lost)
            }
            Err(error) => error.report(),
        };
        self.reporter.send(report);
    }

    /// Where the replica stands, or that there is none.
    fn halted(&self, assignment: &Assignment, lost: Vec<Lost>) -> Report {
        let generation = &assignment.generation;
        let standing = self.replica.standing();
        let cursor = match standing {
            Some((global_step, _)) => self.job.cursor(global_step),
            None => generation.start,
        };
        Report::Halted(Standing {
            generation: generation.id,
            epoch: cursor.epoch,
            step: cursor.step,
            replica_hash: standing.map_or(0, |(_, hash)| hash),
            halted: true,
            lost,
            empty: standing.is_none(),
        })
    }
}

impl Member<'_> {
    /// Does what is to be done at the start, then step after step.
    fn train(&mut self, assignment: &Assignment) -> Result<Report, WorkerError> {
        let worker = self.worker;
        let (spec, steps) = (&worker.job.spec, worker.job.steps_per_epoch);
        let mut cursor = self.generation.start;
        if assignment.evaluate && cursor.epoch > 0 {
            self.report_epoch(cursor.epoch - 1)?;
        }
        if assignment.checkpoint {
            let checkpoints = &worker.checkpoints;
            checkpoints.write(assignment, cursor.global_step(steps), Urgency::Last);
        }
        if assignment.finish {
            return Ok(self.finished(cursor));
        }
        let mut batches = self.prefetch();
        while cursor.epoch < spec.train.epochs {
            let flags = self.step(cursor, &mut batches)?;
            let epoch = cursor.epoch;
            cursor = cursor.next(steps);
            if cursor.step == 0 {
                self.report_epoch(epoch)?;
            }
            let stops = flags & control::STOP != 0;
            let ends = stops || cursor.epoch == spec.train.epochs;
            let asked = stops || flags & control::CHECKPOINT != 0;
            if asked || checkpoint_due(spec, cursor, steps) {
                let urgency = if asked || ends {
                    Urgency::Last
                } else {
                    Urgency::Routine
                };
                let started = Instant::now();
                let global_step = cursor.global_step(steps);
                worker.checkpoints.write(assignment, global_step, urgency);
                note_stall(global_step, started.elapsed());
            }
            if ends {
                return Ok(self.finished(cursor));
            }
            if flags & control::REGROUP != 0 {
                return Ok(worker.halted(assignment, Vec::new()));
            }
        }
        Ok(self.finished(cursor))
    }

    fn finished(&self, cursor: Cursor) -> Report {
        let standing = self.worker.replica.standing();
        Report::Finished(Finished {
            generation: self.generation.id,
            epoch: cursor.epoch,
            step: cursor.step,
            stopped_early: cursor.epoch < self.worker.job.spec.train.epochs,
            replica_hash: standing.map_or(0, |(_, hash)| hash),
        })
    }

    /// Evaluates at the end of `epoch`. Every member reports it; the session keeps what need not be told.
    fn report_epoch(&mut self, epoch: u32) -> Result<(), WorkerError> {
        let evaluation_json = self.evaluate()?;
        self.worker.reporter.send(Report::EpochDone(EpochDone {
            generation: self.generation.id,
            epoch,
            evaluation_json,
        }));
        Ok(())
    }

    /// One step: own slots, the sum over all, the change of the replica. Returns the members' flags.
    fn step(&mut self, cursor: Cursor, batches: &mut Batches) -> Result<u64, WorkerError> {
        let started = Instant::now();
        let worker = self.worker;
        let job = &worker.job;
        let global_step = cursor.global_step(job.steps_per_epoch);
        let contribution = self.compute(cursor, global_step, batches)?;
        let computed = started.elapsed();
        let reduced = self.all_reduce(contribution)?;
        let learning_rate = job.schedule.at(global_step);
        let delta = StepDelta {
            gradient: reduced.gradients,
            statistics: reduced.statistics,
            learning_rate,
        };
        let (outcome, waited) = worker.replica.apply(&job.network.table, delta)?;
        note_stall(global_step, waited);
        let StepOutcome {
            samples,
            loss_sum,
            top1,
            top5,
            grad_norm,
            hash: replica_hash,
        } = outcome;
        worker.reporter.send(Report::StepDone(StepDone {
            generation: self.generation.id,
            epoch: cursor.epoch,
            step: cursor.step,
            samples,
            loss_sum,
            top1,
            top5,
            learning_rate,
            grad_norm,
            replica_hash,
            seconds: started.elapsed().as_secs_f64(),
            compute_seconds: computed.as_secs_f64(),
            global_step: global_step + 1,
        }));
        Ok(reduced.control)
    }

    /// The sums over the member's own slots.
    fn compute(
        &mut self,
        cursor: Cursor,
        global_step: u64,
        batches: &mut Batches,
    ) -> Result<Contribution, WorkerError> {
        let job = &self.worker.job;
        let (spec, network) = (&job.spec, &job.network);
        let size = spec.data.image_size as usize;
        let owned = self.slots();
        let samples = job.pipeline.data().train.len();
        let occupied = occupied_slots(spec, samples, cursor, owned.clone());

        let bound = self.worker.replica.read(|held| {
            let held = held.expect("a member holds a replica");
            let device = burn::tensor::Device::flex();
            Bound::new(&network.table, &held.replica.weights, &device)
        });
        // The prefetcher was asked for just these slots, in this order.
        let mut slots = occupied.into_iter();
        let turn = self.turn;
        let next = || {
            let (slot, _) = slots.next()?;
            // A step that is cut off is thrown away: no further slot of it is computed.
            if let Err(error) = turn.check() {
                return Some(Err(error));
            }
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
            (slot, slot_gradient(network, &bound, input, size, key))
        };
        let outcomes = self.worker.cores.for_each(next, work)?;
        drop(bound);

        let slots = spec.train.slots;
        let mut gradients = SlotSum::new(slots, owned.clone());
        let mut statistics = SlotSum::new(slots, owned.clone());
        let mut outcomes: BTreeMap<u32, _> = outcomes.into_iter().collect();
        for slot in owned {
            let outcome = outcomes.remove(&slot);
            let (gradient, statistic) = outcome
                .map(|outcome| (outcome.gradient, outcome.statistics))
                .unzip();
            gradients.add(slot, gradient)?;
            statistics.add(slot, statistic)?;
        }
        Ok(Contribution {
            slots,
            gradients: Partial {
                len: network.table.parameters_len(),
                nodes: gradients.finish()?,
            },
            statistics: Partial {
                len: statistics_len(network),
                nodes: statistics.finish()?,
            },
            control: turn.flags(),
        })
    }

    /// The member's slots from the generation's start to the job's end, in the order of
    /// [`occupied_slots`], prepared ahead in the background.
    fn prefetch(&self) -> Batches {
        let job = &self.worker.job;
        let (spec, owned, start) = (job.spec.clone(), self.slots(), self.generation.start);
        let samples = job.pipeline.data().train.len();
        let steps = steps_per_epoch(samples, spec.train.batch_size as usize);
        let requests = (start.epoch..spec.train.epochs).flat_map(move |epoch| {
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
        });
        let threads = self.worker.threads.max(1);
        job.pipeline.prefetch(threads, 2 * threads + 2, requests)
    }
}

/// What a copy of the replica cost the training.
fn note_stall(global_step: u64, waited: Duration) {
    if waited >= NOTABLE {
        let milliseconds = waited.as_secs_f64() * 1e3;
        tracing::debug!(
            global_step,
            milliseconds,
            "waited for a copy of the replica"
        );
    }
}

/// The slots of `owned` that have samples at `cursor`, with the places of these in the epoch's order.
fn occupied_slots(
    spec: &Spec,
    samples: usize,
    cursor: Cursor,
    owned: Range<u32>,
) -> Vec<(u32, Range<usize>)> {
    let batch = batch_range(samples, spec.train.batch_size as usize, cursor.step);
    owned
        .map(|slot| (slot, slot_range(batch.clone(), spec.train.slots, slot)))
        .filter(|(_, places)| !places.is_empty())
        .collect()
}
