//! Dynamic loss scaling, as PyTorch's `torch.amp.GradScaler`.
//!
//! Numbers of half precision end at 65504 and fade out below 6e-8, where gradients lie. So the loss is multiplied by a
//! scale before the backward pass, and its gradient divided by it afterwards. The scale is halved when a gradient was
//! not finite, which costs that step, and doubled after many steps in which all were.

use serde::{Deserialize, Serialize};

use crate::spec::{Precision, TrainSpec};

/// The scale and its counters. They are part of a replica.
///
/// What they are after a step is a function of the scale that a job begins with and of which steps were skipped.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// A power of two, so that scaling rounds nothing.
    pub scale: f32,
    /// Steps taken since the scale changed or a step was skipped.
    pub good_steps: u32,
    /// Steps skipped since the start of the job.
    pub skipped: u64,
}

// === impl LossScale ===

impl LossScale {
    pub const INITIAL: f32 = 65536.0;
    const GROWTH: f32 = 2.0;
    const BACKOFF: f32 = 0.5;
    /// Good steps after which the scale grows.
    const INTERVAL: u32 = 2000;

    pub fn new(scale: f32) -> Self {
        Self {
            scale,
            good_steps: 0,
            skipped: 0,
        }
    }

    /// Before the first step of a job; none where the job's numbers have the range of `f32`.
    pub fn of(spec: &TrainSpec) -> Option<Self> {
        let initial = spec.loss_scale.map_or(Self::INITIAL, |scale| scale as f32);
        (spec.precision == Precision::F16).then(|| Self::new(initial))
    }

    /// After a step, which was skipped for a gradient that was not finite or taken. The scale never grows to infinity.
    pub fn after(self, skipped: bool) -> Self {
        if skipped {
            return Self {
                scale: self.scale * Self::BACKOFF,
                good_steps: 0,
                skipped: self.skipped + 1,
            };
        }
        let good_steps = self.good_steps + 1;
        if good_steps < Self::INTERVAL {
            return Self { good_steps, ..self };
        }
        let grown = self.scale * Self::GROWTH;
        Self {
            scale: if grown.is_finite() { grown } else { self.scale },
            good_steps: 0,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state after each of `events`: so many steps, skipped or not.
    fn states(initial: f32, events: &[(usize, bool)]) -> Vec<LossScale> {
        let steps = events
            .iter()
            .flat_map(|(count, skipped)| std::iter::repeat_n(*skipped, *count));
        steps
            .scan(LossScale::new(initial), |state, skipped| {
                *state = state.after(skipped);
                Some(*state)
            })
            .collect()
    }

    /// Steps, and the scale, the growth tracker and the skipped steps of `torch.amp.GradScaler` of PyTorch 2.15 after
    /// them: `update()` after `step()` with gradients that are finite, infinite or not a number.
    const TORCH: [(usize, f32, u32, u64); 16] = [
        (1, 32768.0, 0, 1),
        (2, 32768.0, 1, 1),
        (3, 32768.0, 2, 1),
        (4, 16384.0, 0, 2),
        (5, 8192.0, 0, 3),
        (6, 8192.0, 1, 3),
        (2004, 8192.0, 1999, 3),
        (2005, 4096.0, 0, 4),
        (4005, 8192.0, 0, 4),
        (4008, 8192.0, 3, 4),
        (4009, 4096.0, 0, 5),
        (4021, 1.0, 0, 17),
        (4022, 0.5, 0, 18),
        (4028, 0.0078125, 0, 24),
        (6028, 0.015625, 0, 24),
        (8029, 0.03125, 1, 24),
    ];

    #[test]
    fn the_scale_and_its_counters_are_those_of_pytorch() {
        let events = [
            (1, true),
            (2, false),
            (2, true),
            (1999, false),
            (1, true),
            (2003, false),
            (20, true),
            (4001, false),
        ];
        let states = states(LossScale::INITIAL, &events);
        for (steps, scale, good_steps, skipped) in TORCH {
            let expected = LossScale {
                scale,
                good_steps,
                skipped,
            };
            assert_eq!(states[steps - 1], expected, "after {steps} steps");
        }
    }

    #[test]
    fn the_scale_never_grows_to_infinity_and_may_vanish_as_that_of_pytorch() {
        let grown = states(2.0f32.powi(126), &[(4001, false)]);
        let last = |steps: usize| (grown[steps - 1].scale, grown[steps - 1].good_steps);
        assert_eq!(last(2000), (2.0f32.powi(127), 0));
        assert_eq!(last(4000), (2.0f32.powi(127), 0));
        assert_eq!(last(4001), (2.0f32.powi(127), 1));
        let vanished = states(f32::from_bits(2), &[(2, true)]);
        assert_eq!(vanished[1].scale, 0.0);
    }

    #[test]
    fn only_a_job_in_f16_has_a_scale() {
        let of = |precision| {
            let train = TrainSpec {
                precision,
                ..TrainSpec::default()
            };
            LossScale::of(&train).map(|state| state.scale)
        };
        assert_eq!(of(Precision::F32), None);
        assert_eq!(of(Precision::Bf16), None);
        assert_eq!(of(Precision::F16), Some(65536.0));
    }
}
