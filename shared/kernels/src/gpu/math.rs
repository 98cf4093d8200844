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

/// The bits of `value`.
pub fn bits(value: f32) -> u32 {
    value.to_bits()
}

/// [`bits()`] in a kernel.
#[cfg(feature = "cuda")]
pub mod bits {
    use cubecl::ir::Scope;
    use cubecl::prelude::{NativeExpand, Reinterpret};

    pub fn expand(scope: &Scope, value: NativeExpand<f32>) -> NativeExpand<u32> {
        <u32 as Reinterpret>::__expand_reinterpret::<f32>(scope, value)
    }
}

/// The number that has these bits.
pub fn of_bits(bits: u32) -> f32 {
    f32::from_bits(bits)
}

/// [`of_bits()`] in a kernel.
#[cfg(feature = "cuda")]
pub mod of_bits {
    use cubecl::ir::Scope;
    use cubecl::prelude::{NativeExpand, Reinterpret};

    pub fn expand(scope: &Scope, bits: NativeExpand<u32>) -> NativeExpand<f32> {
        <f32 as Reinterpret>::__expand_reinterpret::<u32>(scope, bits)
    }
}

/// [`crate::cpu::rounding::bf16`]. What is no number keeps its bits.
#[cfg_attr(feature = "cuda", cube)]
pub fn bf16(x: f32) -> f32 {
    let all = bits(x);
    let mut rounded = all;
    if (all & 0x7fff_ffffu32) <= 0x7f80_0000u32 {
        rounded = (all + 0x7fffu32 + ((all >> 16u32) & 1u32)) & 0xffff_0000u32;
    }
    of_bits(rounded)
}

/// [`crate::cpu::rounding::f16`]. What is no number keeps its bits.
#[cfg_attr(feature = "cuda", cube)]
pub fn f16(x: f32) -> f32 {
    let all = bits(x);
    let magnitude = all & 0x7fff_ffffu32;
    let mut rounded = magnitude;
    // 2^-14: below it lie the subnormal numbers, as far from each other as those of `f32` from 0.5 to 1.
    if magnitude < 0x3880_0000u32 {
        rounded = bits((of_bits(magnitude) + 0.5f32) - 0.5f32);
    }
    if magnitude >= 0x3880_0000u32 && magnitude <= 0x7f80_0000u32 {
        rounded = (magnitude + 0x0fffu32 + ((magnitude >> 13u32) & 1u32)) & 0xffff_e000u32;
        // 65504 is the largest number.
        if rounded > 0x477f_e000u32 {
            rounded = 0x7f80_0000u32;
        }
    }
    of_bits(rounded | (all & 0x8000_0000u32))
}

/// `value` as an operand of a product: as it is, or rounded to bfloat16 (1) or half precision (2).
#[cfg_attr(feature = "cuda", cube)]
pub fn operand(value: f32, format: u32) -> f32 {
    let mut near = value;
    if format == 1u32 {
        near = bf16(value);
    }
    if format == 2u32 {
        near = f16(value);
    }
    near
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

#[cfg(test)]
mod tests {
    use crate::cpu::rounding;

    /// All upper halves, each with the lower ones at which something changes.
    #[test]
    fn operands_are_rounded_as_on_the_processor() {
        let changes = [0x0000, 0x1000, 0x2000, 0x3000, 0x8000, 0xc000];
        let lower = changes.map(|at: u32| [at.wrapping_sub(1) & 0xffff, at, at + 1]);
        for upper in 0..=0xffffu32 {
            for lower in lower.as_flattened() {
                let x = f32::from_bits(upper << 16 | lower);
                let pairs = [
                    (super::bf16(x), rounding::bf16(x)),
                    (super::f16(x), rounding::f16(x)),
                ];
                for (found, expected) in pairs {
                    assert_eq!(found.to_bits(), expected.to_bits(), "{x:e}");
                }
            }
        }
    }
}
