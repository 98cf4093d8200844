//! A replica: everything a step reads and changes.

use std::sync::Arc;

use burn::tensor::Device;
use perennial_kernels::resident::{Resident, Step};
use perennial_kernels::{DeviceError, Precision};
use perennial_model::{Bound, NameMismatch, Table, Weights};
use perennial_plan::tensors::{HostTensor, NamedTensors, TensorData};
use perennial_plan::{LossScale, Spec};
use xxhash_rust::xxh3::Xxh3;

use crate::clip::{clip_coefficient, global_norm};
use crate::ema::{self, EmaDecay};
use crate::scaling::{scale_from_named, words};
use crate::slot::COUNTS;
use crate::{Optimizer, OptimizerState, Segment, TrainError};

/// Parameters, optimizer state, average and loss scale. Members of a generation hold equal ones.
///
/// Where a GPU trains, parameters, their average and the optimizer's moments live there ([`Replica::reside`]), and what the
/// host has of them may be older ([`Replica::fetch`]).
#[derive(Debug, Clone)]
pub struct Replica {
    pub weights: Weights,
    /// The average, where the job wants one.
    pub ema: Option<Weights>,
    on_device: Option<OnDevice>,
    /// Where the job scales its loss.
    pub(crate) loss_scale: Option<LossScale>,
    optimizer: Optimizer,
    ema_decay: Option<EmaDecay>,
    segments: Vec<Segment>,
    clip_grad_norm: f64,
}

/// What a device has of a replica.
#[derive(Debug, Clone)]
struct OnDevice {
    values: Resident,
    /// Of parameters and average.
    fingerprint: Vec<u32>,
    /// Whether the host has the same.
    fetched: bool,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepOutcome {
    pub samples: u64,
    pub loss_sum: f64,
    pub top1: u64,
    pub top5: u64,
    /// The global norm of the mean gradient before clipping; infinite where the step was skipped.
    pub grad_norm: f64,
    /// What the loss was multiplied by, where it was.
    pub loss_scale: Option<f32>,
    /// The gradient was not finite: nothing but the loss scale has changed.
    pub skipped: bool,
    /// [`Replica::hash`] after the step.
    pub hash: u64,
}

/// Parameters for which another thread is worth while.
const SHARE: usize = 1 << 17;

/// PyTorch's momentum of running statistics.
const MOMENTUM: f32 = 0.1;

// === impl Replica ===

impl Replica {
    /// The replica before the first step.
    pub fn new(spec: &Spec, table: &Table, weights: Weights) -> Self {
        let parameters = table.by_name();
        let segments = Segment::table(
            parameters
                .iter()
                .map(|parameter| (parameter.name.as_str(), parameter.shape.as_slice())),
        );
        let ema_decay = EmaDecay::new(&spec.ema);
        Self {
            ema: ema_decay.is_some().then(|| weights.clone()),
            weights,
            on_device: None,
            loss_scale: LossScale::of(&spec.train),
            optimizer: Optimizer::new(&spec.optimizer, segments.clone()),
            ema_decay,
            segments,
            clip_grad_norm: spec.train.clip_grad_norm,
        }
    }

    /// Applies one step: the sums over all slots of [`crate::slot::SlotOutcome`].
    ///
    /// Where the gradient of a scaled loss is not finite, the step is skipped: weights, running statistics, average
    /// and optimizer stay what they are, and the scale is lowered. That is a function of the sums, so members skip
    /// alike. With a scale of 1 that is an error, since no smaller one would help.
    ///
    /// `threads` threads share the work, fewer where there is little; the bits do not depend on it. On an error nothing
    /// has changed.
    pub fn apply(
        &mut self,
        table: &Table,
        gradient: &[f32],
        statistics: &[f64],
        learning_rate: f64,
        threads: usize,
    ) -> Result<StepOutcome, TrainError> {
        let threads = threads.min(gradient.len() / SHARE).max(1);
        let samples = statistics[0];
        let mut outcome = StepOutcome {
            samples: samples as u64,
            loss_sum: statistics[1],
            top1: statistics[2] as u64,
            top5: statistics[3] as u64,
            grad_norm: f64::INFINITY,
            loss_scale: self.loss_scale.map(|state| state.scale),
            skipped: false,
            hash: 0,
        };
        // A scaled loss is a mean already.
        let divisor = self
            .loss_scale
            .map_or(samples, |state| f64::from(state.scale));
        let grad_norm = global_norm(gradient, &self.segments, threads) / divisor;
        if let Some(state) = self.loss_scale {
            let skipped = !grad_norm.is_finite();
            if skipped && state.scale <= 1.0 {
                let scale = state.scale;
                return Err(TrainError::ScaleExhausted { scale });
            }
            if skipped {
                self.loss_scale = Some(state.after(true));
                outcome.skipped = true;
                // Which not-a-number it is depends on the order of operands, which is no part of the sum's promise.
                if outcome.loss_sum.is_nan() {
                    outcome.loss_sum = f64::NAN;
                }
                outcome.hash = self.hash();
                return Ok(outcome);
            }
        }
        let scale = (clip_coefficient(grad_norm, self.clip_grad_norm)? / divisor) as f32;
        let update = self.optimizer.steps() + 1;
        let decay = self.ema_decay.map(|decay| decay.at(update));

        match &self.on_device {
            None => self.step_here(gradient, scale, learning_rate, decay, threads),
            Some(on_device) => {
                let step = Step {
                    rule: self.optimizer.next(learning_rate),
                    gradient_scale: scale,
                    average_weight: (1.0 - decay.unwrap_or(1.0)) as f32,
                };
                let after = OnDevice::new(on_device.values.after(gradient, &step)?, false)?;
                self.optimizer.stepped();
                self.on_device = Some(after);
            }
        }
        self.loss_scale = self.loss_scale.map(|state| state.after(false));
        self.merge_moments(table, &statistics[COUNTS..]);
        if let Some((ema, decay)) = self.ema.as_mut().zip(decay) {
            ema::update(&mut ema.statistics, &self.weights.statistics, decay);
            ema.batches_tracked = self.weights.batches_tracked;
        }
        outcome.grad_norm = grad_norm;
        outcome.hash = self.hash();
        Ok(outcome)
    }

    /// The pass over the parameters, on the host.
    fn step_here(
        &mut self,
        gradient: &[f32],
        scale: f32,
        learning_rate: f64,
        decay: Option<f64>,
        threads: usize,
    ) {
        let average = self
            .ema
            .as_mut()
            .zip(decay)
            .map(|(ema, decay)| (Arc::make_mut(&mut ema.parameters).as_mut_slice(), decay));
        self.optimizer.step_with_ema(
            Arc::make_mut(&mut self.weights.parameters).as_mut_slice(),
            gradient,
            scale,
            learning_rate,
            average,
            threads,
        );
    }

    /// From here on parameters, average and moments live on `device`, which takes the steps. The hash is another one.
    pub fn reside(&mut self, device: &Device) -> Result<(), TrainError> {
        let average = self.ema.as_ref().map(|ema| ema.parameters.as_slice());
        let rows: Vec<&[f32]> = [self.weights.parameters.as_slice()]
            .into_iter()
            .chain(average)
            .chain(self.optimizer.moments().map(|(_, values)| values))
            .collect();
        let decays = self.segments.iter().flat_map(|segment| {
            std::iter::repeat_n(f32::from(u8::from(segment.decay)), segment.range.len())
        });
        let values = Resident::new(&rows, average.is_some(), decays.collect(), device);
        self.on_device = Some(OnDevice::new(values, true)?);
        Ok(())
    }

    /// Whether the host has all of the replica as it is.
    pub fn is_fetched(&self) -> bool {
        self.on_device.as_ref().is_none_or(|it| it.fetched)
    }

    /// Copies what a device has changed to the host.
    pub fn fetch(&mut self) -> Result<(), TrainError> {
        let Some(on_device) = self.on_device.as_mut().filter(|it| !it.fetched) else {
            return Ok(());
        };
        let mut rows = on_device.values.read()?.into_iter();
        let average = self.ema.as_mut().map(|ema| &mut ema.parameters);
        let own = std::iter::once(&mut self.weights.parameters).chain(average);
        for (own, row) in own.zip(&mut rows) {
            *own = Arc::new(row);
        }
        self.optimizer.replace_moments(rows);
        on_device.fetched = true;
        Ok(())
    }

    /// The parameters as tensors on `device`, for a step with the operands of products in `precision`.
    pub fn bound(&self, table: &Table, device: &Device, precision: Precision) -> Bound {
        match &self.on_device {
            None => Bound::new(table, &self.weights, device, precision),
            Some(on_device) => Bound::resident(table, &on_device.values, precision),
        }
    }

    /// Moves the running statistics towards those of the step: the mean and the unbiased variance of
    /// all its samples, as PyTorch's `BatchNorm2d` with its default momentum.
    fn merge_moments(&mut self, table: &Table, moments: &[f64]) {
        self.weights.batches_tracked += 1;
        for (index, norm) in table.norms().iter().enumerate() {
            let (head, sums) = moments[norm.moments(index)].split_at(1);
            let (sums, squares) = sums.split_at(norm.channels);
            let count = head[0];
            let unbiased = if count > 1.0 {
                count / (count - 1.0)
            } else {
                1.0
            };
            for channel in 0..norm.channels {
                let mean = sums[channel] / count;
                let variance = (squares[channel] / count - mean * mean).max(0.0) * unbiased;
                let running_mean = &mut self.weights.statistics[norm.offset + channel];
                *running_mean += MOMENTUM * (mean as f32 - *running_mean);
                let running_variance =
                    &mut self.weights.statistics[norm.offset + norm.channels + channel];
                *running_variance += MOMENTUM * (variance as f32 - *running_variance);
            }
        }
    }

    /// XXH3 over parameters and running statistics, raw and averaged, and the loss scale where there is one: cheap
    /// enough for every step. A device's part in it is the fingerprint of its parameters.
    pub fn hash(&self) -> u64 {
        let mut hash = Xxh3::new();
        if let Some(on_device) = &self.on_device {
            hash.update(bytemuck::cast_slice(&on_device.fingerprint));
        }
        for weights in [Some(&self.weights), self.ema.as_ref()]
            .into_iter()
            .flatten()
        {
            if self.on_device.is_none() {
                hash.update(bytemuck::cast_slice(weights.parameters.as_slice()));
            }
            hash.update(bytemuck::cast_slice(&weights.statistics));
        }
        if let Some(state) = self.loss_scale {
            hash.update(bytemuck::cast_slice(&words(state)));
        }
        hash.digest()
    }

    /// Steps of the job that are in it: those taken and those skipped.
    pub fn steps(&self) -> u64 {
        self.optimizer.steps() + self.loss_scale.map_or(0, |state| state.skipped)
    }

    pub(crate) fn optimizer_steps(&self) -> u64 {
        self.optimizer.steps()
    }

    /// What the loss of the next step is multiplied by, where the job scales it.
    pub fn loss_scale(&self) -> Option<f32> {
        self.loss_scale.map(|state| state.scale)
    }

    /// The values of the optimizer's moments, each as long as the parameters.
    pub(crate) fn moments(&self) -> impl Iterator<Item = &[f32]> {
        self.optimizer.moments().map(|(_, values)| values)
    }

    /// Takes up the optimizer's moments, in their order, as they were after `step` steps.
    pub(crate) fn load_moments(
        &mut self,
        step: u64,
        moments: Vec<Vec<f32>>,
    ) -> Result<(), TrainError> {
        let names = self.optimizer.moments().map(|(name, _)| name.to_string());
        self.optimizer.load_state(OptimizerState {
            step,
            moments: names.zip(moments).collect(),
            loss_scale: None,
        })
    }

    /// Copies the state of optimizer and loss scale into `state`, whose memory is used again.
    pub fn copy_optimizer(&self, state: &mut OptimizerState) {
        self.optimizer.copy_state(state);
        state.loss_scale = self.loss_scale;
    }

    /// [`OptimizerState::to_named`] of the state as it is.
    pub fn optimizer_to_named(&self, table: &Table) -> NamedTensors {
        let state = OptimizerState {
            loss_scale: self.loss_scale,
            ..self.optimizer.state()
        };
        state.to_named(table)
    }

    /// Takes up the state of optimizer and loss scale that [`Replica::optimizer_to_named`] wrote, before the replica resides
    /// on a device.
    pub fn load_optimizer(
        &mut self,
        table: &Table,
        named: &NamedTensors,
    ) -> Result<(), TrainError> {
        let missing = |name: &str| TrainError::OptimizerTensor {
            name: name.to_string(),
        };
        let step = match named.get("step").map(|tensor| &tensor.data) {
            Some(TensorData::I64(values)) if values.len() == 1 && values[0] >= 0 => {
                values[0] as u64
            }
            _ => return Err(missing("step")),
        };
        let loss_scale = match self.loss_scale {
            Some(_) => Some(scale_from_named(named)?),
            None => None,
        };
        let mut moments = self.optimizer.state().moments;
        for (moment, values) in &mut moments {
            for parameter in table.parameters() {
                let name = format!("{moment}.{}", parameter.name);
                match named.get(&name) {
                    Some(HostTensor {
                        shape,
                        data: TensorData::F32(data),
                    }) if *shape == parameter.shape => {
                        values[parameter.range.clone()].copy_from_slice(data);
                    }
                    _ => return Err(missing(&name)),
                }
            }
        }
        self.optimizer.load_state(OptimizerState {
            step,
            moments,
            loss_scale: None,
        })?;
        self.loss_scale = loss_scale;
        Ok(())
    }

    /// Takes up weights and average from a checkpoint, before the replica resides on a device.
    pub fn load_weights(
        &mut self,
        table: &Table,
        model: &NamedTensors,
        ema: Option<&NamedTensors>,
    ) -> Result<(), NameMismatch> {
        self.weights = table.from_named(model)?;
        if let Some(named) = ema {
            self.ema = Some(table.from_named(named)?);
        }
        Ok(())
    }
}

// === impl OnDevice ===

impl OnDevice {
    /// Once it is computed.
    fn new(values: Resident, fetched: bool) -> Result<Self, DeviceError> {
        Ok(Self {
            fingerprint: values.fingerprint()?,
            values,
            fetched,
        })
    }
}

#[cfg(test)]
mod tests;
