//! The training step, and inference.

use std::time::{Duration, Instant};

use burn::tensor::Device;
use perennial_data::{Images, RawImages, SlotBatch, Transform};
use perennial_kernels::{ComputeDevice, PROFILE};
use perennial_model::{Bound, DropPathKey, Network};
use perennial_plan::Spec;
use perennial_plan::order::slot_range;
use perennial_plan::random::{Domain, Draw, Stream};
use perennial_train::{Replica, infer, loss_factor, slot_gradient};

use crate::error::WorkerError;
use crate::numerics::operands;
use crate::pictures;
use crate::slots::{Cores, SlotSums};

/// Steps that are not counted: caches and memory fill.
const WARM_UP: usize = 3;

/// What is timed: a job's network, size, batch and slots, on random pictures that lie in memory.
#[derive(Debug, Clone)]
pub struct StepBench {
    pub spec: Spec,
    pub classes: usize,
    pub device: ComputeDevice,
    pub threads: usize,
    pub steps: usize,
    /// Logits alone, with the normalisations folded.
    pub inference: bool,
}

// === impl StepBench ===

impl StepBench {
    /// The time of each step: forward, loss and backward of every slot, their sum, clipping, the optimizer and
    /// the average, or the logits of a batch.
    ///
    /// And the pages that were faulted in for a step, where the system tells.
    pub fn run(&self) -> Result<(Vec<Duration>, Option<f64>), WorkerError> {
        let spec = &self.spec;
        let network = Network::new(&spec.model, self.classes)?;
        let weights = network.table.initial_weights(spec.seed);
        let mut replica = Replica::new(spec, &network.table, weights);
        let device = self.device.open()?;
        if self.device.is_gpu() {
            replica.reside(&device)?;
        }
        let cores = Cores::of(self.device, self.threads)?;
        let batch = spec.train.batch_size as usize;
        // Inference knows no slots: each thread has its share.
        let shares = match self.inference {
            true => self.threads as u32,
            false => spec.train.slots,
        };
        let slots: Vec<(u32, SlotBatch)> = (0..shares)
            .map(|slot| (slot, slot_range(0..batch, shares, slot).len()))
            .filter(|(_, samples)| *samples > 0)
            .map(|(slot, samples)| (slot, self.batch(slot, samples)))
            .collect();
        // A run binds once and infers all its pictures.
        let bound = self
            .inference
            .then(|| Bound::for_inference(&network.table, &replica.weights, &device));
        let mut times = Vec::new();
        let mut faults_before = None;
        for step in 0..WARM_UP + self.steps {
            let batches = slots.clone();
            let timed = step >= WARM_UP;
            if step == WARM_UP {
                faults_before = page_faults();
            }
            let began = Instant::now();
            let span = timed.then(|| span("step"));
            match &bound {
                Some(bound) => self.infer(&network, bound, &cores, batches)?,
                None => self.step(
                    &network,
                    &mut replica,
                    &device,
                    &cores,
                    batches,
                    step as u64,
                )?,
            }
            drop(span);
            if timed {
                times.push(began.elapsed());
            }
        }
        let faults = page_faults().zip(faults_before);
        let faults = faults.map(|(after, before)| (after - before) / self.steps as f64);
        Ok((times, faults))
    }

    /// Bytes that the device holds for the steps that were run, used or not; none on a CPU.
    pub fn device_memory(&self) -> Result<Option<u64>, WorkerError> {
        let usage = self.device.open()?.memory_pool_usage();
        Ok(usage.map(|usage| usage.bytes_reserved))
    }

    fn batch(&self, slot: u32, samples: usize) -> SlotBatch {
        let size = self.spec.data.image_size as usize;
        let mut stream = Stream::new(self.spec.seed, Domain::Init, &[u64::from(slot)]);
        let labels = (0..samples).map(|_| stream.below(self.classes as u64) as u32);
        let labels: Vec<u32> = labels.collect();
        let mut targets = vec![0.0; samples * self.classes];
        for (row, label) in targets.chunks_mut(self.classes).zip(&labels) {
            row[*label as usize] = 1.0;
        }
        let values = 0..samples * size * size * 3;
        let images = match self.device.is_gpu() {
            false => Images::Ready(
                values
                    .map(|_| stream.uniform() as f32 * 2.0 - 1.0)
                    .collect(),
            ),
            true => Images::Raw(RawImages {
                bytes: values.map(|_| stream.below(256) as u8).collect(),
                values: Transform::new(&self.spec.data, &self.spec.augment)
                    .byte_values()
                    .clone(),
                plan: None,
            }),
        };
        SlotBatch {
            images,
            targets,
            labels,
        }
    }

    fn step(
        &self,
        network: &Network,
        replica: &mut Replica,
        device: &Device,
        cores: &Cores,
        batches: Vec<(u32, SlotBatch)>,
        global_step: u64,
    ) -> Result<(), WorkerError> {
        let (seed, slots) = (self.spec.seed, self.spec.train.slots);
        let size = self.spec.data.image_size as usize;
        let bound = {
            let _span = span("parameters as tensors");
            let precision = operands(self.spec.train.precision);
            replica.bound(&network.table, device, precision)
        };
        let samples = self.spec.train.batch_size as usize;
        let factor = loss_factor(replica.loss_scale(), samples);
        let sums = SlotSums::new(network, slots, 0..slots, None);
        let done = cores.for_all(batches, |(slot, batch)| {
            let slot_span = span("slot");
            let input = pictures::input(batch, size, device);
            let key = DropPathKey {
                seed,
                global_step,
                slot,
            };
            let outcome = slot_gradient(network, &bound, input, key, factor)?;
            drop(slot_span);
            let _span = span("sum of slots");
            sums.add(slot, outcome)
        });
        done.into_iter().collect::<Result<(), WorkerError>>()?;
        drop(bound);
        let sums = sums.finish()?;
        let roots = sums
            .gradients
            .nodes
            .values()
            .zip(sums.statistics.nodes.values());
        let _span = span("optimizer and hash");
        let rate = self.spec.optimizer.learning_rate;
        for (gradient, statistics) in roots {
            replica.apply(&network.table, gradient, statistics, rate, self.threads)?;
        }
        Ok(())
    }

    fn infer(
        &self,
        network: &Network,
        bound: &Bound,
        cores: &Cores,
        batches: Vec<(u32, SlotBatch)>,
    ) -> Result<(), WorkerError> {
        let size = self.spec.data.image_size as usize;
        let logits = cores.for_all(batches, |(_, batch)| {
            let _span = span("slot");
            let images = pictures::tensor(batch.images, size, bound.device());
            infer(network, bound, images)
        });
        for of_slot in logits {
            of_slot?;
        }
        Ok(())
    }
}

/// Shows a part of the step to whoever records the profile.
fn span(name: &'static str) -> tracing::span::EnteredSpan {
    tracing::trace_span!(target: PROFILE, "operation", name).entered()
}

/// Pages of this process that the system had to provide so far: the tenth field of Linux's `stat`.
fn page_faults() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the program's name, may hold spaces; it ends with a parenthesis.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(7)?.parse().ok()
}
