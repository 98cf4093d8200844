//! Depthwise 3x3 convolution, stride 1, padding 1.

use super::{Image, vectorized};

/// The nine taps by rows: `[channels, 1, 3, 3]` to `[9][channels]`.
fn by_tap(weight: &[f32], channels: usize, flipped: bool) -> Vec<f32> {
    let mut taps = vec![0.0; 9 * channels];
    for (channel, weight) in weight.chunks_exact(9).enumerate() {
        for (tap, value) in weight.iter().enumerate() {
            let tap = if flipped { 8 - tap } else { tap };
            taps[tap * channels + channel] = *value;
        }
    }
    taps
}

/// Convolves every picture of `x` with `taps` and starts each pixel from `start`.
fn convolve(shape: Image, x: &[f32], taps: &[f32], start: &[f32]) -> Vec<f32> {
    let Image { height, width, channels, .. } = shape;
    let zeros = vec![0.0f32; channels];
    let mut out = vec![0.0f32; x.len()];
    if shape.is_empty() {
        return out;
    }
    vectorized(
        #[inline(always)]
        || {
            let pictures = x.chunks_exact(shape.picture());
            for (out, x) in out.chunks_exact_mut(shape.picture()).zip(pictures) {
                for (pixel, out) in out.chunks_exact_mut(channels).enumerate() {
                    let (row, column) = (pixel / width, pixel % width);
                    let neighbour = |dy: usize, dx: usize| {
                        let (y, x_) = ((row + dy).wrapping_sub(1), (column + dx).wrapping_sub(1));
                        if y < height && x_ < width { &x[(y * width + x_) * channels..][..channels] } else { &zeros[..] }
                    };
                    let [a, b, c] = [neighbour(0, 0), neighbour(0, 1), neighbour(0, 2)];
                    let [d, e, f] = [neighbour(1, 0), neighbour(1, 1), neighbour(1, 2)];
                    let [g, h, i] = [neighbour(2, 0), neighbour(2, 1), neighbour(2, 2)];
                    let tap = |tap: usize| &taps[tap * channels..][..channels];
                    let [ta, tb, tc, td, te, tf, tg, th, ti] = std::array::from_fn(tap);
                    let start = &start[..channels];
                    for k in 0..channels {
                        let sum = a[k].mul_add(ta[k], start[k]);
                        let sum = b[k].mul_add(tb[k], sum);
                        let sum = c[k].mul_add(tc[k], sum);
                        let sum = d[k].mul_add(td[k], sum);
                        let sum = e[k].mul_add(te[k], sum);
                        let sum = f[k].mul_add(tf[k], sum);
                        let sum = g[k].mul_add(tg[k], sum);
                        let sum = h[k].mul_add(th[k], sum);
                        out[k] = i[k].mul_add(ti[k], sum);
                    }
                }
            }
        },
    );
    out
}

/// `x`: `[batch, height, width, channels]`, `weight`: `[channels, 1, 3, 3]`, `bias`: `[channels]`.
pub fn forward(shape: Image, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
    convolve(shape, x, &by_tap(weight, shape.channels, false), bias)
}

/// The gradient of `x`: the gradient of the output convolved with the flipped weight.
pub fn input_gradient(shape: Image, weight: &[f32], grad: &[f32]) -> Vec<f32> {
    let start = vec![0.0; shape.channels];
    convolve(shape, grad, &by_tap(weight, shape.channels, true), &start)
}

/// Channels whose sums stay in registers.
const LANES: usize = 8;

/// The gradients of `weight` and `bias`.
pub fn weight_gradient(shape: Image, x: &[f32], grad: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let channels = shape.channels;
    // Nine taps and the bias: `[10][channels]`, one picture after the other.
    let mut sums = vec![0.0f32; 10 * channels];
    if shape.is_empty() {
        return (vec![0.0; 9 * channels], vec![0.0; channels]);
    }
    vectorized(
        #[inline(always)]
        || {
            let pictures = x.chunks_exact(shape.picture()).zip(grad.chunks_exact(shape.picture()));
            for (x, grad) in pictures {
                let mut first = 0;
                while first + LANES <= channels {
                    accumulate::<LANES>(shape, x, grad, first, &mut sums);
                    first += LANES;
                }
                while first < channels {
                    accumulate::<1>(shape, x, grad, first, &mut sums);
                    first += 1;
                }
            }
        },
    );
    let mut weight = vec![0.0; 9 * channels];
    for (channel, weight) in weight.chunks_exact_mut(9).enumerate() {
        for (tap, value) in weight.iter_mut().enumerate() {
            *value = sums[tap * channels + channel];
        }
    }
    (weight, sums[9 * channels..].to_vec())
}

/// Adds one picture's products to the sums of channels `first..first + N`.
#[inline(always)]
fn accumulate<const N: usize>(shape: Image, x: &[f32], grad: &[f32], first: usize, sums: &mut [f32]) {
    let Image { height, width, channels, .. } = shape;
    let mut taps = [[0.0f32; N]; 9];
    let mut bias = [0.0f32; N];
    let lanes = |values: &[f32], pixel: usize| -> [f32; N] {
        values[pixel * channels + first..][..N].try_into().expect("N values")
    };
    for row in 0..height {
        for column in 0..width {
            let pixel = row * width + column;
            let grad = lanes(grad, pixel);
            for lane in 0..N {
                bias[lane] += grad[lane];
            }
            let mut add = |tap: usize, pixel: usize| {
                let x = lanes(x, pixel);
                for lane in 0..N {
                    taps[tap][lane] = x[lane].mul_add(grad[lane], taps[tap][lane]);
                }
            };
            let (up, down) = (row > 0, row + 1 < height);
            let (left, right) = (column > 0, column + 1 < width);
            if up {
                if left {
                    add(0, pixel - width - 1);
                }
                add(1, pixel - width);
                if right {
                    add(2, pixel - width + 1);
                }
            }
            if left {
                add(3, pixel - 1);
            }
            add(4, pixel);
            if right {
                add(5, pixel + 1);
            }
            if down {
                if left {
                    add(6, pixel + width - 1);
                }
                add(7, pixel + width);
                if right {
                    add(8, pixel + width + 1);
                }
            }
        }
    }
    for (tap, values) in taps.iter().chain([&bias]).enumerate() {
        for (sum, value) in sums[tap * channels + first..][..N].iter_mut().zip(values) {
            *sum += value;
        }
    }
}
