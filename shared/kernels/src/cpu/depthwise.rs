//! Depthwise 3x3 convolution, stride 1, padding 1.

use super::{Image, at_least, floor, for_blocks, lanes, tiled, vectorized};

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

/// Copies a picture into the middle of `padded`, which has a border one pixel wide.
#[inline(always)]
fn pad(shape: Image, picture: &[f32], padded: &mut [f32]) {
    let row = shape.width * shape.channels;
    let rows = padded.chunks_exact_mut(row + 2 * shape.channels).skip(1);
    for (padded, values) in rows.zip(picture.chunks_exact(row)) {
        padded[shape.channels..][..row].copy_from_slice(values);
    }
}

/// A picture of zeros with its border.
fn padded_picture(shape: Image) -> Vec<f32> {
    vec![0.0; (shape.height + 2) * (shape.width + 2) * shape.channels]
}

/// Convolves every picture of `x` with `taps`, starts each pixel from `start` and lets it be at least `floor`.
fn convolve(shape: Image, x: &[f32], taps: &[f32], start: &[f32], floor: f32) -> Vec<f32> {
    let channels = shape.channels;
    if shape.is_empty() {
        return Vec::new();
    }
    let mut padded = padded_picture(shape);
    let row_len = shape.width * channels;
    let stride = row_len + 2 * channels;
    vectorized(
        #[inline(always)]
        || {
            tiled(
                x.len(),
                row_len,
                #[inline(always)]
                |at, out| {
                    let row = at / row_len % shape.height;
                    if row == 0 {
                        pad(shape, &x[at..][..shape.picture()], &mut padded);
                    }
                    let rows = &padded[row * stride..][..3 * stride];
                    for_blocks!(channels, first, N => {
                        convolve_lanes::<N>(channels, rows, taps, (start, floor), first, out);
                    });
                },
            )
        },
    )
}

/// Convolves channels `first..first + N` of one row of pixels: `rows` are the padded rows above, of and
/// below it.
#[inline(always)]
fn convolve_lanes<const N: usize>(
    channels: usize,
    rows: &[f32],
    taps: &[f32],
    (start, floor): (&[f32], f32),
    first: usize,
    out: &mut [f32],
) {
    let taps: [[f32; N]; 9] = std::array::from_fn(|tap| lanes(taps, tap * channels + first));
    let start: [f32; N] = lanes(start, first);
    let stride = rows.len() / 3;
    let [above, middle, below] = std::array::from_fn(|row| &rows[row * stride..][..stride]);
    for (column, out) in out.chunks_exact_mut(channels).enumerate() {
        let mut sum = start;
        for tap in 0..9 {
            let row = [above, middle, below][tap / 3];
            let x: [f32; N] = lanes(row, (column + tap % 3) * channels + first);
            for lane in 0..N {
                sum[lane] = x[lane].mul_add(taps[tap][lane], sum[lane]);
            }
        }
        let sum = sum.map(
            #[inline(always)]
            |sum| at_least(sum, floor),
        );
        out[first..][..N].copy_from_slice(&sum);
    }
}

/// `x`: `[batch, height, width, channels]`, `weight`: `[channels, 1, 3, 3]`, `bias`: `[channels]`; `relu`: whether
/// one follows.
pub fn forward(shape: Image, x: &[f32], weight: &[f32], bias: &[f32], relu: bool) -> Vec<f32> {
    let taps = by_tap(weight, shape.channels, false);
    convolve(shape, x, &taps, bias, floor(relu))
}

/// The gradient of `x`: the gradient of the output convolved with the flipped weight.
pub fn input_gradient(shape: Image, weight: &[f32], grad: &[f32]) -> Vec<f32> {
    let start = vec![0.0; shape.channels];
    let taps = by_tap(weight, shape.channels, true);
    convolve(shape, grad, &taps, &start, floor(false))
}

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
            let pictures = x
                .chunks_exact(shape.picture())
                .zip(grad.chunks_exact(shape.picture()));
            for (x, grad) in pictures {
                for_blocks!(channels, first, N => {
                    accumulate::<N>(shape, x, grad, first, &mut sums);
                });
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
fn accumulate<const N: usize>(
    shape: Image,
    x: &[f32],
    grad: &[f32],
    first: usize,
    sums: &mut [f32],
) {
    let Image {
        height,
        width,
        channels,
        ..
    } = shape;
    let mut taps = [[0.0f32; N]; 9];
    let mut bias = [0.0f32; N];
    let lanes = |values, pixel: usize| -> [f32; N] { lanes(values, pixel * channels + first) };
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
