//! The sums of products that are the gradients of weight and bias.

use pulp::{Simd, WithSimd};

use super::super::Image;
use super::super::vectors::{for_vectors, fused, lane_count};
use super::{Window, at, covering, put};

/// [`for_vectors`], of as many vectors as there are registers for with the sums of a small window: AVX2 has sixteen.
macro_rules! for_registers {
    ($simd:ident, $channels:expr, $vectors:ident, $full:ident, $first:ident => $body:block) => {
        if $simd::F32_LANES == 8 {
            for_vectors!($simd, $channels, $vectors: 1, $full, $first => $body);
        } else {
            for_vectors!($simd, $channels, $vectors: 2, $full, $first => $body);
        }
    };
}

/// Adds every picture's products to the sums, `[SIZE * SIZE + 1][channels]`.
pub(super) struct Products<'a, const SIZE: usize, const STRIDE: usize> {
    pub shape: Image,
    pub x: &'a [f32],
    pub grad: &'a [f32],
    pub sums: &'a mut [f32],
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
        let (row_len, channels) = (shape.width * shape.channels, shape.channels);
        assert_eq!(
            sums.len(),
            (SIZE * SIZE + 1) * channels,
            "a sum for each tap and the bias"
        );
        let mut of_picture = vec![0.0f32; sums.len()];
        let pictures = x
            .chunks_exact(shape.picture())
            .zip(grad.chunks_exact(out.picture()));
        for (x, grad) in pictures {
            of_picture.fill(0.0);
            for (row, grad) in grad.chunks_exact(out.width * channels).enumerate() {
                let covering = covering::<SIZE, STRIDE>(shape.height, row);
                let seen = (row * STRIDE + covering.start - SIZE / 2) * row_len;
                let seen = &x[seen..][..covering.len() * row_len];
                for_registers!(S, channels, V, FULL, first => {
                    // As many sums as the registers hold: a small window at once, a large one row by row.
                    let at_once = if SIZE == 3 { covering.len() } else { 1 };
                    for (part, seen) in seen.chunks_exact(at_once * row_len).enumerate() {
                        let taps = (covering.start + part) * SIZE * channels;
                        let bias = SIZE * SIZE * channels + first;
                        // SAFETY: those rows of the input and of the sums are there.
                        unsafe {
                            let rows = Rows {
                                width: shape.width,
                                channels,
                                count: lane_count::<S, V, FULL>(channels, first),
                                x: seen.as_ptr().add(first),
                                grad: grad.as_ptr().add(first),
                                sums: of_picture.as_mut_ptr().add(taps + first),
                                bias: of_picture.as_mut_ptr().add(bias),
                            };
                            match at_once {
                                1 if part > 0 => Sums::<S, V, FULL, SIZE, 1, false>::add::<STRIDE>(simd, rows),
                                1 => Sums::<S, V, FULL, SIZE, 1, true>::add::<STRIDE>(simd, rows),
                                2 => Sums::<S, V, FULL, SIZE, 2, true>::add::<STRIDE>(simd, rows),
                                _ => Sums::<S, V, FULL, SIZE, 3, true>::add::<STRIDE>(simd, rows),
                            }
                        }
                    }
                });
            }
            for (sum, value) in sums.iter_mut().zip(&of_picture) {
                *sum += value;
            }
        }
    }
}

/// One row of the output's gradient, rows of the input that its windows see, and the sums of the taps that see them and of the bias:
/// some of the channels, `count`.
struct Rows {
    width: usize,
    channels: usize,
    count: usize,
    x: *const f32,
    grad: *const f32,
    sums: *mut f32,
    bias: *mut f32,
}

/// The sums of `ROWS` rows of taps in registers, and of the bias if it is `BIAS`' turn.
struct Sums<
    S: Simd,
    const V: usize,
    const FULL: bool,
    const SIZE: usize,
    const ROWS: usize,
    const BIAS: bool,
> {
    simd: S,
    rows: Rows,
    taps: [[[S::f32s; V]; SIZE]; ROWS],
    bias: [S::f32s; V],
}

impl<
    S: Simd,
    const V: usize,
    const FULL: bool,
    const SIZE: usize,
    const ROWS: usize,
    const BIAS: bool,
> Sums<S, V, FULL, SIZE, ROWS, BIAS>
{
    /// Adds the products of `ROWS` rows of the input with the row of the gradient, and that row to the bias.
    ///
    /// # Safety
    ///
    /// All of that is there.
    #[inline(always)]
    unsafe fn add<const STRIDE: usize>(simd: S, rows: Rows) {
        let Rows {
            channels, count, ..
        } = rows;
        let (taps, bias) = (rows.sums, rows.bias);
        let mut sums = Self {
            simd,
            rows,
            taps: [[[simd.splat_f32s(0.0); V]; SIZE]; ROWS],
            bias: [simd.splat_f32s(0.0); V],
        };
        // SAFETY: the caller vouches for what is read and written.
        unsafe {
            for (tap, sum) in sums.taps.as_flattened_mut().iter_mut().enumerate() {
                *sum = at::<S, V, FULL>(simd, taps.add(tap * channels), count);
            }
            if BIAS {
                sums.bias = at::<S, V, FULL>(simd, bias, count);
            }
            if STRIDE == 1 {
                sums.slide();
            } else {
                sums.jump::<STRIDE>();
            }
            for (tap, sum) in sums.taps.as_flattened().iter().enumerate() {
                put::<S, V, FULL>(simd, taps.add(tap * channels), count, *sum);
            }
            if BIAS {
                put::<S, V, FULL>(simd, bias, count, sums.bias);
            }
        }
    }

    /// The gradient of a column, added to the bias.
    #[inline(always)]
    unsafe fn gradient(&mut self, column: usize) -> [S::f32s; V] {
        let Rows {
            grad,
            channels,
            count,
            ..
        } = self.rows;
        // SAFETY: the caller vouches for it.
        let grad = unsafe { at::<S, V, FULL>(self.simd, grad.add(column * channels), count) };
        if BIAS {
            for (sum, grad) in self.bias.iter_mut().zip(grad) {
                *sum = self.simd.add_f32s(*sum, grad);
            }
        }
        grad
    }

    /// The input at a column of a row.
    #[inline(always)]
    unsafe fn input(&self, row: usize, place: usize) -> [S::f32s; V] {
        let Rows {
            x,
            width,
            channels,
            count,
            ..
        } = self.rows;
        // SAFETY: the caller vouches for it.
        unsafe { at::<S, V, FULL>(self.simd, x.add((row * width + place) * channels), count) }
    }

    /// For windows that are `STRIDE` apart.
    #[inline(always)]
    unsafe fn jump<const STRIDE: usize>(&mut self) {
        for column in 0..self.rows.width.div_ceil(STRIDE) {
            // SAFETY: the caller vouches for it.
            let grad = unsafe { self.gradient(column) };
            for tap in 0..SIZE {
                let place = (column * STRIDE + tap).wrapping_sub(SIZE / 2);
                if place >= self.rows.width {
                    continue;
                }
                for row in 0..ROWS {
                    // SAFETY: as above.
                    let x = unsafe { self.input(row, place) };
                    fused(self.simd, &x, &grad, &mut self.taps[row][tap]);
                }
            }
        }
    }

    /// For windows at every pixel: each value of the input is read once, and of the gradient those are kept whose windows see it.
    #[inline(always)]
    unsafe fn slide(&mut self) {
        let (width, border) = (self.rows.width, SIZE / 2);
        let left = border.min(width);
        let right = width.saturating_sub(border).max(left);
        let mut seen = [[self.simd.splat_f32s(0.0); V]; SIZE];
        // SAFETY: the caller vouches for it.
        unsafe {
            for place in 0..left {
                seen[border - 1 - place] = self.gradient(place);
            }
            for place in 0..left {
                self.column::<false>(place, &mut seen);
            }
            for place in left..right {
                self.column::<true>(place, &mut seen);
            }
            for place in right..width {
                self.column::<false>(place, &mut seen);
            }
        }
    }

    /// Adds the products of a column of the input with the gradients that have `seen` it: for each tap that of the column `place + SIZE /
    /// 2 - tap`, all of which are there if the column is `INSIDE`. Before, they are those of the column before.
    #[inline(always)]
    unsafe fn column<const INSIDE: bool>(&mut self, place: usize, seen: &mut [[S::f32s; V]; SIZE]) {
        let (width, newest) = (self.rows.width, place + SIZE / 2);
        for tap in (1..SIZE).rev() {
            seen[tap] = seen[tap - 1];
        }
        if INSIDE || newest < width {
            // SAFETY: the caller vouches for it.
            seen[0] = unsafe { self.gradient(newest) };
        }
        for row in 0..ROWS {
            // SAFETY: as above.
            let x = unsafe { self.input(row, place) };
            for (tap, sum) in self.taps[row].iter_mut().enumerate() {
                if INSIDE || newest.wrapping_sub(tap) < width {
                    fused(self.simd, &x, &seen[tap], sum);
                }
            }
        }
    }
}
