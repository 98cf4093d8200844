//! A replica: everything a step reads and changes.

use perennial_model::{NameMismatch, Table, Weights};
use perennial_plan::Spec;
use perennial_plan::tensors::{HostTensor, NamedTensors, TensorData};
use xxhash_rust::xxh3::Xxh3;

use crate::clip::{clip_coefficient, global_norm};
use crate::ema::{self, EmaDecay};
use crate::slot::COUNTS;
use crate::{Optimizer, OptimizerState, Segment, TrainError};

/// Parameters, optimizer state and average. Members of a generation hold equal ones.
#[derive(Debug, Clone)]
pub struct Replica {
    pub weights: Weights,
    /// The average, where the job wants one.
    pub ema: Option<Weights>,
    optimizer: Optimizer,
    ema_decay: Option<EmaDecay>,
    segments: Vec<Segment>,
    clip_grad_norm: f64,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepOutcome {
    pub samples: u64,
    pub loss_sum: f64,
    pub top1: u64,
    pub top5: u64,
    /// The global norm of the mean gradient before clipping.
    pub grad_norm: f64,
    /// [`Replica::hash`] after the step.
    pub hash: u64,
}

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
            optimizer: Optimizer::new(&spec.optimizer, segments.clone()),
            ema_decay,
            segments,
            clip_grad_norm: spec.train.clip_grad_norm,
        }
    }

    /// Applies one step: the sums over all slots of [`crate::slot::SlotOutcome`].
    pub fn apply(
        &mut self,
        table: &Table,
        gradient: &[f32],
        statistics: &[f64],
        learning_rate: f64,
    ) -> Result<StepOutcome, TrainError> {
        let samples = statistics[0];
        let grad_norm = global_norm(gradient, &self.segments) / samples;
        let scale = (clip_coefficient(grad_norm, self.clip_grad_norm)? / samples) as f32;
        let update = self.optimizer.steps() + 1;
        let decay = self.ema_decay.map(|decay| decay.at(update));

        let average = self
            .ema
            .as_mut()
            .zip(decay)
            .map(|(ema, decay)| (ema.parameters.as_mut_slice(), decay));
        self.optimizer.step_with_ema(
            &mut self.weights.parameters,
            gradient,
            scale,
            learning_rate,
            average,
        );
        self.merge_moments(table, &statistics[COUNTS..]);
        if let Some((ema, decay)) = self.ema.as_mut().zip(decay) {
            ema::update(&mut ema.statistics, &self.weights.statistics, decay);
            ema.batches_tracked = self.weights.batches_tracked;
        }
        Ok(StepOutcome {
            samples: samples as u64,
            loss_sum: statistics[1],
            top1: statistics[2] as u64,
            top5: statistics[3] as u64,
            grad_norm,
            hash: self.hash(),
        })
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

    /// XXH3 over parameters and running statistics, raw and averaged: cheap enough for every step.
    pub fn hash(&self) -> u64 {
        let mut hash = Xxh3::new();
        for weights in [Some(&self.weights), self.ema.as_ref()]
            .into_iter()
            .flatten()
        {
            hash.update(bytemuck::cast_slice(&weights.parameters));
            hash.update(bytemuck::cast_slice(&weights.statistics));
        }
        hash.digest()
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.optimizer.steps()
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
        let moments = names.zip(moments).collect();
        self.optimizer.load_state(OptimizerState { step, moments })
    }

    /// Copies the optimizer's state into `state`, whose memory is used again.
    pub fn copy_optimizer(&self, state: &mut OptimizerState) {
        self.optimizer.copy_state(state);
    }

    /// [`OptimizerState::to_named`] of the state as it is.
    pub fn optimizer_to_named(&self, table: &Table) -> NamedTensors {
        self.optimizer.state().to_named(table)
    }

    /// Takes up the optimizer's state that [`Replica::optimizer_to_named`] wrote.
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
        self.optimizer.load_state(OptimizerState { step, moments })
    }

    /// Takes up weights and average from a checkpoint.
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
