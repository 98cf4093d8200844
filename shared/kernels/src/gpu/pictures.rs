//! From the bytes of pictures to what a network sees.
//!
//! Every value is read from a table that the host has made, or is the sum of two such: so its bits are the host's,
//! however a compiler joins products and sums.

#[cfg(feature = "cuda")]
use cubecl::prelude::*;

use super::kernel::kernel;
use super::math::bits;

/// Values of a byte.
pub const BYTES: usize = 256;
/// Values of a table: of each byte of each channel.
pub const TABLE: usize = 3 * BYTES;

/// The byte at `at`, four in each word, the first one lowest.
#[cfg_attr(feature = "cuda", cube)]
pub fn byte(words: &[f32], at: usize) -> usize {
    let shift = 8u32 * (at % 4) as u32;
    ((bits(words[at / 4]) >> shift) & 0xffu32) as usize
}

/// A value of `samples` pictures of `size` x `size` pixels, whose bytes are `words`. `tables`: `[TABLE]`, the byte's value;
/// where `blend` is 1, `[3, TABLE]`, then that times a picture's own share, and times its partner's. The partner of the first
/// one is the last one, and so on. Inside of rows `top..bottom` and columns `left..right` the partner's pixels are shown.
#[cfg_attr(feature = "cuda", cube)]
#[allow(clippy::too_many_arguments)]
pub fn picture_value(
    unit: usize,
    words: &[f32],
    tables: &[f32],
    samples: usize,
    size: usize,
    blend: u32,
    top: usize,
    bottom: usize,
    left: usize,
    right: usize,
    out: &mut [f32],
) {
    let channel = unit % 3;
    let column = unit / 3 % size;
    let row = unit / 3 / size % size;
    let picture = unit / 3 / size / size;
    let partner = samples - 1 - picture;
    let own = channel * BYTES + byte(words, unit);
    let other = channel * BYTES + byte(words, partner * size * size * 3 + unit % (size * size * 3));
    let mut value = tables[own];
    if row >= top && row < bottom && column >= left && column < right {
        value = tables[other];
    }
    if blend == 1u32 && partner != picture {
        value = tables[TABLE + own] + tables[2 * TABLE + other];
    }
    out[unit] = value;
}
kernel!(
    PictureValues,
    pictures_kernel,
    picture_value(words, tables; samples: usize, size: usize, blend: u32, top: usize, bottom: usize, left: usize, right: usize)
);
