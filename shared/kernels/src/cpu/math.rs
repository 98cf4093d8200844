//! Elementary functions of several vectors at once, accurate to a few units in the last place. Each is a long chain of operations,
//! and a processor overlaps those of different vectors only where they are near each other in the program.

use std::f32::consts::LOG2_E;

use pulp::{Simd, WithSimd};

use super::vectors::{for_vectors, lane_count, load, select_at_least, store};

/// `x` within the bounds, unlike the minimum and the maximum with NaN where `x` is NaN.
#[inline(always)]
fn clamp<S: Simd>(simd: S, x: S::f32s, low: f32, high: f32) -> S::f32s {
    let x = select_at_least(simd, x, simd.splat_f32s(low));
    let high = simd.splat_f32s(high);
    simd.select_f32s(simd.less_than_f32s(high, x), high, x)
}

/// The polynomial of `x` with these coefficients, that of the highest power first.
#[inline(always)]
fn polynomial<S: Simd, const V: usize>(
    simd: S,
    x: &[S::f32s; V],
    coefficients: &[f32],
) -> [S::f32s; V] {
    let mut value = [simd.splat_f32s(coefficients[0]); V];
    for coefficient in &coefficients[1..] {
        let coefficient = simd.splat_f32s(*coefficient);
        for vector in 0..V {
            value[vector] = simd.mul_add_f32s(value[vector], x[vector], coefficient);
        }
    }
    value
}

/// `e^x`: Cody-Waite reduction to `|r| <= ln 2 / 2` and a polynomial of degree six (Cephes `expf`).
#[inline(always)]
pub fn exp<S: Simd, const V: usize>(simd: S, x: [S::f32s; V]) -> [S::f32s; V] {
    let constant = |value| simd.splat_f32s(value);
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the mantissa.
    let shift = constant(12_582_912.0);
    let (mut r, mut power) = (x, x);
    for vector in 0..V {
        let x = clamp(simd, x[vector], -87.3, 88.3);
        let shifted = simd.add_f32s(simd.mul_f32s(x, constant(LOG2_E)), shift);
        let n = simd.sub_f32s(shifted, shift);
        let rest = simd.mul_add_f32s(n, constant(-0.693_359_4), x);
        r[vector] = simd.mul_add_f32s(n, constant(2.121_944_4e-4), rest);
        let exponent =
            simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
        let one = simd.splat_u32s(1.0f32.to_bits());
        power[vector] = simd.transmute_f32s_u32s(simd.add_u32s(exponent, one));
    }
    let coefficients = [
        1.987_569_1e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];
    let mut value = polynomial(simd, &r, &coefficients);
    for vector in 0..V {
        let (p, r) = (value[vector], r[vector]);
        let p = simd.mul_add_f32s(simd.mul_f32s(p, r), r, r);
        value[vector] = simd.mul_f32s(simd.add_f32s(p, constant(1.0)), power[vector]);
    }
    value
}

/// Makes `1 / (1 + e^-x)` of each `x`.
pub struct Sigmoid<'a>(pub &'a mut [f32]);

impl WithSimd for Sigmoid<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let one = simd.splat_f32s(1.0);
        for_vectors!(S, self.0.len(), V: 4, FULL, first => {
            let end = first + lane_count::<S, V, FULL>(self.0.len(), first);
            let mut values = load::<S, V, FULL>(simd, &self.0[first..end]);
            for value in &mut values {
                *value = simd.neg_f32s(*value);
            }
            let mut values = exp(simd, values);
            for value in &mut values {
                *value = simd.div_f32s(one, simd.add_f32s(one, *value));
            }
            store::<S, V, FULL>(simd, &mut self.0[first..end], values);
        });
    }
}

/// The error function: a rational approximation on `[-4, 4]`, outside of which it is one in `f32`
/// (the coefficients in common use, as in Eigen and XLA).
#[inline(always)]
pub fn erf<S: Simd, const V: usize>(simd: S, x: [S::f32s; V]) -> [S::f32s; V] {
    let (mut x, mut square) = (x, x);
    for vector in 0..V {
        x[vector] = clamp(simd, x[vector], -4.0, 4.0);
        square[vector] = simd.mul_f32s(x[vector], x[vector]);
    }
    let numerator = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_5e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    let denominator = [
        -1.456_607_2e-5,
        -2.133_740_6e-4,
        -1.682_827e-3,
        -7.373_329e-3,
        -1.426_473_9e-2,
    ];
    let p = polynomial(simd, &square, &numerator);
    let q = polynomial(simd, &square, &denominator);
    for vector in 0..V {
        x[vector] = simd.div_f32s(simd.mul_f32s(x[vector], p[vector]), q[vector]);
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exp(x: f32) -> f32 {
        let simd = pulp::Scalar128b;
        pulp::bytemuck::cast_slice(&super::exp(simd, [simd.splat_f32s(x)]))[0]
    }

    fn erf(x: f32) -> f32 {
        let simd = pulp::Scalar128b;
        pulp::bytemuck::cast_slice(&super::erf(simd, [simd.splat_f32s(x)]))[0]
    }

    fn sigmoid(x: f32) -> f32 {
        let mut values = [x];
        Sigmoid(&mut values).with_simd(pulp::Scalar128b);
        values[0]
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        for function in [exp, erf, sigmoid] {
            assert!(function(f32::NAN).is_nan());
        }
    }

    #[test]
    fn exp_and_sigmoid_are_within_a_few_units_in_the_last_place() {
        for i in -8000..8000 {
            let x = i as f32 * 0.01;
            let expected = f64::from(x).exp();
            assert!(
                (f64::from(exp(x)) - expected).abs() <= 3e-7 * expected,
                "exp({x})"
            );
            let expected = 1.0 / (1.0 + (-f64::from(x)).exp());
            assert!(
                (f64::from(sigmoid(x)) - expected).abs() <= 4e-7 * expected,
                "sigmoid({x})"
            );
        }
        assert!(exp(-1000.0) < 1e-37 && exp(1000.0).is_finite());
    }

    #[test]
    fn erf_has_its_known_values() {
        for (x, expected) in [
            (0.0, 0.0),
            (0.5, 0.520_499_9),
            (1.0, 0.842_700_8),
            (2.0, 0.995_322_3),
            (5.0, 1.0),
        ] {
            assert!((erf(x) - expected).abs() < 3e-7, "erf({x}) = {}", erf(x));
            assert!((erf(-x) + expected).abs() < 3e-7);
        }
    }
}
