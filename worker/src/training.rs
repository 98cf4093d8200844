//! The training loop of a member.

use std::collections::BTreeMap;
use std::time::Instant;

use perennial_collective::{Contribution, Partial, SlotSum};
use perennial_data::{DataError, Prefetcher, Request, SlotBatch};
use perennial_model::{Bound, DropPathKey};
use perennial_plan::order::{batch_range, epoch_order, slot_range, steps_per_epoch};
use perennial_plan::{Cursor, Spec};
use perennial_proto::rules::checkpoint_due;
use perennial_proto::v1::{EpochDone, Finished, StepDone};
use perennial_train::{LearningRate, SlotInput, StepOutcome, slot_gradient, statistics_len};

use crate::checkpointing::CheckpointWriter;
use crate::ears::Ears;
use crate::error::WorkerError;
use crate::member::Member;
use crate::session::{Report, Reporter};
use crate::slots::Cores;

/// The control flag by which members agree to stop after the step at hand.
const STOP: u64 = 1;

impl Member<'_> {
    /// Trains from the generation's cursor to the job's end, or to a stop on which all members agree.
    pub fn train(
        &mut self,
        threads: usize,
        reporter: &Reporter,
        ears: &Ears,
    ) -> Result<(), WorkerError> {
        let spec = self.context.spec.clone();
        let samples = self.context.pipeline.data().train.len();
        let steps = steps_per_epoch(samples, spec.train.batch_size as usize);
        let schedule = LearningRate::new(
            &spec.schedule,
            spec.optimizer.learning_rate,
            spec.train.epochs,
            u64::from(steps),
        );
        let cores = Cores::new(threads)?;
        let checkpoints = CheckpointWriter::new(self, reporter.clone())?;
        let mut batches = prefetch(self, threads);

        let mut cursor = self.generation.start;
        let mut stopped_early = false;
        while cursor.epoch < spec.train.epochs && !stopped_early {
            let started = Instant::now();
            let global_step = cursor.global_step(steps);
            let learning_rate = schedule.at(global_step);
            let (control, outcome) = self.step(
                cursor,
                global_step,
                learning_rate,
                &cores,
                &mut batches,
                ears,
            )?;
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
            }));
            let epoch = cursor.epoch;
            cursor = cursor.next(steps);
            stopped_early = control & STOP != 0 && cursor.epoch < spec.train.epochs;
            if cursor.step == 0 {
                let evaluation_json = self.evaluate(&cores)?;
                if self.rank == 0 {
                    reporter.send(Report::EpochDone(EpochDone {
                        generation: self.generation.id,
                        epoch,
                        evaluation_json,
                    }));
                }
            }
            if checkpoint_due(&spec, cursor, steps) || stopped_early {
                checkpoints.write(cursor.global_step(steps), &self.replica);
            }
        }
        reporter.send(Report::Finished(Finished {
            generation: self.generation.id,
            epoch: cursor.epoch,
            step: cursor.step,
            stopped_early,
        }));
        Ok(())
    }

    /// One step: own slots, the sum over all, the change of the replica. Returns the members' flags.
    fn step(
        &mut self,
        cursor: Cursor,
        global_step: u64,
        learning_rate: f64,
        cores: &Cores,
        batches: &mut Prefetcher<Result<SlotBatch, DataError>>,
        ears: &Ears,
    ) -> Result<(u64, StepOutcome), WorkerError> {
        let network = &self.context.network;
        let spec = &self.context.spec;
        let size = spec.data.image_size as usize;
        let owned = self.generation.members[self.rank].slots.clone();
        let occupied = occupied_slots(
            spec,
            self.context.pipeline.data().train.len(),
            cursor,
            owned.clone(),
        );

        let bound = Bound::new(
            &network.table,
            &self.replica.weights,
            &burn::tensor::Device::flex(),
        );
        // The prefetcher was asked for just these slots, in this order.
        let mut slots = occupied.into_iter();
        let next = || {
            let (slot, _) = slots.next()?;
            let batch = batches.next()?;
            Some(batch.map(|batch| (slot, batch)))
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
        let outcomes = cores.for_each(next, work)?;
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
        let reduced = self.all_reduce(Contribution {
            slots,
            gradients: Partial {
                len: network.table.parameters_len(),
                nodes: gradients.finish()?,
            },
            statistics: Partial {
                len: statistics_len(network),
                nodes: statistics.finish()?,
            },
            control: if ears.stop_requested() { STOP } else { 0 },
        })?;
        let table = &self.context.network.table;
        let outcome = self.replica.apply(
            table,
            &reduced.gradients,
            &reduced.statistics,
            learning_rate,
        )?;
        Ok((reduced.control, outcome))
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
fn prefetch(member: &Member, threads: usize) -> Prefetcher<Result<SlotBatch, DataError>> {
    let spec = member.context.spec.clone();
    let owned = member.generation.members[member.rank].slots.clone();
    let start = member.generation.start;
    let samples = member.context.pipeline.data().train.len();
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
    let look_ahead = 2 * threads.max(1) + 2;
    member
        .context
        .pipeline
        .prefetch(threads, look_ahead, requests)
}
