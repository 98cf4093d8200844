//! GELU in its exact form (Hendrycks and Gimpel, "Gaussian error linear units", 2016) and the fully
//! connected layer that follows it: the activated values live for one tile of rows and are computed again in
//! the backward pass.

use std::f32::consts::FRAC_1_SQRT_2;

use super::linear::tile_rows;
use super::math::{erf, exp};
use super::matmul::{Matrix, Panels, add_transposed, affine, append_affine};
use super::rounding::{bf16, f16};
use super::vectorized;
use crate::Precision;

/// `1 / sqrt(2 pi)`.
const INVERSE_SQRT_TAU: f32 = 0.398_942_3;

/// `Phi(x)`, the cumulative normal distribution.
#[inline(always)]
fn cumulative(x: f32) -> f32 {
    0.5 * (1.0 + erf(x * FRAC_1_SQRT_2))
}

// Plain loops: what `collect` calls is not compiled for the vector unit, and `mul_add` is then a
// function call.

/// `x * Phi(x)`, as an operand.
fn activate(x: &[f32], out: &mut [f32], precision: Precision) {
    match precision {
        Precision::F32 => activate_as(x, out, |value| value),
        Precision::Bf16 => activate_as(x, out, bf16),
        Precision::F16 => activate_as(x, out, f16),
    }
}

#[inline(always)]
fn activate_as(x: &[f32], out: &mut [f32], operand: impl Fn(f32) -> f32) {
    vectorized(
        #[inline(always)]
        || {
            for (out, x) in out.iter_mut().zip(x) {
                *out = operand(x * cumulative(*x));
            }
        },
    );
}

/// `x * Phi(x)`, as an operand, and `grad` times its slope `Phi(x) + x * phi(x)`.
fn activate_and_slope(x: &[f32], out: &mut [f32], grad: &mut [f32], precision: Precision) {
    match precision {
        Precision::F32 => activate_and_slope_as(x, out, grad, |value| value),
        Precision::Bf16 => activate_and_slope_as(x, out, grad, bf16),
        Precision::F16 => activate_and_slope_as(x, out, grad, f16),
    }
}

#[inline(always)]
fn activate_and_slope_as(
    x: &[f32],
    out: &mut [f32],
    grad: &mut [f32],
    operand: impl Fn(f32) -> f32,
) {
    vectorized(
        #[inline(always)]
        || {
            for ((out, x), grad) in out.iter_mut().zip(x).zip(grad) {
                let cumulative = cumulative(*x);
                let density = INVERSE_SQRT_TAU * exp(-0.5 * x * x);
                *out = operand(x * cumulative);
                *grad *= x.mul_add(density, cumulative);
            }
        },
    );
}

/// `gelu(x) @ weight^T + bias`: `x` `[rows, in]`, `weight` `[outputs, in]`, `bias` `[outputs]`.
pub fn linear(
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    outputs: usize,
    precision: Precision,
) -> Vec<f32> {
    let inputs = weight.len() / outputs;
    let weight = precision.operand(weight);
    let weight = Panels::of_transposed(Matrix::new(&weight, outputs, inputs));
    let rows = tile_rows(inputs);
    let mut tile = vec![0.0; x.len().min(rows * inputs)];
    let mut out = Vec::with_capacity(x.len() / inputs * outputs);
    for x in x.chunks(rows * inputs) {
        let tile = &mut tile[..x.len()];
        activate(x, tile, precision);
        let activated = Matrix::new(tile, x.len() / inputs, inputs);
        append_affine(activated, &weight, Some(bias), &mut out);
    }
    out
}

/// `x` and [`linear`] of what a fully connected layer makes of it, in `f32`, added. Each layer is a weight, `[outputs, in]`, and a
/// bias, `[outputs]`; the second one has as many outputs as `x` has columns.
pub fn feed_forward(
    x: &[f32],
    (weight, bias): (&[f32], &[f32]),
    (second_weight, second_bias): (&[f32], &[f32]),
) -> Vec<f32> {
    let (inputs, outputs) = (weight.len() / bias.len(), second_bias.len());
    let weight = Panels::of_transposed(Matrix::new(weight, bias.len(), inputs));
    let second_weight = Panels::of_transposed(Matrix::new(second_weight, outputs, bias.len()));
    let rows = tile_rows(bias.len());
    let mut hidden = vec![0.0; rows.min(x.len() / inputs) * bias.len()];
    let mut out = Vec::with_capacity(x.len() / inputs * outputs);
    for x in x.chunks(rows * inputs) {
        let rows = x.len() / inputs;
        let hidden = &mut hidden[..rows * bias.len()];
        affine(Matrix::new(x, rows, inputs), &weight, Some(bias), hidden);
        vectorized(
            #[inline(always)]
            || {
                for value in &mut *hidden {
                    *value *= cumulative(*value);
                }
            },
        );
        let hidden = Matrix::new(hidden, rows, bias.len());
        let start = out.len();
        append_affine(hidden, &second_weight, Some(second_bias), &mut out);
        vectorized(
            #[inline(always)]
            || {
                for (out, x) in out[start..].iter_mut().zip(x) {
                    *out += x;
                }
            },
        );
    }
    out
}

/// The gradients of `x` and `weight` from that of the output, `grad` `[rows, outputs]`.
pub fn linear_backward(
    x: &[f32],
    weight: &[f32],
    grad: &[f32],
    outputs: usize,
    precision: Precision,
) -> (Vec<f32>, Vec<f32>) {
    let inputs = weight.len() / outputs;
    let weight = precision.operand(weight);
    let weight = Panels::of(Matrix::new(&weight, outputs, inputs));
    let mut dw = vec![0.0; outputs * inputs];
    let rows = tile_rows(inputs);
    let mut activated = vec![0.0; x.len().min(rows * inputs)];
    let mut scratch = precision.scratch(grad.len().min(rows * outputs));
    let mut dx = Vec::with_capacity(x.len());
    for x in x.chunks(rows * inputs) {
        let (start, rows) = (dx.len(), x.len() / inputs);
        let grad = &grad[start / inputs * outputs..][..rows * outputs];
        let grad = Matrix::new(precision.operand_in(&mut scratch, grad), rows, outputs);
        let activated = &mut activated[..x.len()];
        append_affine(grad, &weight, None, &mut dx);
        activate_and_slope(x, activated, &mut dx[start..], precision);
        add_transposed(grad, Matrix::new(activated, rows, inputs), &mut dw);
    }
    (dx, dw)
}
