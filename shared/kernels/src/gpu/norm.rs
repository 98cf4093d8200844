//! Batch normalisation over the rows of `[rows, channels]`, and the ReLU that may follow.

#[cfg(feature = "cuda")]
use cubecl::prelude::*;

use super::kernel::kernel;
use super::math::{mul_add, rectified};
use super::sums::GROUP;

/// `activation((x - mean) / sqrt(variance + epsilon) * gamma + beta)`.
#[cfg_attr(feature = "cuda", cube)]
#[allow(clippy::too_many_arguments)]
pub fn normalize(
    unit: usize,
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    mean: &[f32],
    variance: &[f32],
    channels: usize,
    epsilon: f32,
    relu: u32,
    out: &mut [f32],
) {
    let channel = unit % channels;
    let scale = gamma[channel] / (variance[channel] + epsilon).sqrt();
    let shift = beta[channel] - mean[channel] * scale;
    let mut value = mul_add(x[unit], scale, shift);
    if relu == 1 {
        value = rectified(value);
    }
    out[unit] = value;
}
kernel!(
    Normalize,
    normalize_kernel,
    normalize(x, gamma, beta, mean, variance; channels: usize, epsilon: f32, relu: u32)
);

/// Sums over groups of rows of what the activation lets pass of `grad`, and of its product with `x - mean`.
/// A unit is a group of rows and a channel; out: `[groups, 2, channels]`.
#[cfg_attr(feature = "cuda", cube)]
#[allow(clippy::too_many_arguments)]
pub fn norm_sums(
    unit: usize,
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    mean: &[f32],
    variance: &[f32],
    grad: &[f32],
    rows: usize,
    channels: usize,
    epsilon: f32,
    relu: u32,
    out: &mut [f32],
) {
    let channel = unit % channels;
    let group = unit / channels;
    let start = group * GROUP;
    let mut end = start + GROUP;
    if end > rows {
        end = rows;
    }
    let middle = mean[channel];
    let scale = gamma[channel] / (variance[channel] + epsilon).sqrt();
    let shift = beta[channel] - middle * scale;
    let mut sum = 0.0f32;
    let mut product = 0.0f32;
    for row in start..end {
        let at = row * channels + channel;
        let value = x[at];
        let mut slope = grad[at];
        if relu == 1 && mul_add(value, scale, shift) <= 0.0f32 {
            slope = 0.0f32;
        }
        sum += slope;
        product = mul_add(slope, value - middle, product);
    }
    out[group * 2 * channels + channel] = sum;
    out[(group * 2 + 1) * channels + channel] = product;
}
kernel!(
    NormSums,
    norm_sums_kernel,
    norm_sums(x, gamma, beta, mean, variance, grad; rows: usize, channels: usize, epsilon: f32, relu: u32)
);

/// The gradient of gamma from the total of [`NormSums`], `[2, channels]`.
#[cfg_attr(feature = "cuda", cube)]
pub fn norm_gamma(
    unit: usize,
    sums: &[f32],
    variance: &[f32],
    channels: usize,
    epsilon: f32,
    out: &mut [f32],
) {
    out[unit] = sums[channels + unit] / (variance[unit] + epsilon).sqrt();
}
kernel!(NormGamma, norm_gamma_kernel, norm_gamma(sums, variance; channels: usize, epsilon: f32));

/// The gradient of `x` (Ioffe and Szegedy, "Batch normalization", 2015):
/// `scale * (grad - sum / rows - (x - mean) * product / (variance + epsilon) / rows)`.
#[cfg_attr(feature = "cuda", cube)]
#[allow(clippy::too_many_arguments)]
pub fn norm_input(
    unit: usize,
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    mean: &[f32],
    variance: &[f32],
    grad: &[f32],
    sums: &[f32],
    rows: f32,
    channels: usize,
    epsilon: f32,
    relu: u32,
    out: &mut [f32],
) {
    let channel = unit % channels;
    let middle = mean[channel];
    let inverse = 1.0f32 / (variance[channel] + epsilon).sqrt();
    let scale = gamma[channel] / (variance[channel] + epsilon).sqrt();
    let shift = beta[channel] - middle * scale;
    let value = x[unit];
    let mut slope = grad[unit];
    if relu == 1 && mul_add(value, scale, shift) <= 0.0f32 {
        slope = 0.0f32;
    }
    let offset = sums[channel] / rows;
    let tilt = sums[channels + channel] * inverse * inverse / rows;
    out[unit] = scale * (slope - offset - (value - middle) * tilt);
}
kernel!(
    NormInput,
    norm_input_kernel,
    norm_input(x, gamma, beta, mean, variance, grad, sums; rows: f32, channels: usize, epsilon: f32, relu: u32)
);
