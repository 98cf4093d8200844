//! Depthwise convolutions: a window of 3x3 or 7x7 pixels for each channel, stride 1 or 2, padding of half a window.
#![allow(unsafe_code)]

mod convolution;
mod products;

use std::ops::Range;

use pulp::Simd;

use super::vectors::load;
use super::{Image, floor};
use convolution::Convolution;
use products::Products;

/// What a depthwise convolution sees of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub(crate) size: usize,
    pub(crate) stride: usize,
}

// === impl Window ===

impl Window {
    /// # Panics
    /// Unless `size` (height and width) is 3 or 7 and `stride` 1 or 2: networks know their windows.
    pub fn new(size: usize, stride: usize) -> Self {
        assert!(
            matches!((size, stride), (3 | 7, 1 | 2)),
            "a depthwise window of {size} pixels with stride {stride}"
        );
        Self { size, stride }
    }

    fn taps(self) -> usize {
        self.size * self.size
    }

    /// The shape of the output.
    pub fn output_image(self, shape: Image) -> Image {
        Image {
            height: shape.height.div_ceil(self.stride),
            width: shape.width.div_ceil(self.stride),
            ..shape
        }
    }
}

/// Calls a function that is generic over size and stride.
macro_rules! for_window {
    ($window:expr, $function:ident($($argument:expr),*)) => {
        match ($window.size, $window.stride) {
            (3, 1) => $function::<3, 1>($($argument),*),
            (3, 2) => $function::<3, 2>($($argument),*),
            (7, 1) => $function::<7, 1>($($argument),*),
            (7, 2) => $function::<7, 2>($($argument),*),
            _ => unreachable!("`Window::new` lets no other pass"),
        }
    };
}

/// The taps by rows: `[channels, 1, size, size]` to `[size * size][channels]`.
fn by_tap(window: Window, weight: &[f32], channels: usize, flipped: bool) -> Vec<f32> {
    let count = window.taps();
    let mut taps = vec![0.0; count * channels];
    for (channel, weight) in weight.chunks_exact(count).enumerate() {
        for (tap, value) in weight.iter().enumerate() {
            let tap = if flipped { count - 1 - tap } else { tap };
            taps[tap * channels + channel] = *value;
        }
    }
    taps
}

/// The rows of taps that see a picture of this height from one row of the output; the middle one always does.
#[inline(always)]
fn covering<const SIZE: usize, const STRIDE: usize>(height: usize, row: usize) -> Range<usize> {
    let below = SIZE / 2 + height - row * STRIDE;
    (SIZE / 2).saturating_sub(row * STRIDE)..SIZE.min(below)
}

/// The `count` values at `from`, which fill the vectors if `FULL`.
///
/// # Safety
///
/// They are there.
#[inline(always)]
unsafe fn at<S: Simd, const V: usize, const FULL: bool>(
    simd: S,
    from: *const f32,
    count: usize,
) -> [S::f32s; V] {
    // SAFETY: the caller vouches for them.
    let values = unsafe { std::slice::from_raw_parts(from, count) };
    load::<S, V, FULL>(simd, values)
}

/// Writes the first `count` values of the vectors, which is all of them if `FULL`.
///
/// # Safety
///
/// There is room.
#[inline(always)]
unsafe fn put<S: Simd, const V: usize, const FULL: bool>(
    simd: S,
    to: *mut f32,
    count: usize,
    vectors: [S::f32s; V],
) {
    // SAFETY: the caller vouches for the room.
    unsafe {
        if FULL {
            to.cast::<[S::f32s; V]>().write_unaligned(vectors);
        } else {
            let mask = simd.mask_between_m32s(0, count as u32);
            simd.mask_store_ptr_f32s(mask, to, vectors[0]);
        }
    }
}

fn convolve<const SIZE: usize, const STRIDE: usize>(
    shape: Image,
    x: &[f32],
    taps: &[f32],
    start: &[f32],
    floor: f32,
) -> Vec<f32> {
    if shape.is_empty() {
        return Vec::new();
    }
    pulp::Arch::new().dispatch(Convolution::<SIZE, STRIDE> {
        shape,
        x,
        taps,
        start,
        floor,
    })
}

/// `x`: `[batch, height, width, channels]`, `weight`: `[channels, 1, size, size]`, `bias`: `[channels]`; `relu`:
/// whether one follows. The output has the shape [`Window::output_image`].
pub fn forward(
    shape: Image,
    window: Window,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    relu: bool,
) -> Vec<f32> {
    let taps = by_tap(window, weight, shape.channels, false);
    for_window!(window, convolve(shape, x, &taps, bias, floor(relu)))
}

/// The gradient of `x`: the gradient of the output, spread out by the stride, convolved with the flipped weight.
pub fn input_gradient(shape: Image, window: Window, weight: &[f32], grad: &[f32]) -> Vec<f32> {
    let start = vec![0.0; shape.channels];
    let taps = by_tap(window, weight, shape.channels, true);
    let dense = Window::new(window.size, 1);
    if window.stride == 1 {
        return for_window!(dense, convolve(shape, grad, &taps, &start, floor(false)));
    }
    let spread = spread(shape, window, grad);
    for_window!(dense, convolve(shape, &spread, &taps, &start, floor(false)))
}

/// The gradient of the output, each pixel in the middle of its window and zeros between.
fn spread(shape: Image, window: Window, grad: &[f32]) -> Vec<f32> {
    let out = window.output_image(shape);
    let channels = shape.channels;
    let mut spread = vec![0.0; shape.len()];
    for (index, pixel) in grad.chunks_exact(channels).enumerate() {
        let (row, column) = (index / out.width % out.height, index % out.width);
        let picture = index / (out.height * out.width);
        let place =
            (picture * shape.height + row * window.stride) * shape.width + column * window.stride;
        spread[place * channels..][..channels].copy_from_slice(pixel);
    }
    spread
}

/// The gradients of `weight` and `bias`.
pub fn weight_gradient(
    shape: Image,
    window: Window,
    x: &[f32],
    grad: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let (channels, taps) = (shape.channels, window.taps());
    // The taps and the bias: `[taps + 1][channels]`, one picture after the other.
    let mut sums = vec![0.0f32; (taps + 1) * channels];
    if !shape.is_empty() {
        for_window!(window, accumulate(shape, x, grad, &mut sums));
    }
    let mut weight = vec![0.0; taps * channels];
    for (channel, weight) in weight.chunks_exact_mut(taps).enumerate() {
        for (tap, value) in weight.iter_mut().enumerate() {
            *value = sums[tap * channels + channel];
        }
    }
    (weight, sums[taps * channels..].to_vec())
}

/// Adds every picture's products to the sums, `[SIZE * SIZE + 1][channels]`.
fn accumulate<const SIZE: usize, const STRIDE: usize>(
    shape: Image,
    x: &[f32],
    grad: &[f32],
    sums: &mut [f32],
) {
    pulp::Arch::new().dispatch(Products::<SIZE, STRIDE> {
        shape,
        x,
        grad,
        sums,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tests::{bits, on_each_vector_unit, run, values};

    #[test]
    fn a_convolution_and_its_gradient_have_the_same_bits_on_every_vector_unit() {
        for (height, width, channels) in [(1, 1, 1), (2, 2, 37), (5, 9, 48), (3, 16, 7)] {
            let shape = Image {
                batch: 2,
                height,
                width,
                channels,
            };
            let x = values(shape.len());
            let [taps, start] = [49 * channels, channels].map(values);
            let grad = values(shape.len());
            for floor in [f32::NEG_INFINITY, 0.0] {
                on_each_vector_unit!(simd => {
                    bits(&run(simd, Convolution::<7, 1> { shape, x: &x, taps: &taps, start: &start, floor }))
                });
                on_each_vector_unit!(simd => {
                    bits(&run(simd, Convolution::<3, 2> { shape, x: &x, taps: &taps, start: &start, floor }))
                });
            }
            on_each_vector_unit!(simd => {
                let mut sums = vec![0.0; 10 * channels];
                run(simd, Products::<3, 1> { shape, x: &x, grad: &grad, sums: &mut sums });
                bits(&sums)
            });
            on_each_vector_unit!(simd => {
                let mut sums = vec![0.0; 50 * channels];
                run(simd, Products::<7, 1> { shape, x: &x, grad: &grad, sums: &mut sums });
                bits(&sums)
            });
        }
    }
}
