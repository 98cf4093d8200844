//! The convolution itself, which is also that of the gradient with the flipped weight.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::super::Image;
use super::super::vectors::{for_vectors, fused, lane_count, load, select_at_least};
use super::{Window, at, covering, put};

/// Convolves every picture of `x` with `taps`, starts each pixel from `start` and lets it be at least `floor`.
#[derive(Clone, Copy)]
pub(super) struct Convolution<'a, const SIZE: usize, const STRIDE: usize> {
    pub shape: Image,
    pub x: &'a [f32],
    pub taps: &'a [f32],
    pub start: &'a [f32],
    pub floor: f32,
}

impl<const SIZE: usize, const STRIDE: usize> WithSimd for Convolution<'_, SIZE, STRIDE> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let shape = self.shape;
        let out = Window::new(SIZE, STRIDE).output_image(shape);
        let (row_len, channels) = (shape.width * shape.channels, shape.channels);
        assert_eq!(self.x.len(), shape.len(), "pictures of that shape");
        assert!(
            self.taps.len() >= SIZE * SIZE * channels && self.start.len() >= channels,
            "each channel has its taps and its start"
        );
        let mut values = Vec::<f32>::with_capacity(out.len());
        let mut to = values.as_mut_ptr();
        for picture in self.x.chunks_exact(shape.picture()) {
            for row in 0..out.height {
                let covering = covering::<SIZE, STRIDE>(shape.height, row);
                let seen = (row * STRIDE + covering.start - SIZE / 2) * row_len;
                let seen = &picture[seen..][..covering.len() * row_len];
                for_vectors!(S, channels, V, FULL, first => {
                    // SAFETY: those rows are there, and there is room for every row of the output.
                    unsafe {
                        let x = seen.as_ptr().add(first);
                        self.row::<S, V, FULL>(simd, x, covering.clone(), first, to.add(first));
                    }
                });
                // SAFETY: as above; the row is written.
                to = unsafe { to.add(out.width * channels) };
            }
        }
        // SAFETY: there is room, and all rows are written.
        unsafe { values.set_len(out.len()) };
        values
    }
}

/// What the pixels of a row have in common: the taps and the input's first row that some of them see, where each sum starts, the lanes
/// of the last vector.
struct Common<S: Simd, const V: usize> {
    taps: *const f32,
    covering: Range<usize>,
    x: *const f32,
    start: [S::f32s; V],
    count: usize,
}

impl<const SIZE: usize, const STRIDE: usize> Convolution<'_, SIZE, STRIDE> {
    const BORDER: usize = SIZE / 2;

    /// Convolves the channels from `first` on of one row of pixels.
    ///
    /// # Safety
    ///
    /// `x` points to these channels in the first of the rows of pixels that the taps `covering` see, and `out` to room for them in as
    /// many pixels as the output has in a row.
    #[inline(always)]
    unsafe fn row<S: Simd, const V: usize, const FULL: bool>(
        &self,
        simd: S,
        x: *const f32,
        covering: Range<usize>,
        first: usize,
        out: *mut f32,
    ) {
        let Image {
            width, channels, ..
        } = self.shape;
        let count = lane_count::<S, V, FULL>(channels, first);
        let common = Common {
            taps: self.taps[first..].as_ptr(),
            covering,
            x,
            start: load::<S, V, FULL>(simd, &self.start[first..first + count]),
            count,
        };
        let columns = width.div_ceil(STRIDE);
        // The windows of these lie between the left and the right border.
        let inner = Self::BORDER.div_ceil(STRIDE)
            ..((width + STRIDE).saturating_sub(SIZE - Self::BORDER) / STRIDE).min(columns);
        let mut column = 0;
        while column < columns {
            // SAFETY: these columns are in the output, and those within `inner` have their windows between the borders.
            column += unsafe {
                match columns - column {
                    4.. if inner.start <= column && column + 4 <= inner.end => {
                        self.pixels::<S, V, FULL, 4, true>(simd, &common, column, out)
                    }
                    4.. => self.pixels::<S, V, FULL, 4, false>(simd, &common, column, out),
                    3 => self.pixels::<S, V, FULL, 3, false>(simd, &common, column, out),
                    2 => self.pixels::<S, V, FULL, 2, false>(simd, &common, column, out),
                    _ => self.pixels::<S, V, FULL, 1, false>(simd, &common, column, out),
                }
            };
        }
    }

    /// Convolves `P` pixels from `column` on: their sums do not wait for each other, and share what is read.
    ///
    /// # Safety
    ///
    /// As for [`Self::row`]; the columns are in the output, and their windows between the borders if they are `INSIDE`.
    #[inline(always)]
    unsafe fn pixels<
        S: Simd,
        const V: usize,
        const FULL: bool,
        const P: usize,
        const INSIDE: bool,
    >(
        &self,
        simd: S,
        common: &Common<S, V>,
        column: usize,
        out: *mut f32,
    ) -> usize {
        let Image {
            width, channels, ..
        } = self.shape;
        let mut sums = [common.start; P];
        let left = (column * STRIDE).wrapping_sub(Self::BORDER);
        let mut x = common.x.wrapping_add(left.wrapping_mul(channels));
        for row in common.covering.clone() {
            let mut taps = [[simd.splat_f32s(0.0); V]; SIZE];
            for (tap, values) in taps.iter_mut().enumerate() {
                // SAFETY: each channel has its taps.
                *values = unsafe {
                    at::<S, V, FULL>(
                        simd,
                        common.taps.add((row * SIZE + tap) * channels),
                        common.count,
                    )
                };
            }
            for seen in 0..(P - 1) * STRIDE + SIZE {
                if !INSIDE && left.wrapping_add(seen) >= width {
                    continue;
                }
                // SAFETY: the caller vouches for the row, and the pixel is in it.
                let x = unsafe {
                    at::<S, V, FULL>(simd, x.wrapping_add(seen * channels), common.count)
                };
                for (pixel, sum) in sums.iter_mut().enumerate() {
                    let tap = seen.wrapping_sub(pixel * STRIDE);
                    if tap < SIZE {
                        fused(simd, &x, &taps[tap], sum);
                    }
                }
            }
            x = x.wrapping_add(width * channels);
        }
        let floor = simd.splat_f32s(self.floor);
        for (pixel, sum) in sums.into_iter().enumerate() {
            let sum = sum.map(
                #[inline(always)]
                |sum| select_at_least(simd, sum, floor),
            );
            // SAFETY: the caller vouches for the room.
            unsafe {
                let out = out.add((column + pixel) * channels);
                put::<S, V, FULL>(simd, out, common.count, sum);
            }
        }
        P
    }
}
