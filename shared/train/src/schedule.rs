//! The learning rate.

use std::f64::consts::PI;

use perennial_plan::spec::{ScheduleName, ScheduleSpec};

/// The learning rate of each step: a linear rise over the warm-up epochs, then a cosine down to the
/// smallest rate at the last epoch's end, or constant.
///
/// It changes every step, and at whole epochs without warm-up it has the values of PyTorch's
/// `CosineAnnealingLR(T_max = epochs)` (its closed form), which is set once an epoch in the reference recipe:
/// there the rate is a staircase through the same points. With warm-up it has the values of timm's
/// `CosineLRScheduler(t_initial = epochs - warmup_epochs, warmup_prefix = True)`.
#[derive(Debug, Clone, PartialEq)]
pub struct LearningRate {
    spec: ScheduleSpec,
    base: f64,
    epochs: f64,
    steps_per_epoch: f64,
}

// === impl LearningRate ===

impl LearningRate {
    pub fn new(spec: &ScheduleSpec, base: f64, epochs: u32, steps_per_epoch: u64) -> Self {
        Self {
            spec: spec.clone(),
            base,
            epochs: f64::from(epochs),
            steps_per_epoch: steps_per_epoch.max(1) as f64,
        }
    }

    /// The rate of a step, counted from 0 over the whole run. Beyond the last epoch a cosine rises again,
    /// as PyTorch's does.
    pub fn at(&self, step: u64) -> f64 {
        let epoch = step as f64 / self.steps_per_epoch;
        let warmup = f64::from(self.spec.warmup_epochs);
        if epoch < warmup {
            let start = self.spec.warmup_learning_rate;
            return start + epoch * (self.base - start) / warmup;
        }
        match self.spec.name {
            ScheduleName::Constant => self.base,
            ScheduleName::Cosine => {
                let share = (epoch - warmup) / (self.epochs - warmup);
                let low = self.spec.min_learning_rate;
                low + 0.5 * (self.base - low) * (1.0 + (PI * share).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_every_step_of_the_warm_up_and_falls_every_step_after_it() {
        let spec = ScheduleSpec {
            warmup_epochs: 2,
            ..ScheduleSpec::default()
        };
        let rate = LearningRate::new(&spec, 1e-3, 10, 7);
        assert_eq!(rate.at(0), spec.warmup_learning_rate);
        assert_eq!(rate.at(14), 1e-3);
        assert!((0..14).all(|step| rate.at(step) < rate.at(step + 1)));
        assert!((14..70).all(|step| rate.at(step) > rate.at(step + 1)));
        assert!((rate.at(70) - spec.min_learning_rate).abs() < 1e-18);
    }

    #[test]
    fn a_constant_rate_is_constant_after_its_warm_up() {
        let spec = ScheduleSpec {
            name: ScheduleName::Constant,
            warmup_epochs: 1,
            ..ScheduleSpec::default()
        };
        let rate = LearningRate::new(&spec, 0.1, 3, 4);
        assert!(rate.at(3) < 0.1);
        assert!((4..20).all(|step| rate.at(step) == 0.1));
    }
}
