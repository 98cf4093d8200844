//! AdamW and SGD with momentum over flat parameters, operation by operation as PyTorch computes them.

use std::ops::Range;

use perennial_kernels::resident::{Adamw, Rule, Sgd};
use perennial_model::Table;
use perennial_plan::LossScale;
use perennial_plan::spec::{OptimizerName, OptimizerSpec};
use perennial_plan::tensors::{HostTensor, NamedTensors};

use crate::ema::{self, lerp};
use crate::scaling::scale_to_named;
use crate::{Segment, TrainError, threads};

/// Elements that one pass takes through everything before the next: all slices together stay in the
/// first-level cache.
const BLOCK: usize = 1024;

/// An optimizer and its state.
#[derive(Debug, Clone)]
pub struct Optimizer {
    spec: OptimizerSpec,
    segments: Vec<Segment>,
    step: u64,
    moments: Vec<Vec<f32>>,
}

/// What an optimizer remembers, under PyTorch's names: `exp_avg` and `exp_avg_sq` of AdamW,
/// `momentum_buffer` of SGD with momentum.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OptimizerState {
    /// Steps taken.
    pub step: u64,
    /// Each as long as the parameters and in their order.
    pub moments: Vec<(String, Vec<f32>)>,
    /// Of a replica whose loss is scaled; an optimizer knows nothing of it.
    pub loss_scale: Option<LossScale>,
}

/// A step, the same for all elements.
struct Pass<'a> {
    segments: &'a [Segment],
    rule: Rule,
    gradient_scale: f32,
    /// Of the average, where there is one.
    decay: f64,
}

/// Elements from `start` on, with all that belongs to them.
struct Stretch<'a> {
    start: usize,
    parameters: &'a mut [f32],
    gradients: &'a [f32],
    moments: Vec<&'a mut [f32]>,
    average: Option<&'a mut [f32]>,
}

// === impl Optimizer ===

impl Optimizer {
    /// The segments lie one after another from 0 ([`Segment::table`] makes such).
    pub fn new(spec: &OptimizerSpec, segments: Vec<Segment>) -> Self {
        let mut length = 0;
        for segment in &segments {
            assert_eq!(
                segment.range.start, length,
                "segments lie one after another"
            );
            length = segment.range.end;
        }
        let moments = moment_names(spec).iter().map(|_| vec![0.0; length]);
        Self {
            spec: spec.clone(),
            moments: moments.collect(),
            segments,
            step: 0,
        }
    }

    /// One step. The gradients are multiplied by `gradient_scale` (one over the batch size, times the clip
    /// coefficient) on the way.
    pub fn step(
        &mut self,
        parameters: &mut [f32],
        gradients: &[f32],
        gradient_scale: f32,
        learning_rate: f64,
    ) {
        self.step_with_ema(
            parameters,
            gradients,
            gradient_scale,
            learning_rate,
            None,
            1,
        );
    }

    /// One step, and in the same pass over memory an [`ema::update`] of the average with that decay, shared by `threads`
    /// threads. The bits are those of the two calls one after the other, on one thread.
    pub fn step_with_ema(
        &mut self,
        parameters: &mut [f32],
        gradients: &[f32],
        gradient_scale: f32,
        learning_rate: f64,
        ema: Option<(&mut [f32], f64)>,
        threads: usize,
    ) {
        let length = self.segments.last().map_or(0, |segment| segment.range.end);
        assert_eq!(
            parameters.len(),
            length,
            "one parameter for each place of the segments"
        );
        assert_eq!(gradients.len(), length, "one gradient for each parameter");
        let (average, decay) = ema.unzip();
        let pass = Pass {
            segments: &self.segments,
            rule: self.next(learning_rate),
            gradient_scale,
            decay: decay.unwrap_or_default(),
        };
        let whole = Stretch {
            start: 0,
            parameters,
            gradients,
            moments: self.moments.iter_mut().map(Vec::as_mut_slice).collect(),
            average,
        };
        threads::map(whole.shares(threads), |share| pass.over(share));
        self.step += 1;
    }

    /// The constants of the next step. Where a device takes it, [`Optimizer::stepped`] follows.
    pub(crate) fn next(&self, learning_rate: f64) -> Rule {
        let spec = &self.spec;
        match spec.name {
            OptimizerName::Adamw => Rule::Adamw(adamw(spec, self.step + 1, learning_rate)),
            OptimizerName::Sgd => Rule::Sgd(Sgd {
                momentum: spec.momentum as f32,
                minus_learning_rate: -learning_rate as f32,
                weight_decay: spec.weight_decay as f32,
            }),
        }
    }

    /// Takes note of a step that a device has done.
    pub(crate) fn stepped(&mut self) {
        self.step += 1;
    }

    /// Takes up the moments that a device has computed, in their order.
    pub(crate) fn replace_moments(&mut self, moments: impl Iterator<Item = Vec<f32>>) {
        for (own, moment) in self.moments.iter_mut().zip(moments) {
            *own = moment;
        }
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// The names and values of the state's slices, each as long as the parameters.
    pub fn moments(&self) -> impl Iterator<Item = (&'static str, &[f32])> {
        moment_names(&self.spec)
            .iter()
            .zip(&self.moments)
            .map(|(name, values)| (*name, values.as_slice()))
    }

    /// A copy of the state, for a checkpoint.
    pub fn state(&self) -> OptimizerState {
        OptimizerState {
            step: self.step,
            moments: self
                .moments()
                .map(|(name, values)| (name.to_string(), values.to_vec()))
                .collect(),
            loss_scale: None,
        }
    }

    /// As [`Optimizer::state`], into memory that is there already.
    pub fn copy_state(&self, state: &mut OptimizerState) {
        state.step = self.step;
        state
            .moments
            .resize_with(self.moments.len(), Default::default);
        for ((name, values), (own_name, own)) in state.moments.iter_mut().zip(self.moments()) {
            own_name.clone_into(name);
            own.clone_into(values);
        }
    }

    /// Goes on from a state. On an error nothing has changed.
    pub fn load_state(&mut self, state: OptimizerState) -> Result<(), TrainError> {
        let names: Vec<&str> = state
            .moments
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        let expected = moment_names(&self.spec);
        if names != expected {
            let list = |names: &[&str]| match names {
                [] => "nothing".to_string(),
                names => format!("`{}`", names.join("`, `")),
            };
            return Err(TrainError::MomentNames {
                expected: list(expected),
                found: list(&names),
            });
        }
        for ((name, values), own) in state.moments.iter().zip(&self.moments) {
            if values.len() != own.len() {
                return Err(TrainError::MomentLength {
                    name: name.clone(),
                    expected: own.len(),
                    found: values.len(),
                });
            }
        }
        self.step = state.step;
        self.moments = state
            .moments
            .into_iter()
            .map(|(_, values)| values)
            .collect();
        Ok(())
    }
}

fn moment_names(spec: &OptimizerSpec) -> &'static [&'static str] {
    match spec.name {
        OptimizerName::Adamw => &["exp_avg", "exp_avg_sq"],
        OptimizerName::Sgd if spec.momentum > 0.0 => &["momentum_buffer"],
        OptimizerName::Sgd => &[],
    }
}

/// Rounded to 32 bits where PyTorch rounds them.
fn adamw(spec: &OptimizerSpec, step: u64, learning_rate: f64) -> Adamw {
    let [beta1, beta2] = spec.betas;
    let correction1 = 1.0 - beta1.powf(step as f64);
    let correction2 = 1.0 - beta2.powf(step as f64);
    Adamw {
        first_weight: (1.0 - beta1) as f32,
        beta2: beta2 as f32,
        second_weight: (1.0 - beta2) as f32,
        correction2_sqrt: correction2.sqrt() as f32,
        eps: spec.eps as f32,
        minus_step_size: (-learning_rate / correction1) as f32,
        keep: (1.0 - learning_rate * spec.weight_decay) as f32,
    }
}

// === impl Pass ===

impl Pass<'_> {
    /// Each element is computed by itself, so it does not matter how they are cut into stretches.
    fn over(&self, mut stretch: Stretch<'_>) {
        let (start, end) = (stretch.start, stretch.start + stretch.parameters.len());
        for segment in self.segments {
            let within = segment.range.start.max(start)..segment.range.end.min(end);
            for first in within.clone().step_by(BLOCK) {
                let last = within.end.min(first + BLOCK);
                self.over_block(&mut stretch, first - start..last - start, segment.decay);
            }
        }
    }

    fn over_block(&self, stretch: &mut Stretch<'_>, block: Range<usize>, decays: bool) {
        let values = &mut stretch.parameters[block.clone()];
        let gradients = &stretch.gradients[block.clone()];
        let scale = self.gradient_scale;
        match (self.rule, stretch.moments.as_mut_slice()) {
            (Rule::Adamw(adamw), [first, second]) => {
                let keep = if decays { adamw.keep } else { 1.0 };
                let moments = (&mut first[block.clone()], &mut second[block.clone()]);
                step_adamw(&adamw, values, gradients, scale, moments, keep);
            }
            (Rule::Adamw(_), _) => unreachable!("AdamW has two moments"),
            (Rule::Sgd(sgd), moments) => {
                let weight_decay = if decays { sgd.weight_decay } else { 0.0 };
                let buffer = moments.first_mut().map(|buffer| &mut buffer[block.clone()]);
                step_sgd(&sgd, values, gradients, scale, buffer, weight_decay);
            }
        }
        if let Some(average) = &mut stretch.average {
            ema::update(&mut average[block], values, self.decay);
        }
    }
}

// === impl Stretch ===

impl Stretch<'_> {
    /// In `count` shares of about the same length.
    fn shares(self, count: usize) -> Vec<Self> {
        let mut shares = Vec::new();
        let mut rest = self;
        for left in (2..=count).rev() {
            let middle = rest.parameters.len().div_ceil(left);
            let (share, others) = rest.split_at(middle);
            shares.push(share);
            rest = others;
        }
        shares.push(rest);
        shares
    }

    fn split_at(self, middle: usize) -> (Self, Self) {
        let (parameters, other_parameters) = self.parameters.split_at_mut(middle);
        let (gradients, other_gradients) = self.gradients.split_at(middle);
        let moments = self.moments.into_iter();
        let (moments, other_moments) = moments.map(|values| values.split_at_mut(middle)).unzip();
        let average = self.average.map(|values| values.split_at_mut(middle));
        let (average, other_average) = average.unzip();
        let first = Self {
            start: self.start,
            parameters,
            gradients,
            moments,
            average,
        };
        let second = Self {
            start: self.start + middle,
            parameters: other_parameters,
            gradients: other_gradients,
            moments: other_moments,
            average: other_average,
        };
        (first, second)
    }
}

// === impl OptimizerState ===

impl OptimizerState {
    /// Under the parameters' names: `exp_avg.head.weight`, ..., and `step`; `loss_scale.scale`, ... where there is one.
    pub fn to_named(&self, table: &Table) -> NamedTensors {
        let mut named = NamedTensors::from([(
            "step".to_string(),
            HostTensor::i64([], vec![self.step as i64]),
        )]);
        for (moment, values) in &self.moments {
            for parameter in table.parameters() {
                let tensor = HostTensor::f32(
                    parameter.shape.clone(),
                    values[parameter.range.clone()].to_vec(),
                );
                named.insert(format!("{moment}.{}", parameter.name), tensor);
            }
        }
        if let Some(state) = self.loss_scale {
            scale_to_named(state, &mut named);
        }
        named
    }
}

/// `keep` is what weight decay leaves of a parameter.
fn step_adamw(
    adamw: &Adamw,
    parameters: &mut [f32],
    gradients: &[f32],
    gradient_scale: f32,
    (first, second): (&mut [f32], &mut [f32]),
    keep: f32,
) {
    let moments = first.iter_mut().zip(second);
    for ((parameter, gradient), (first, second)) in
        parameters.iter_mut().zip(gradients).zip(moments)
    {
        let gradient = gradient * gradient_scale;
        *first = lerp(*first, gradient, adamw.first_weight);
        *second = *second * adamw.beta2 + adamw.second_weight * gradient * gradient;
        let denominator = second.sqrt() / adamw.correction2_sqrt + adamw.eps;
        *parameter = *parameter * keep + adamw.minus_step_size * *first / denominator;
    }
}

/// The buffer of the momentum, where there is one, starts at zero, so the first step leaves the gradient in it, as in PyTorch.
fn step_sgd(
    sgd: &Sgd,
    parameters: &mut [f32],
    gradients: &[f32],
    gradient_scale: f32,
    buffer: Option<&mut [f32]>,
    weight_decay: f32,
) {
    let values = parameters.iter_mut().zip(gradients);
    let change =
        |parameter: f32, gradient: f32| gradient * gradient_scale + weight_decay * parameter;
    match buffer {
        Some(buffer) => {
            for ((parameter, gradient), buffer) in values.zip(buffer) {
                *buffer = *buffer * sgd.momentum + change(*parameter, *gradient);
                *parameter += sgd.minus_learning_rate * *buffer;
            }
        }
        None => {
            for (parameter, gradient) in values {
                *parameter += sgd.minus_learning_rate * change(*parameter, *gradient);
            }
        }
    }
}

#[cfg(test)]
mod tests;
