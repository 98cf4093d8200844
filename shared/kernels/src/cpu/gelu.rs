//! GELU in its exact form: Hendrycks and Gimpel, "Gaussian error linear units", 2016.

use std::f32::consts::FRAC_1_SQRT_2;

use super::math::{erf, exp};
use super::vectorized;

/// `1 / sqrt(2 pi)`.
const INVERSE_SQRT_TAU: f32 = 0.398_942_3;

/// `Phi(x)`, the cumulative normal distribution.
#[inline(always)]
fn cumulative(x: f32) -> f32 {
    0.5 * (1.0 + erf(x * FRAC_1_SQRT_2))
}

// Plain loops: what `collect` calls is not compiled for the vector unit, and `mul_add` is then a
// function call.

/// `x * Phi(x)`.
pub fn forward(x: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    vectorized(
        #[inline(always)]
        || {
            for (out, x) in out.iter_mut().zip(x) {
                *out = x * cumulative(*x);
            }
        },
    );
    out
}

/// `grad * (Phi(x) + x * phi(x))`.
pub fn backward(x: &[f32], grad: &[f32]) -> Vec<f32> {
    let mut dx = vec![0.0; x.len()];
    vectorized(
        #[inline(always)]
        || {
            for ((dx, x), grad) in dx.iter_mut().zip(x).zip(grad) {
                let density = INVERSE_SQRT_TAU * exp(-0.5 * x * x);
                *dx = grad * x.mul_add(density, cumulative(*x));
            }
        },
    );
    dx
}
