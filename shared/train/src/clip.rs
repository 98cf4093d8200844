//! Clipping of the gradient by its global norm, as PyTorch's `clip_grad_norm_`.

use crate::{Segment, TrainError};

const LANES: usize = 8;

/// The L2 norm of the tensors' L2 norms, summed in 64 bits in a fixed order.
pub fn global_norm(gradients: &[f32], segments: &[Segment]) -> f64 {
    let sum: f64 = segments
        .iter()
        .map(|segment| {
            let norm = sum_of_squares(&gradients[segment.range.clone()]).sqrt();
            norm * norm
        })
        .sum();
    sum.sqrt()
}

/// What the gradient is multiplied by so that its norm is at most `max_norm`: `max_norm / (norm + 1e-6)`,
/// at most 1; 1 where `max_norm` is 0. A norm that is infinite or not a number is an error, with clipping
/// or without.
pub fn clip_coefficient(norm: f64, max_norm: f64) -> Result<f64, TrainError> {
    if !norm.is_finite() {
        return Err(TrainError::GradientNotFinite { norm });
    }
    if max_norm == 0.0 {
        return Ok(1.0);
    }
    Ok((max_norm / (norm + 1e-6)).min(1.0))
}

/// Independent partial sums keep the order fixed and let the compiler use vectors.
fn sum_of_squares(values: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            let value = f64::from(*value);
            *lane += value * value;
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        let value = f64::from(*value);
        *lane += value * value;
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gradient_that_is_not_finite_is_reported() {
        let segments = Segment::table([("weight", &[20][..])]);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut gradients = [0.5; 20];
            gradients[17] = bad;
            let norm = global_norm(&gradients, &segments);
            for max_norm in [0.0, 1.0] {
                let error = clip_coefficient(norm, max_norm).unwrap_err();
                assert!(matches!(error, TrainError::GradientNotFinite { .. }));
            }
        }
    }

    #[test]
    fn without_a_largest_norm_nothing_is_clipped() {
        assert_eq!(clip_coefficient(1e9, 0.0), Ok(1.0));
    }

    #[test]
    fn a_gradient_too_large_for_the_square_in_32_bits_still_has_a_norm() {
        let segments = Segment::table([("weight", &[2][..])]);
        let norm = global_norm(&[3e30, 4e30], &segments);
        assert!((norm / 5e30 - 1.0).abs() < 1e-6, "{norm}");
    }
}
