//! The exponential moving average of the weights, as timm's `ModelEmaV3`.
//!
//! The average of a network has its parameters and its floating-point buffers (running statistics);
//! integer buffers are copied.

use perennial_plan::spec::EmaSpec;

/// The weight of the old average in each update.
///
/// With warm-up (the default) it rises to the given decay with the updates. That is what makes the
/// average useful without pretrained weights: a constant 0.9998 has a memory of 5000 updates, so after a
/// short run the average still is mostly the random start, and it does not score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EmaDecay {
    decay: f64,
    warmup: bool,
}

// === impl EmaDecay ===

impl EmaDecay {
    /// None where the job wants no average (`ema.decay = 0`).
    pub fn new(spec: &EmaSpec) -> Option<Self> {
        (spec.decay > 0.0).then_some(Self {
            decay: spec.decay,
            warmup: spec.warmup,
        })
    }

    /// The decay of the `update`-th update, counted from 1. With warm-up it is `1 - update^(-2/3)`, at most
    /// the given decay, so the first update copies; this is `ModelEmaV3(use_warmup=True).get_decay(update)`
    /// with gamma 1 and power 2/3. Without warm-up it is the given decay from the first update, as
    /// `ModelEmaV3` called without a step.
    pub fn at(&self, update: u64) -> f64 {
        if !self.warmup {
            return self.decay;
        }
        let before = update.saturating_sub(1) as f64;
        (1.0 - (1.0 + before).powf(-2.0 / 3.0)).min(self.decay)
    }
}

/// Moves the average towards the values: `average * decay + values * (1 - decay)`, computed as PyTorch's `lerp`.
pub fn update(average: &mut [f32], values: &[f32], decay: f64) {
    assert_eq!(
        average.len(),
        values.len(),
        "the average has the shape of the values"
    );
    let weight = (1.0 - decay) as f32;
    for (average, value) in average.iter_mut().zip(values) {
        *average = lerp(*average, *value, weight);
    }
}

/// PyTorch's `lerp`: exact at both ends, whichever is near.
#[inline(always)]
pub(crate) fn lerp(start: f32, end: f32, weight: f32) -> f32 {
    if weight.abs() < 0.5 {
        start + weight * (end - start)
    } else {
        end - (end - start) * (1.0 - weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_run_leaves_a_constant_average_at_the_random_start_and_a_warmed_up_one_near_the_weights()
     {
        let distance_after = |warmup| {
            let decay = EmaDecay::new(&EmaSpec {
                warmup,
                ..EmaSpec::default()
            })
            .unwrap();
            let mut average = [0.0f32];
            for step in 1..=500 {
                update(&mut average, &[1.0], decay.at(step));
            }
            1.0 - average[0]
        };
        assert!(distance_after(false) > 0.9);
        assert!(distance_after(true) < 1e-6);
    }

    #[test]
    fn a_decay_of_zero_turns_the_average_off() {
        let off = EmaSpec {
            decay: 0.0,
            warmup: true,
        };
        assert_eq!(EmaDecay::new(&off), None);
    }
}
