//! Clipping of the gradient by its global norm, as PyTorch's `clip_grad_norm_`.

use crate::{Segment, TrainError, threads};

const LANES: usize = 8;

/// The L2 norm of the tensors' L2 norms, summed in 64 bits in a fixed order. The tensors are shared by `threads` threads.
pub fn global_norm(gradients: &[f32], segments: &[Segment], threads: usize) -> f64 {
    let square = |segment: &Segment| {
        let norm = sum_of_squares(&gradients[segment.range.clone()]).sqrt();
        norm * norm
    };
    let squares = threads::map(shares(segments, threads), |share| {
        share.iter().map(square).collect::<Vec<f64>>()
    });
    let sum: f64 = squares.iter().flatten().sum();
    sum.sqrt()
}

/// The segments in at most `count` shares, one after the other, of about as many elements each.
fn shares(segments: &[Segment], count: usize) -> Vec<&[Segment]> {
    let length = segments.last().map_or(0, |segment| segment.range.end);
    let share_of = |segment: &Segment| {
        let share = segment.range.start * count / length.max(1);
        share.min(count.saturating_sub(1))
    };
    let same = |one: &Segment, other: &Segment| share_of(one) == share_of(other);
    segments.chunk_by(same).collect()
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
            let norm = global_norm(&gradients, &segments, 1);
            for max_norm in [0.0, 1.0] {
                let error = clip_coefficient(norm, max_norm).unwrap_err();
                assert!(matches!(error, TrainError::GradientNotFinite { .. }));
            }
        }
    }

    #[test]
    fn the_norm_does_not_depend_on_the_threads() {
        let shapes: Vec<[usize; 1]> = (0..40).map(|index| [index * index % 97]).collect();
        let segments = Segment::table(shapes.iter().map(|shape| ("weight", &shape[..])));
        let length = segments.last().unwrap().range.end;
        let gradients: Vec<f32> = (0..length).map(|at| (at as f32 * 0.37).sin()).collect();
        let alone = global_norm(&gradients, &segments, 1);
        for threads in [0, 2, 3, 7, 64, 5000] {
            let norm = global_norm(&gradients, &segments, threads);
            assert_eq!(norm.to_bits(), alone.to_bits(), "{threads} threads");
            let shares = shares(&segments, threads);
            assert!(shares.len() <= threads.max(1), "{threads} threads");
            assert_eq!(shares.concat(), segments);
        }
    }

    #[test]
    fn without_a_largest_norm_nothing_is_clipped() {
        assert_eq!(clip_coefficient(1e9, 0.0), Ok(1.0));
    }

    #[test]
    fn a_gradient_too_large_for_the_square_in_32_bits_still_has_a_norm() {
        let segments = Segment::table([("weight", &[2][..])]);
        let norm = global_norm(&[3e30, 4e30], &segments, 1);
        assert!((norm / 5e30 - 1.0).abs() < 1e-6, "{norm}");
    }
}
