//! Operands of matrix products in the precision that is asked for.

use std::borrow::Cow;

use super::{tiled, vectorized};
use crate::Precision;

/// The bfloat16 nearest to `x`, of two equally near ones the even one, as an `f32`. What is nearer to the next power of
/// two than to the largest number becomes infinite; a subnormal number is rounded like any other; NaN stays as it is.
#[inline(always)]
pub fn bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let odd = (bits >> 16) & 1;
    let rounded = bits.wrapping_add(0x7fff + odd) & 0xffff_0000;
    f32::from_bits(if x.is_nan() { bits } else { rounded })
}

/// Values of a tile that is made in the first-level cache.
const TILE: usize = 4096;

// === impl Precision ===

impl Precision {
    /// `values` as an operand.
    pub(super) fn operand(self, values: &[f32]) -> Cow<'_, [f32]> {
        match self {
            Self::F32 => Cow::Borrowed(values),
            Self::Bf16 => {
                let round = |at: usize, tile: &mut [f32]| round_into(&values[at..], tile);
                Cow::Owned(tiled(values.len(), TILE, round))
            }
        }
    }

    /// `values` as an operand, in `scratch` where that is not the values themselves.
    pub(super) fn operand_in<'a>(self, scratch: &'a mut [f32], values: &'a [f32]) -> &'a [f32] {
        match self {
            Self::F32 => values,
            Self::Bf16 => {
                let rounded = &mut scratch[..values.len()];
                round_into(values, rounded);
                rounded
            }
        }
    }

    /// Room for operands of so many values, as [`Precision::operand_in`] wants it.
    pub(super) fn scratch(self, len: usize) -> Vec<f32> {
        match self {
            Self::F32 => Vec::new(),
            Self::Bf16 => vec![0.0; len],
        }
    }
}

fn round_into(values: &[f32], rounded: &mut [f32]) {
    vectorized(
        #[inline(always)]
        || {
            for (rounded, value) in rounded.iter_mut().zip(values) {
                *rounded = bf16(*value);
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::bf16;

    #[test]
    fn the_nearest_is_taken_and_of_two_the_even_one() {
        let (next, after) = (f32::from_bits(0x3f81_0000), f32::from_bits(0x3f82_0000));
        for (x, expected) in [
            (1.0, 1.0),
            (1.003, 1.0),
            (-1.003, -1.0),
            (f32::from_bits(0x3f80_8000), 1.0),
            (f32::from_bits(0x3f80_8001), next),
            (f32::from_bits(0x3f81_7fff), next),
            (f32::from_bits(0x3f81_8000), after),
        ] {
            assert_eq!(bf16(x), expected, "{x:e}");
        }
    }

    #[test]
    fn special_values_stay_what_they_are() {
        assert!(bf16(f32::NAN).is_nan());
        assert!(bf16(f32::from_bits(0x7f80_0001)).is_nan());
        assert!(bf16(f32::from_bits(0xffff_ffff)).is_nan());
        assert_eq!(bf16(f32::NEG_INFINITY), f32::NEG_INFINITY);
        assert_eq!(bf16(f32::MAX), f32::INFINITY);
        assert_eq!(bf16(-0.0).to_bits(), (-0.0f32).to_bits());
        let subnormal = f32::from_bits(0x0003_8001);
        assert_eq!(bf16(subnormal).to_bits(), 0x0004_0000);
    }
}
