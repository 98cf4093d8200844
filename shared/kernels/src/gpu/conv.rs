//! Dense 3x3 convolution, stride 2, padding 1: patches as rows, in the order of PyTorch's weight, for one product.

#[cfg(feature = "cuda")]
use cubecl::prelude::*;

use super::kernel::kernel;

/// The patches of `x` `[batch, height, width, channels]`: `[batch, out_height, out_width, channels, 9]`.
#[cfg_attr(feature = "cuda", cube)]
#[allow(clippy::too_many_arguments)]
pub fn patches(
    unit: usize,
    x: &[f32],
    height: usize,
    width: usize,
    channels: usize,
    out_height: usize,
    out_width: usize,
    out: &mut [f32],
) {
    let tap = unit % 9;
    let channel = unit / 9 % channels;
    let pixel = unit / 9 / channels;
    let column = pixel % out_width;
    let row = pixel / out_width % out_height;
    let picture = pixel / out_width / out_height;
    // One more than the place in the picture.
    let y = 2 * row + tap / 3;
    let z = 2 * column + tap % 3;
    let mut value = 0.0f32;
    if y >= 1 && y <= height && z >= 1 && z <= width {
        value = x[((picture * height + y - 1) * width + z - 1) * channels + channel];
    }
    out[unit] = value;
}
kernel!(
    Patches,
    patches_kernel,
    patches(x; height: usize, width: usize, channels: usize, out_height: usize, out_width: usize)
);

/// Each pixel's sum over the patches that have it: the gradient of [`Patches`]' input from that of its output.
#[cfg_attr(feature = "cuda", cube)]
#[allow(clippy::too_many_arguments)]
pub fn patch_sums(
    unit: usize,
    patches: &[f32],
    height: usize,
    width: usize,
    channels: usize,
    out_height: usize,
    out_width: usize,
    out: &mut [f32],
) {
    let channel = unit % channels;
    let column = unit / channels % width;
    let row = unit / channels / width % height;
    let picture = unit / channels / width / height;
    let mut sum = 0.0f32;
    for tap in 0..9usize {
        // Twice the patch's place.
        let y = row + 3 - tap / 3;
        let z = column + 3 - tap % 3;
        if y >= 2 && z >= 2 && y % 2 == 0 && z % 2 == 0 {
            let patch_row = y / 2 - 1;
            let patch_column = z / 2 - 1;
            if patch_row < out_height && patch_column < out_width {
                let pixel = (picture * out_height + patch_row) * out_width + patch_column;
                sum += patches[(pixel * channels + channel) * 9 + tap];
            }
        }
    }
    out[unit] = sum;
}
kernel!(
    PatchSums,
    patch_sums_kernel,
    patch_sums(patches; height: usize, width: usize, channels: usize, out_height: usize, out_width: usize)
);
