//! Depthwise convolutions over `[batch, height, width, channels]`: a window of `size` x `size` pixels, padded by half of it.

#[cfg(feature = "cuda")]
use cubecl::prelude::*;

use super::kernel::kernel;
use super::math::{mul_add, rectified};

/// `weight`: `[channels, 1, size, size]`, `bias`: `[channels]`, out: `[batch, out_height, out_width, channels]`.
/// `relu`: whether one follows.
#[cfg_attr(feature = "cuda", cube)]
#[allow(clippy::too_many_arguments)]
pub fn depthwise(
    unit: usize,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    height: usize,
    width: usize,
    channels: usize,
    out_height: usize,
    out_width: usize,
    size: usize,
    stride: usize,
    relu: u32,
    out: &mut [f32],
) {
    let channel = unit % channels;
    let column = unit / channels % out_width;
    let row = unit / channels / out_width % out_height;
    let picture = unit / channels / out_width / out_height;
    let border = size / 2;
    let mut sum = bias[channel];
    for tap in 0..size * size {
        // Larger than the place in the picture by the border.
        let y = row * stride + tap / size;
        let z = column * stride + tap % size;
        if y >= border && y < height + border && z >= border && z < width + border {
            let pixel = (picture * height + y - border) * width + z - border;
            sum = mul_add(
                x[pixel * channels + channel],
                weight[channel * size * size + tap],
                sum,
            );
        }
    }
    if relu == 1 {
        sum = rectified(sum);
    }
    out[unit] = sum;
}
kernel!(
    Depthwise,
    depthwise_kernel,
    depthwise(x, weight, bias; height: usize, width: usize, channels: usize, out_height: usize, out_width: usize,
        size: usize, stride: usize, relu: u32)
);

/// The gradient of the input: that of the output, spread out by the stride, convolved with the flipped weight.
#[cfg_attr(feature = "cuda", cube)]
#[allow(clippy::too_many_arguments)]
pub fn depthwise_input(
    unit: usize,
    grad: &[f32],
    weight: &[f32],
    height: usize,
    width: usize,
    channels: usize,
    out_height: usize,
    out_width: usize,
    size: usize,
    stride: usize,
    out: &mut [f32],
) {
    let channel = unit % channels;
    let column = unit / channels % width;
    let row = unit / channels / width % height;
    let picture = unit / channels / width / height;
    let border = size / 2;
    let taps = size * size;
    let mut sum = 0.0f32;
    for tap in 0..taps {
        let y = row + tap / size;
        let z = column + tap % size;
        if y >= border && y < height + border && z >= border && z < width + border {
            let spread_row = y - border;
            let spread_column = z - border;
            if spread_row % stride == 0 && spread_column % stride == 0 {
                let line = picture * out_height + spread_row / stride;
                let pixel = line * out_width + spread_column / stride;
                let flipped = weight[channel * taps + taps - 1 - tap];
                sum = mul_add(grad[pixel * channels + channel], flipped, sum);
            }
        }
    }
    out[unit] = sum;
}
kernel!(
    DepthwiseInput,
    depthwise_input_kernel,
    depthwise_input(grad, weight; height: usize, width: usize, channels: usize, out_height: usize, out_width: usize,
        size: usize, stride: usize)
);

/// The gradients of weight and bias from one row of the output. A unit is such a row of a picture and a channel;
/// out: `[batch * out_height, channels, size * size + 1]`.
#[cfg_attr(feature = "cuda", cube)]
#[allow(clippy::too_many_arguments)]
pub fn depthwise_weight(
    unit: usize,
    x: &[f32],
    grad: &[f32],
    height: usize,
    width: usize,
    channels: usize,
    out_height: usize,
    out_width: usize,
    size: usize,
    stride: usize,
    out: &mut [f32],
) {
    let channel = unit % channels;
    let line = unit / channels;
    let row = line % out_height;
    let picture = line / out_height;
    let border = size / 2;
    let taps = size * size;
    for tap in 0..taps {
        let y = row * stride + tap / size;
        let mut sum = 0.0f32;
        if y >= border && y < height + border {
            for column in 0..out_width {
                let z = column * stride + tap % size;
                if z >= border && z < width + border {
                    let pixel = (picture * height + y - border) * width + z - border;
                    let other = line * out_width + column;
                    sum = mul_add(
                        x[pixel * channels + channel],
                        grad[other * channels + channel],
                        sum,
                    );
                }
            }
        }
        out[unit * (taps + 1) + tap] = sum;
    }
    let mut sum = 0.0f32;
    for column in 0..out_width {
        sum += grad[(line * out_width + column) * channels + channel];
    }
    out[unit * (taps + 1) + taps] = sum;
}
kernel!(
    DepthwiseWeight,
    depthwise_weight_kernel,
    depthwise_weight(x, grad; height: usize, width: usize, channels: usize, out_height: usize, out_width: usize,
        size: usize, stride: usize)
);

/// `count` of the `all` sums of each channel, from `first` on: `[channels, count]`.
#[cfg_attr(feature = "cuda", cube)]
pub fn depthwise_taps(
    unit: usize,
    sums: &[f32],
    all: usize,
    first: usize,
    count: usize,
    out: &mut [f32],
) {
    out[unit] = sums[unit / count * all + first + unit % count];
}
kernel!(
    DepthwiseTaps,
    depthwise_taps_kernel,
    depthwise_taps(sums; all: usize, first: usize, count: usize)
);
