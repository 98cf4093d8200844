//! One gate a channel: `x * sigmoid(weight @ mean(x))`, the mean over the pixels of a picture.

use super::linear::column_sums_f64;
use super::math::sigmoid;
use super::{Image, linear, tiled, vectorized};
use crate::Precision;

/// The mean over pixels and the gate, both `[batch, channels]`.
fn gates(shape: Image, x: &[f32], weight: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let pixels = (shape.height * shape.width) as f64;
    let mean: Vec<f32> = x
        .chunks_exact(shape.picture())
        .flat_map(|picture| column_sums_f64(picture, shape.channels))
        .map(|sum| (sum / pixels) as f32)
        .collect();
    let mut gate = linear::forward(&mean, weight, None, shape.channels, Precision::F32);
    vectorized(
        #[inline(always)]
        || {
            for value in &mut gate {
                *value = sigmoid(*value);
            }
        },
    );
    (mean, gate)
}

/// `out = values * gate + offset`, the gate and the offset per picture and channel.
fn apply(shape: Image, values: &[f32], gate: &[f32], offset: &[f32]) -> Vec<f32> {
    let channels = shape.channels;
    vectorized(
        #[inline(always)]
        || {
            tiled(
                values.len(),
                shape.picture(),
                #[inline(always)]
                |at, out| {
                    let first = at / shape.picture() * channels;
                    let (gate, offset) = (&gate[first..][..channels], &offset[first..][..channels]);
                    let values = values[at..].chunks_exact(channels);
                    for (out, values) in out.chunks_exact_mut(channels).zip(values) {
                        for (((out, value), gate), offset) in
                            out.iter_mut().zip(values).zip(gate).zip(offset)
                        {
                            *out = value.mul_add(*gate, *offset);
                        }
                    }
                },
            )
        },
    )
}

/// `x`: `[batch, height, width, channels]`, `weight`: `[channels, channels]`.
pub fn forward(shape: Image, x: &[f32], weight: &[f32]) -> Vec<f32> {
    let (mean, gate) = gates(shape, x, weight);
    apply(shape, x, &gate, &vec![0.0; mean.len()])
}

/// The gradients of `x` and `weight`.
pub fn backward(shape: Image, x: &[f32], weight: &[f32], grad: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let channels = shape.channels;
    let (mean, gate) = gates(shape, x, weight);
    let mut slope = vec![0.0f32; gate.len()];
    vectorized(
        #[inline(always)]
        || {
            let pictures = x
                .chunks_exact(shape.picture())
                .zip(grad.chunks_exact(shape.picture()));
            for (slope, (x, grad)) in slope.chunks_exact_mut(channels).zip(pictures) {
                for (x, grad) in x.chunks_exact(channels).zip(grad.chunks_exact(channels)) {
                    for ((slope, x), grad) in slope.iter_mut().zip(x).zip(grad) {
                        *slope = x.mul_add(*grad, *slope);
                    }
                }
            }
        },
    );
    for (slope, gate) in slope.iter_mut().zip(&gate) {
        *slope *= gate * (1.0 - gate);
    }
    let (mut dmean, dweight) = linear::backward(&mean, weight, &slope, channels, Precision::F32);
    let pixels = (shape.height * shape.width) as f32;
    dmean.iter_mut().for_each(|value| *value /= pixels);
    (apply(shape, grad, &gate, &dmean), dweight)
}
