//! The parts of gates that are theirs alone.

#[cfg(feature = "cuda")]
use cubecl::prelude::*;

use super::kernel::kernel;
use super::math::{mul_add, sigmoid};

/// Partial sums of a dot product over channels.
pub const LANES: usize = 8;

/// Dot products over channels, lane by lane. `a`: `[pixels, channels]`; `b` the same with `stride` = channels, or
/// `[channels]` with 0. A unit is a pixel and a lane; out: `[pixels, LANES]`.
#[cfg_attr(feature = "cuda", cube)]
pub fn dot_lanes(
    unit: usize,
    a: &[f32],
    b: &[f32],
    channels: usize,
    stride: usize,
    out: &mut [f32],
) {
    let pixel = unit / LANES;
    let lane = unit % LANES;
    let mut sum = 0.0f32;
    for step in 0..(channels + LANES - 1) / LANES {
        let channel = step * LANES + lane;
        if channel < channels {
            sum = mul_add(
                a[pixel * channels + channel],
                b[pixel * stride + channel],
                sum,
            );
        }
    }
    out[unit] = sum;
}
kernel!(DotLanes, dot_lanes_kernel, dot_lanes(a, b; channels: usize, stride: usize));

/// The sigmoid of each pixel's dot product.
#[cfg_attr(feature = "cuda", cube)]
pub fn spatial_gate(unit: usize, lanes: &[f32], out: &mut [f32]) {
    let mut sum = 0.0f32;
    for lane in 0..LANES {
        sum += lanes[unit * LANES + lane];
    }
    out[unit] = sigmoid(sum);
}
kernel!(SpatialGate, spatial_gate_kernel, spatial_gate(lanes;));

/// The gradient of each pixel's logit: `lanes` sum to the gradient of the gate.
#[cfg_attr(feature = "cuda", cube)]
pub fn spatial_slope(unit: usize, lanes: &[f32], gate: &[f32], out: &mut [f32]) {
    let mut sum = 0.0f32;
    for lane in 0..LANES {
        sum += lanes[unit * LANES + lane];
    }
    let value = gate[unit];
    out[unit] = sum * value * (1.0f32 - value);
}
kernel!(SpatialSlope, spatial_slope_kernel, spatial_slope(lanes, gate;));
