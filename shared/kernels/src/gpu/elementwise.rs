//! What is done to each value alone.

#[cfg(feature = "cuda")]
use cubecl::prelude::*;

use super::kernel::kernel;
use super::math::{mul_add, sigmoid};

/// `x / divisor`.
#[cfg_attr(feature = "cuda", cube)]
pub fn divide(unit: usize, x: &[f32], divisor: f32, out: &mut [f32]) {
    out[unit] = x[unit] / divisor;
}
kernel!(Divide, divide_kernel, divide(x; divisor: f32));

/// `1 / (1 + e^-x)`.
#[cfg_attr(feature = "cuda", cube)]
pub fn sigmoids(unit: usize, x: &[f32], out: &mut [f32]) {
    out[unit] = sigmoid(x[unit]);
}
kernel!(Sigmoid, sigmoids_kernel, sigmoids(x;));

/// `slope * gate * (1 - gate)`: through a [`Sigmoid`] whose result was `gate`.
#[cfg_attr(feature = "cuda", cube)]
pub fn sigmoid_slope(unit: usize, slope: &[f32], gate: &[f32], out: &mut [f32]) {
    let value = gate[unit];
    out[unit] = slope[unit] * (value * (1.0f32 - value));
}
kernel!(SigmoidSlope, sigmoid_slope_kernel, sigmoid_slope(slope, gate;));

/// `x * factor`, `x`: `[rows, columns]`, `factor`: `[rows]`.
#[cfg_attr(feature = "cuda", cube)]
pub fn scale_rows(unit: usize, x: &[f32], factor: &[f32], columns: usize, out: &mut [f32]) {
    out[unit] = x[unit] * factor[unit / columns];
}
kernel!(ScaleRows, scale_rows_kernel, scale_rows(x, factor; columns: usize));

/// `left * right`, `left`: `[rows]`, `right`: `[columns]`, out: `[rows, columns]`.
#[cfg_attr(feature = "cuda", cube)]
pub fn outer(unit: usize, left: &[f32], right: &[f32], columns: usize, out: &mut [f32]) {
    out[unit] = left[unit / columns] * right[unit % columns];
}
kernel!(Outer, outer_kernel, outer(left, right; columns: usize));

/// `x * factor`, `x`: `[batch, rows, columns]`, `factor`: `[batch, columns]`; `picture` is `rows * columns`.
#[cfg_attr(feature = "cuda", cube)]
pub fn scale_columns(
    unit: usize,
    x: &[f32],
    factor: &[f32],
    picture: usize,
    columns: usize,
    out: &mut [f32],
) {
    out[unit] = x[unit] * factor[unit / picture * columns + unit % columns];
}
kernel!(ScaleColumns, scale_columns_kernel, scale_columns(x, factor; picture: usize, columns: usize));

/// [`ScaleColumns`], and a summand of the same shape as the factor.
#[cfg_attr(feature = "cuda", cube)]
pub fn shift_columns(
    unit: usize,
    x: &[f32],
    factor: &[f32],
    summand: &[f32],
    picture: usize,
    columns: usize,
    out: &mut [f32],
) {
    let at = unit / picture * columns + unit % columns;
    out[unit] = mul_add(x[unit], factor[at], summand[at]);
}
kernel!(ShiftColumns, shift_columns_kernel, shift_columns(x, factor, summand; picture: usize, columns: usize));

/// The values from `first` on.
#[cfg_attr(feature = "cuda", cube)]
pub fn part(unit: usize, x: &[f32], first: usize, out: &mut [f32]) {
    out[unit] = x[first + unit];
}
kernel!(Part, part_kernel, part(x; first: usize));
