//! Elementary functions of kernels.

#[cfg(feature = "cuda")]
use cubecl::prelude::*;

/// `1 / sqrt(2)`.
const FRAC_1_SQRT_2: f32 = std::f32::consts::FRAC_1_SQRT_2;
/// `1 / sqrt(2 pi)`.
const INVERSE_SQRT_TAU: f32 = 0.398_942_3;

/// `a * b + c` with one rounding.
pub fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

/// [`mul_add()`] in a kernel.
#[cfg(feature = "cuda")]
pub mod mul_add {
    use cubecl::ir::Scope;
    use cubecl::prelude::NativeExpand;

    pub fn expand(
        scope: &Scope,
        a: NativeExpand<f32>,
        b: NativeExpand<f32>,
        c: NativeExpand<f32>,
    ) -> NativeExpand<f32> {
        cubecl::prelude::fma::expand::<f32>(scope, a, b, c)
    }
}

/// `1 / (1 + e^-x)`.
#[cfg_attr(feature = "cuda", cube)]
pub fn sigmoid(x: f32) -> f32 {
    1.0f32 / (1.0f32 + (-x).exp())
}

/// The larger one of `value` and zero; NaN where `value` is NaN.
#[cfg_attr(feature = "cuda", cube)]
pub fn rectified(value: f32) -> f32 {
    if value < 0.0f32 { 0.0f32 } else { value }
}

/// The error function, as in [`crate::cpu::math::erf`].
#[cfg_attr(feature = "cuda", cube)]
pub fn erf(x: f32) -> f32 {
    let mut z = x;
    if x > 4.0f32 {
        z = 4.0f32;
    }
    if x < -4.0f32 {
        z = -4.0f32;
    }
    let s = z * z;
    let p = mul_add(-2.726_142_3e-10f32, s, 2.770_681_4e-8f32);
    let p = mul_add(p, s, -2.101_024e-6f32);
    let p = mul_add(p, s, -5.692_506_5e-5f32);
    let p = mul_add(p, s, -7.349_906_3e-4f32);
    let p = mul_add(p, s, -2.954_6e-3f32);
    let p = mul_add(p, s, -1.609_603_3e-2f32);
    let q = mul_add(-1.456_607_2e-5f32, s, -2.133_740_6e-4f32);
    let q = mul_add(q, s, -1.682_827e-3f32);
    let q = mul_add(q, s, -7.373_329e-3f32);
    let q = mul_add(q, s, -1.426_473_9e-2f32);
    z * p / q
}

/// GELU in its exact form, `x * Phi(x)`.
#[cfg_attr(feature = "cuda", cube)]
pub fn gelu(x: f32) -> f32 {
    x * (0.5f32 * (1.0f32 + erf(x * FRAC_1_SQRT_2)))
}

/// The slope of [`gelu()`]: `Phi(x) + x * phi(x)`.
#[cfg_attr(feature = "cuda", cube)]
pub fn gelu_slope(x: f32) -> f32 {
    let cumulative = 0.5f32 * (1.0f32 + erf(x * FRAC_1_SQRT_2));
    let density = INVERSE_SQRT_TAU * (-0.5f32 * x * x).exp();
    mul_add(x, density, cumulative)
}
