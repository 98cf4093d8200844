//! GELU in its exact form: Hendrycks and Gimpel, "Gaussian error linear units", 2016.

use std::f32::consts::FRAC_1_SQRT_2;

use super::math::{erf, exp};
use super::vectorized;

/// `1 / sqrt(2 pi)`.
const INVERSE_SQRT_TAU: f32 = 0.398_942_3;

/// `x * Phi(x)`.
pub fn forward(x: &[f32]) -> Vec<f32> {
    vectorized(
        #[inline(always)]
        || x.iter().map(|x| 0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2))).collect(),
    )
}

/// `grad * (Phi(x) + x * phi(x))`.
pub fn backward(x: &[f32], grad: &[f32]) -> Vec<f32> {
    vectorized(
        #[inline(always)]
        || {
            let slope = |x: f32| {
                let cumulative = 0.5 * (1.0 + erf(x * FRAC_1_SQRT_2));
                let density = INVERSE_SQRT_TAU * exp(-0.5 * x * x);
                x.mul_add(density, cumulative)
            };
            x.iter().zip(grad).map(|(x, grad)| grad * slope(*x)).collect()
        },
    )
}
