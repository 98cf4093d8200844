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
                                1 if part > 0 => rows.add::<S, V, FULL, SIZE, STRIDE, 1, false>(simd),
                                1 => rows.add::<S, V, FULL, SIZE, STRIDE, 1, true>(simd),
                                2 => rows.add::<S, V, FULL, SIZE, STRIDE, 2, true>(simd),
                                _ => rows.add::<S, V, FULL, SIZE, STRIDE, 3, true>(simd),
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

/// The sums of [`Rows`] in registers.
struct Sums<S: Simd, const V: usize, const SIZE: usize, const ROWS: usize> {
    taps: [[[S::f32s; V]; SIZE]; ROWS],
    bias: [S::f32s; V],
}

impl Rows {
    /// Adds the products of `ROWS` rows of the input with the row of the gradient, and to the bias that row, if it is `BIAS`' turn.
    ///
    /// # Safety
    ///
    /// All of that is there.
    #[inline(always)]
    unsafe fn add<
        S: Simd,
        const V: usize,
        const FULL: bool,
        const SIZE: usize,
        const STRIDE: usize,
        const ROWS: usize,
        const BIAS: bool,
    >(
        &self,
        simd: S,
    ) {
        let mut sums = Sums {
            taps: [[[simd.splat_f32s(0.0); V]; SIZE]; ROWS],
            bias: [simd.splat_f32s(0.0); V],
        };
        // SAFETY: the caller vouches for what is read and written.
        unsafe {
            for (tap, sum) in sums.taps.as_flattened_mut().iter_mut().enumerate() {
                *sum = at::<S, V, FULL>(simd, self.sums.add(tap * self.channels), self.count);
            }
            if BIAS {
                sums.bias = at::<S, V, FULL>(simd, self.bias, self.count);
            }
            if STRIDE == 1 {
                self.slide::<S, V, FULL, SIZE, ROWS, BIAS>(simd, &mut sums);
            } else {
                self.jump::<S, V, FULL, SIZE, STRIDE, ROWS, BIAS>(simd, &mut sums);
            }
            for (tap, sum) in sums.taps.as_flattened().iter().enumerate() {
                put::<S, V, FULL>(simd, self.sums.add(tap * self.channels), self.count, *sum);
            }
            if BIAS {
                put::<S, V, FULL>(simd, self.bias, self.count, sums.bias);
            }
        }
    }

    /// The gradient of a column, added to the bias.
    #[inline(always)]
    unsafe fn gradient<
        S: Simd,
        const V: usize,
        const FULL: bool,
        const SIZE: usize,
        const ROWS: usize,
        const BIAS: bool,
    >(
        &self,
        simd: S,
        column: usize,
        sums: &mut Sums<S, V, SIZE, ROWS>,
    ) -> [S::f32s; V] {
        // SAFETY: the caller vouches for it.
        let grad =
            unsafe { at::<S, V, FULL>(simd, self.grad.add(column * self.channels), self.count) };
        if BIAS {
            for (sum, grad) in sums.bias.iter_mut().zip(grad) {
                *sum = simd.add_f32s(*sum, grad);
            }
        }
        grad
    }

    /// The input at a column of a row.
    #[inline(always)]
    unsafe fn input<S: Simd, const V: usize, const FULL: bool>(
        &self,
        simd: S,
        row: usize,
        place: usize,
    ) -> [S::f32s; V] {
        let first = (row * self.width + place) * self.channels;
        // SAFETY: the caller vouches for it.
        unsafe { at::<S, V, FULL>(simd, self.x.add(first), self.count) }
    }

    /// For windows that are `STRIDE` apart.
    #[inline(always)]
    unsafe fn jump<
        S: Simd,
        const V: usize,
        const FULL: bool,
        const SIZE: usize,
        const STRIDE: usize,
        const ROWS: usize,
        const BIAS: bool,
    >(
        &self,
        simd: S,
        sums: &mut Sums<S, V, SIZE, ROWS>,
    ) {
        // SAFETY: the caller vouches for it.
        unsafe {
            for column in 0..self.width.div_ceil(STRIDE) {
                let grad = self.gradient::<S, V, FULL, SIZE, ROWS, BIAS>(simd, column, sums);
                for tap in 0..SIZE {
                    let place = (column * STRIDE + tap).wrapping_sub(SIZE / 2);
                    if place >= self.width {
                        continue;
                    }
                    for (row, sums) in sums.taps.iter_mut().enumerate() {
                        let x = self.input::<S, V, FULL>(simd, row, place);
                        fused(simd, &x, &grad, &mut sums[tap]);
                    }
                }
            }
        }
    }

    /// For windows at every pixel: each value of the input is read once, and of the gradient those are kept whose windows see it.
    #[inline(always)]
    unsafe fn slide<
        S: Simd,
        const V: usize,
        const FULL: bool,
        const SIZE: usize,
        const ROWS: usize,
        const BIAS: bool,
    >(
        &self,
        simd: S,
        sums: &mut Sums<S, V, SIZE, ROWS>,
    ) {
        let border = SIZE / 2;
        let left = border.min(self.width);
        let right = self.width.saturating_sub(border).max(left);
        let mut seen = [[simd.splat_f32s(0.0); V]; SIZE];
        // SAFETY: the caller vouches for it.
        unsafe {
            for place in 0..left {
                seen[border - 1 - place] =
                    self.gradient::<S, V, FULL, SIZE, ROWS, BIAS>(simd, place, sums);
            }
            for place in 0..left {
                self.column::<S, V, FULL, SIZE, ROWS, BIAS, false>(simd, place, &mut seen, sums);
            }
            for place in left..right {
                self.column::<S, V, FULL, SIZE, ROWS, BIAS, true>(simd, place, &mut seen, sums);
            }
            for place in right..self.width {
                self.column::<S, V, FULL, SIZE, ROWS, BIAS, false>(simd, place, &mut seen, sums);
            }
        }
    }

    /// Adds the products of a column of the input with the gradients that have `seen` it: for each tap that of the column `place + SIZE /
    /// 2 - tap`, all of which are there if the column is `INSIDE`. Before, they are those of the column before.
    #[inline(always)]
    unsafe fn column<
        S: Simd,
        const V: usize,
        const FULL: bool,
        const SIZE: usize,
        const ROWS: usize,
        const BIAS: bool,
        const INSIDE: bool,
    >(
        &self,
        simd: S,
        place: usize,
        seen: &mut [[S::f32s; V]; SIZE],
        sums: &mut Sums<S, V, SIZE, ROWS>,
    ) {
        let newest = place + SIZE / 2;
        for tap in (1..SIZE).rev() {
            seen[tap] = seen[tap - 1];
        }
        // SAFETY: the caller vouches for it.
        unsafe {
            if INSIDE || newest < self.width {
                seen[0] = self.gradient::<S, V, FULL, SIZE, ROWS, BIAS>(simd, newest, sums);
            }
            for (row, sums) in sums.taps.iter_mut().enumerate() {
                let x = self.input::<S, V, FULL>(simd, row, place);
                for (tap, sum) in sums.iter_mut().enumerate() {
                    if INSIDE || newest.wrapping_sub(tap) < self.width {
                        fused(simd, &x, &seen[tap], sum);
                    }
                }
            }
        }
    }
}
