//! Operands of matrix products in the precision that is asked for.

use std::borrow::Cow;

use super::{tiled, tiles, vectorized};
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

/// The largest half-precision number.
const F16_MAX: f32 = 65504.0;
/// The smallest one that has all its bits of precision.
const F16_NORMAL: f32 = 1.0 / 16384.0;

/// The half-precision number nearest to `x`, of two equally near ones the even one, as an `f32`. What is nearer to 65536
/// than to the largest number becomes infinite, subnormal numbers are numbers, NaN stays as it is.
#[inline(always)]
pub fn f16(x: f32) -> f32 {
    let magnitude = x.abs();
    let bits = magnitude.to_bits();
    let odd = (bits >> 13) & 1;
    let normal = f32::from_bits(bits.wrapping_add(0x0fff + odd) & 0xffff_e000);
    let normal = if normal > F16_MAX {
        f32::INFINITY
    } else {
        normal
    };
    // From 0.5 up to 1 the numbers of `f32` are as far from each other as the subnormal ones of half precision.
    let subnormal = (magnitude + 0.5) - 0.5;
    let rounded = if magnitude < F16_NORMAL {
        subnormal
    } else {
        normal
    };
    if x.is_nan() { x } else { rounded.copysign(x) }
}

/// Values of a tile that is made in the first-level cache.
const TILE: usize = 4096;

// === impl Precision ===

impl Precision {
    /// Whether an operand's values are rounded before a product. Tiles round to bfloat16 what they take.
    fn rounds_first(self) -> bool {
        match self {
            Self::F32 => false,
            Self::Bf16 => !tiles::are_used_for(self),
            Self::F16 => true,
        }
    }

    /// `values` as an operand.
    pub(super) fn operand(self, values: &[f32]) -> Cow<'_, [f32]> {
        if self.rounds_first() {
            let round = |at: usize, tile: &mut [f32]| self.round_into(&values[at..], tile);
            Cow::Owned(tiled(values.len(), TILE, round))
        } else {
            Cow::Borrowed(values)
        }
    }

    /// `values` as an operand, in `scratch` where that is not the values themselves.
    pub(super) fn operand_in<'a>(self, scratch: &'a mut [f32], values: &'a [f32]) -> &'a [f32] {
        if self.rounds_first() {
            let rounded = &mut scratch[..values.len()];
            self.round_into(values, rounded);
            rounded
        } else {
            values
        }
    }

    /// Room for operands of so many values, as [`Precision::operand_in`] wants it.
    pub(super) fn scratch(self, len: usize) -> Vec<f32> {
        if self.rounds_first() {
            vec![0.0; len]
        } else {
            Vec::new()
        }
    }

    fn round_into(self, values: &[f32], rounded: &mut [f32]) {
        match self {
            Self::F32 => rounded.copy_from_slice(values),
            Self::Bf16 => round_as(values, rounded, bf16),
            Self::F16 => round_as(values, rounded, f16),
        }
    }
}

#[inline(always)]
fn round_as(values: &[f32], rounded: &mut [f32], round: impl Fn(f32) -> f32) {
    vectorized(
        #[inline(always)]
        || {
            for (rounded, value) in rounded.iter_mut().zip(values) {
                *rounded = round(*value);
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::{bf16, f16};

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

    /// All half-precision numbers from 0 on in their order, by the format's definition, and the infinity in the place of
    /// 65536.
    fn halves() -> Vec<f32> {
        let finite = (0..31 << 10).map(|bits: u32| {
            let (exponent, fraction) = (bits >> 10, bits & 0x3ff);
            let (hidden, exponent) = match exponent {
                0 => (0, 1),
                exponent => (1024, exponent),
            };
            (hidden + fraction) as f32 * 2.0f32.powi(exponent as i32 - 25)
        });
        finite.chain([f32::INFINITY]).collect()
    }

    #[test]
    fn every_half_precision_number_is_itself_and_the_halfway_points_part_as_they_should() {
        let halves = halves();
        assert_eq!(halves[halves.len() - 2], 65504.0);
        for (index, pair) in halves.windows(2).enumerate() {
            let (low, high) = (pair[0], pair[1]);
            let middle = if high.is_infinite() {
                65520.0
            } else {
                low + (high - low) / 2.0
            };
            let even = if index % 2 == 0 { low } else { high };
            for sign in [1.0, -1.0] {
                assert_eq!(f16(sign * low).to_bits(), (sign * low).to_bits());
                assert_eq!(f16(sign * middle.next_down()), sign * low, "{middle:e}");
                assert_eq!(f16(sign * middle), sign * even, "{middle:e}");
                assert_eq!(f16(sign * middle.next_up()), sign * high, "{middle:e}");
            }
        }
    }

    #[test]
    fn half_precision_overflows_to_infinity_and_keeps_what_is_none_of_its_numbers() {
        assert!(f16(f32::NAN).is_nan());
        assert!(f16(f32::from_bits(0xffff_ffff)).is_nan());
        for large in [65520.0, 1e5, 1e30, f32::MAX, f32::INFINITY] {
            assert_eq!(f16(large), f32::INFINITY);
            assert_eq!(f16(-large), f32::NEG_INFINITY);
        }
        assert_eq!(f16(-1e-30).to_bits(), (-0.0f32).to_bits());
        assert_eq!(f16(f32::from_bits(1)), 0.0);
    }
}
