//! Depthwise convolutions: a window of 3x3 or 7x7 pixels for each channel, stride 1 or 2, padding of half a window.

use pulp::{Simd, WithSimd};

use super::vectors::{for_vectors, fused, lane_count, load, select_at_least, store};
use super::{Image, floor};

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

/// The rows of a picture that the windows of one row of the output cover, where there are any.
#[inline(always)]
fn covered<const SIZE: usize, const STRIDE: usize>(
    shape: Image,
    picture: &[f32],
    row: usize,
) -> [Option<&[f32]>; SIZE] {
    let row_len = shape.width * shape.channels;
    std::array::from_fn(
        #[inline(always)]
        |tap| {
            let y = (row * STRIDE + tap).wrapping_sub(SIZE / 2);
            (y < shape.height).then(|| &picture[y * row_len..][..row_len])
        },
    )
}

/// Convolves every picture of `x` with `taps`, starts each pixel from `start` and lets it be at least `floor`.
#[derive(Clone, Copy)]
struct Convolution<'a, const SIZE: usize, const STRIDE: usize> {
    shape: Image,
    x: &'a [f32],
    taps: &'a [f32],
    start: &'a [f32],
    floor: f32,
}

impl<const SIZE: usize, const STRIDE: usize> WithSimd for Convolution<'_, SIZE, STRIDE> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let shape = self.shape;
        let out = Window::new(SIZE, STRIDE).output_image(shape);
        let mut values = Vec::with_capacity(out.len());
        for picture in self.x.chunks_exact(shape.picture()) {
            for row in 0..out.height {
                let rows = covered::<SIZE, STRIDE>(shape, picture, row);
                // Zeroed while it is in the cache, row by row.
                let start = values.len();
                values.resize(start + out.width * shape.channels, 0.0);
                let out = &mut values[start..];
                for_vectors!(S, shape.channels, V, FULL, first => {
                    self.row::<S, V, FULL>(simd, rows, first, out);
                });
            }
        }
        values
    }
}

/// What the pixels of a row have in common: the rows that they see, the taps, where each sum starts, the first channel.
struct Common<'a, S: Simd, const V: usize, const SIZE: usize> {
    rows: [Option<&'a [f32]>; SIZE],
    taps: [[[S::f32s; V]; SIZE]; SIZE],
    start: [S::f32s; V],
    first: usize,
}

impl<const SIZE: usize, const STRIDE: usize> Convolution<'_, SIZE, STRIDE> {
    const BORDER: usize = SIZE / 2;

    /// Convolves a vector of channels of one row of pixels, whose windows cover `rows`.
    #[inline(always)]
    fn row<S: Simd, const V: usize, const FULL: bool>(
        &self,
        simd: S,
        rows: [Option<&[f32]>; SIZE],
        first: usize,
        out: &mut [f32],
    ) {
        let channels = self.shape.channels;
        let count = lane_count::<S, V, FULL>(channels, first);
        let mut common = Common {
            rows,
            taps: [[[simd.splat_f32s(0.0); V]; SIZE]; SIZE],
            start: load::<S, V, FULL>(simd, &self.start[first..first + count]),
            first,
        };
        for (tap, vector) in common.taps.as_flattened_mut().iter_mut().enumerate() {
            let at = tap * channels + first;
            *vector = load::<S, V, FULL>(simd, &self.taps[at..at + count]);
        }
        let columns = out.len() / channels;
        // The windows of these lie between the left and the right border.
        let inner = Self::BORDER.div_ceil(STRIDE)
            ..((self.shape.width + STRIDE).saturating_sub(SIZE - Self::BORDER) / STRIDE)
                .min(columns);
        let mut column = 0;
        while column < columns {
            let inside = if inner.contains(&column) {
                inner.end - column
            } else {
                0
            };
            column += match inside {
                4.. => self.inside::<S, V, FULL, 4>(simd, &common, column, out),
                2.. => self.inside::<S, V, FULL, 2>(simd, &common, column, out),
                1 => self.inside::<S, V, FULL, 1>(simd, &common, column, out),
                _ => self.at_border::<S, V, FULL>(simd, &common, column, out),
            };
        }
    }

    /// Convolves `P` pixels from `column` on whose windows lie inside the rows: their sums do not wait for each other, and
    /// share what is read.
    #[inline(always)]
    fn inside<S: Simd, const V: usize, const FULL: bool, const P: usize>(
        &self,
        simd: S,
        common: &Common<S, V, SIZE>,
        column: usize,
        out: &mut [f32],
    ) -> usize {
        let channels = self.shape.channels;
        let count = lane_count::<S, V, FULL>(channels, common.first);
        let mut sums = [common.start; P];
        let from = (column * STRIDE - Self::BORDER) * channels + common.first;
        let seen = (P - 1) * STRIDE + SIZE;
        for (row, taps) in common.rows.iter().zip(&common.taps) {
            let Some(row) = row else { continue };
            let row = &row[from..][..(seen - 1) * channels + count];
            for seen in 0..seen {
                let at = seen * channels;
                let x = load::<S, V, FULL>(simd, &row[at..at + count]);
                for (pixel, sum) in sums.iter_mut().enumerate() {
                    let tap = seen.wrapping_sub(pixel * STRIDE);
                    if tap < SIZE {
                        fused(simd, &x, &taps[tap], sum);
                    }
                }
            }
        }
        for (pixel, sum) in sums.into_iter().enumerate() {
            self.put::<S, V, FULL>(simd, sum, (column + pixel, common.first), out);
        }
        P
    }

    /// Convolves the pixel at `column`, whose window may reach over a border.
    #[inline(always)]
    fn at_border<S: Simd, const V: usize, const FULL: bool>(
        &self,
        simd: S,
        common: &Common<S, V, SIZE>,
        column: usize,
        out: &mut [f32],
    ) -> usize {
        let Image {
            width, channels, ..
        } = self.shape;
        let count = lane_count::<S, V, FULL>(channels, common.first);
        let mut sum = common.start;
        for (row, taps) in common.rows.iter().zip(&common.taps) {
            let Some(row) = row else { continue };
            for (tap, value) in taps.iter().enumerate() {
                let place = (column * STRIDE + tap).wrapping_sub(Self::BORDER);
                if place < width {
                    let at = place * channels + common.first;
                    let x = load::<S, V, FULL>(simd, &row[at..at + count]);
                    fused(simd, &x, value, &mut sum);
                }
            }
        }
        self.put::<S, V, FULL>(simd, sum, (column, common.first), out);
        1
    }

    #[inline(always)]
    fn put<S: Simd, const V: usize, const FULL: bool>(
        &self,
        simd: S,
        sum: [S::f32s; V],
        (column, first): (usize, usize),
        out: &mut [f32],
    ) {
        let channels = self.shape.channels;
        let at = column * channels + first;
        let out = &mut out[at..at + lane_count::<S, V, FULL>(channels, first)];
        let floor = simd.splat_f32s(self.floor);
        let sum = sum.map(
            #[inline(always)]
            |sum| select_at_least(simd, sum, floor),
        );
        store::<S, V, FULL>(simd, out, sum);
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

struct Products<'a, const SIZE: usize, const STRIDE: usize> {
    shape: Image,
    x: &'a [f32],
    grad: &'a [f32],
    sums: &'a mut [f32],
}

impl<const SIZE: usize, const STRIDE: usize> WithSimd for Products<'_, SIZE, STRIDE> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            shape,
            x,
            grad,
            sums,
        } = self;
        let out = Window::new(SIZE, STRIDE).output_image(shape);
        let row_len = out.width * shape.channels;
        let mut of_picture = vec![0.0f32; sums.len()];
        let pictures = x
            .chunks_exact(shape.picture())
            .zip(grad.chunks_exact(out.picture()));
        for (x, grad) in pictures {
            of_picture.fill(0.0);
            for (row, grad) in grad.chunks_exact(row_len).enumerate() {
                let rows = covered::<SIZE, STRIDE>(shape, x, row);
                for_vectors!(S, shape.channels, V, FULL, first => {
                    let sums = &mut of_picture;
                    // As many sums as the registers hold: a small window at once, a large one row by row.
                    if SIZE == 3 {
                        add_row::<S, V, FULL, SIZE, 3, STRIDE>(simd, shape, &rows, grad, first, sums);
                    } else {
                        for (row, sums) in rows.chunks(1).zip(sums.chunks_mut(SIZE * shape.channels)) {
                            add_row::<S, V, FULL, SIZE, 1, STRIDE>(simd, shape, row, grad, first, sums);
                        }
                    }
                    let count = lane_count::<S, V, FULL>(shape.channels, first);
                    let at = SIZE * SIZE * shape.channels + first;
                    let bias = &mut sums[at..at + count];
                    let mut sum = load::<S, V, FULL>(simd, bias);
                    for grad in grad.chunks_exact(shape.channels) {
                        let grad = load::<S, V, FULL>(simd, &grad[first..first + count]);
                        for vector in 0..V {
                            sum[vector] = simd.add_f32s(sum[vector], grad[vector]);
                        }
                    }
                    store::<S, V, FULL>(simd, bias, sum);
                });
            }
            for (sum, value) in sums.iter_mut().zip(&of_picture) {
                *sum += value;
            }
        }
    }
}

/// Adds the products of one row of the output's gradient to the sums of `ROWS` rows of taps, which see `rows`.
#[inline(always)]
fn add_row<
    S: Simd,
    const V: usize,
    const FULL: bool,
    const SIZE: usize,
    const ROWS: usize,
    const STRIDE: usize,
>(
    simd: S,
    shape: Image,
    rows: &[Option<&[f32]>],
    grad: &[f32],
    first: usize,
    sums: &mut [f32],
) {
    let Image {
        width, channels, ..
    } = shape;
    let count = lane_count::<S, V, FULL>(channels, first);
    let mut taps = [[[simd.splat_f32s(0.0); V]; SIZE]; ROWS];
    for (tap, sum) in taps.as_flattened_mut().iter_mut().enumerate() {
        let at = tap * channels + first;
        *sum = load::<S, V, FULL>(simd, &sums[at..at + count]);
    }
    for (column, grad) in grad.chunks_exact(channels).enumerate() {
        let grad = load::<S, V, FULL>(simd, &grad[first..first + count]);
        let inside = column * STRIDE >= SIZE / 2 && column * STRIDE + SIZE - SIZE / 2 <= width;
        for (row, taps) in rows.iter().zip(&mut taps) {
            let Some(row) = row else { continue };
            if inside {
                let from = (column * STRIDE - SIZE / 2) * channels + first;
                let row = &row[from..][..(SIZE - 1) * channels + count];
                for (tap, sum) in taps.iter_mut().enumerate() {
                    let at = tap * channels;
                    let x = load::<S, V, FULL>(simd, &row[at..at + count]);
                    fused(simd, &x, &grad, sum);
                }
                continue;
            }
            for (tap, sum) in taps.iter_mut().enumerate() {
                let place = (column * STRIDE + tap).wrapping_sub(SIZE / 2);
                if place < width {
                    let at = place * channels + first;
                    let x = load::<S, V, FULL>(simd, &row[at..at + count]);
                    fused(simd, &x, &grad, sum);
                }
            }
        }
    }
    for (tap, sum) in taps.as_flattened().iter().enumerate() {
        let at = tap * channels + first;
        store::<S, V, FULL>(simd, &mut sums[at..at + count], *sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tests::{bits, on_each_vector_unit, values};

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
                    bits(&Convolution::<7, 1> { shape, x: &x, taps: &taps, start: &start, floor }.with_simd(simd))
                });
                on_each_vector_unit!(simd => {
                    bits(&Convolution::<3, 2> { shape, x: &x, taps: &taps, start: &start, floor }.with_simd(simd))
                });
            }
            on_each_vector_unit!(simd => {
                let mut sums = vec![0.0; 10 * channels];
                Products::<3, 1> { shape, x: &x, grad: &grad, sums: &mut sums }.with_simd(simd);
                bits(&sums)
            });
            on_each_vector_unit!(simd => {
                let mut sums = vec![0.0; 50 * channels];
                Products::<7, 1> { shape, x: &x, grad: &grad, sums: &mut sums }.with_simd(simd);
                bits(&sums)
            });
        }
    }
}
