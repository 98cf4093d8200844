//! One gate a pixel: `x * sigmoid(hidden . weight)`.

use super::math::sigmoid;
use super::vectorized;

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
    let mut out = vec![0.0; x.len()];
    vectorized(
        #[inline(always)]
        || {
            let pixels = x.chunks_exact(channels).zip(hidden.chunks_exact(channels));
            for (out, (x, hidden)) in out.chunks_exact_mut(channels).zip(pixels) {
                let gate = sigmoid(dot(hidden, weight));
                for (out, x) in out.iter_mut().zip(x) {
                    *out = x * gate;
                }
            }
        },
    );
    out
}

/// The gradients of `x`, `hidden` and `weight`.
pub fn backward(
    x: &[f32],
    hidden: &[f32],
    weight: &[f32],
    grad: &[f32],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let channels = weight.len();
    let mut dx = vec![0.0; x.len()];
    let mut dhidden = vec![0.0; x.len()];
    let mut dweight = vec![0.0f32; channels];
    vectorized(
        #[inline(always)]
        || {
            let inputs = x
                .chunks_exact(channels)
                .zip(hidden.chunks_exact(channels))
                .zip(grad.chunks_exact(channels));
            let outputs = dx
                .chunks_exact_mut(channels)
                .zip(dhidden.chunks_exact_mut(channels));
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
        },
    );
    (dx, dhidden, dweight)
}
