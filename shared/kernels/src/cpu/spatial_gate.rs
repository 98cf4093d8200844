//! One gate a pixel: `x * sigmoid(hidden . weight)`.

use super::math::sigmoid;
use super::{TILE_ROWS, tiled, vectorized};

/// The dot product, summed over eight lanes and then across them.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..8 {
            lanes[lane] = a[lane].mul_add(b[lane], lanes[lane]);
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (b + f)) + ((c + g) + (d + h)) + rest
}

/// `x`, `hidden`: `[pixels, channels]`, `weight`: `[channels]`.
pub fn forward(x: &[f32], hidden: &[f32], weight: &[f32]) -> Vec<f32> {
    let channels = weight.len();
    vectorized(
        #[inline(always)]
        || {
            tiled(
                x.len(),
                TILE_ROWS * channels,
                #[inline(always)]
                |at, out| {
                    let hidden = hidden[at..].chunks_exact(channels);
                    let pixels = x[at..].chunks_exact(channels).zip(hidden);
                    for (out, (x, hidden)) in out.chunks_exact_mut(channels).zip(pixels) {
                        let gate = sigmoid(dot(hidden, weight));
                        for (out, x) in out.iter_mut().zip(x) {
                            *out = x * gate;
                        }
                    }
                },
            )
        },
    )
}

/// The gradients of `x`, `hidden` and `weight`.
pub fn backward(
    x: &[f32],
    hidden: &[f32],
    weight: &[f32],
    grad: &[f32],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let channels = weight.len();
    let mut dhidden = Vec::with_capacity(x.len());
    let mut dhidden_tile = vec![0.0; x.len().min(TILE_ROWS * channels)];
    let mut dweight = vec![0.0f32; channels];
    let dx = vectorized(
        #[inline(always)]
        || {
            tiled(
                x.len(),
                TILE_ROWS * channels,
                #[inline(always)]
                |at, dx| {
                    let dhidden_tile = &mut dhidden_tile[..dx.len()];
                    let inputs = x[at..]
                        .chunks_exact(channels)
                        .zip(hidden[at..].chunks_exact(channels))
                        .zip(grad[at..].chunks_exact(channels));
                    let outputs = dx
                        .chunks_exact_mut(channels)
                        .zip(dhidden_tile.chunks_exact_mut(channels));
                    for ((dx, dhidden), ((x, hidden), grad)) in outputs.zip(inputs) {
                        let gate = sigmoid(dot(hidden, weight));
                        let slope = dot(grad, x) * gate * (1.0 - gate);
                        for (dx, grad) in dx.iter_mut().zip(grad) {
                            *dx = grad * gate;
                        }
                        for (dhidden, weight) in dhidden.iter_mut().zip(weight) {
                            *dhidden = slope * weight;
                        }
                        for (dweight, hidden) in dweight.iter_mut().zip(hidden) {
                            *dweight = hidden.mul_add(slope, *dweight);
                        }
                    }
                    dhidden.extend_from_slice(dhidden_tile);
                },
            )
        },
    );
    (dx, dhidden, dweight)
}
