//! Channels in vectors, of which the last one need not be full.

use pulp::Simd;

/// Runs the body for blocks of two vectors of channels, or as many as said, then one: `for_vectors!(S, channels, V, FULL, first =>
/// { .. })`, `for_vectors!(S, channels, V: 4, FULL, first => { .. })`. Only the last one may have fewer than a vector's lanes: it is not
/// `FULL`.
macro_rules! for_vectors {
    ($simd:ident, $channels:expr, $vectors:ident, $full:ident, $first:ident => $body:block) => {
        for_vectors!($simd, $channels, $vectors: 2, $full, $first => $body)
    };
    ($simd:ident, $channels:expr, $vectors:ident: $most:literal, $full:ident, $first:ident => $body:block) => {{
        let channels = $channels;
        let mut $first = 0;
        while $first + $most * $simd::F32_LANES <= channels {
            const $vectors: usize = $most;
            const $full: bool = true;
            $body
            $first += $most * $simd::F32_LANES;
        }
        while $first + $simd::F32_LANES <= channels {
            const $vectors: usize = 1;
            const $full: bool = true;
            $body
            $first += $simd::F32_LANES;
        }
        if $first < channels {
            const $vectors: usize = 1;
            const $full: bool = false;
            $body
        }
    }};
}

pub(super) use for_vectors;

/// The channels from `first` on that are in a block of `V` vectors.
#[inline(always)]
pub(super) fn lane_count<S: Simd, const V: usize, const FULL: bool>(
    channels: usize,
    first: usize,
) -> usize {
    if FULL {
        V * S::F32_LANES
    } else {
        channels - first
    }
}

/// `values` as vectors, which they fill if `FULL`.
#[inline(always)]
pub(super) fn load<S: Simd, const V: usize, const FULL: bool>(
    simd: S,
    values: &[f32],
) -> [S::f32s; V] {
    if FULL {
        let vectors = S::as_simd_f32s(values).0;
        std::array::from_fn(
            #[inline(always)]
            |vector| vectors[vector],
        )
    } else {
        [simd.partial_load_f32s(values); V]
    }
}

#[inline(always)]
pub(super) fn store<S: Simd, const V: usize, const FULL: bool>(
    simd: S,
    values: &mut [f32],
    vectors: [S::f32s; V],
) {
    if FULL {
        S::as_mut_simd_f32s(values).0.copy_from_slice(&vectors);
    } else {
        simd.partial_store_f32s(values, vectors[0]);
    }
}

/// `a * b + c`.
#[inline(always)]
pub(super) fn fused<S: Simd, const V: usize>(
    simd: S,
    a: &[S::f32s; V],
    b: &[S::f32s; V],
    c: &mut [S::f32s; V],
) {
    for vector in 0..V {
        c[vector] = simd.mul_add_f32s(a[vector], b[vector], c[vector]);
    }
}

/// The larger one, unlike the maximum with NaN where `value` is NaN.
#[inline(always)]
pub(super) fn select_at_least<S: Simd>(simd: S, value: S::f32s, floor: S::f32s) -> S::f32s {
    simd.select_f32s(simd.less_than_f32s(value, floor), floor, value)
}

/// The sum over the channels of `products(values)`, which is zero where all values are: each vector is added to that of those
/// before with a fused multiplication, and then across the lanes.
#[inline(always)]
pub(super) fn dot<S: Simd, const N: usize>(
    simd: S,
    values: [&[f32]; N],
    products: impl Fn([S::f32s; N]) -> [S::f32s; 2],
) -> f32 {
    let channels = values[0].len();
    let mut sum = simd.splat_f32s(0.0);
    let whole = channels / S::F32_LANES * S::F32_LANES;
    for first in (0..whole).step_by(S::F32_LANES) {
        let [a, b] = products(std::array::from_fn(
            #[inline(always)]
            |at| load::<S, 1, true>(simd, &values[at][first..first + S::F32_LANES])[0],
        ));
        sum = simd.mul_add_f32s(a, b, sum);
    }
    if whole < channels {
        let [a, b] = products(std::array::from_fn(
            #[inline(always)]
            |at| load::<S, 1, false>(simd, &values[at][whole..channels])[0],
        ));
        sum = simd.mul_add_f32s(a, b, sum);
    }
    simd.reduce_sum_f32s(sum)
}
