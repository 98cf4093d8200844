//! GELU in its exact form (Hendrycks and Gimpel, "Gaussian error linear units", 2016) and the fully
//! connected layers around it: the activated values live for one tile of rows and are computed again in
//! the backward pass.

use std::f32::consts::FRAC_1_SQRT_2;

use pulp::{Simd, WithSimd};

use super::linear::{ColumnSums, tile_rows};
use super::math::{erf, exp};
use super::matmul::{Matrix, TransposedSum, Weight, affine, append_affine};
use super::vectorized;
use super::vectors::{for_vectors, lane_count, load, store};
use crate::Precision;

/// `1 / sqrt(2 pi)`.
const INVERSE_SQRT_TAU: f32 = 0.398_942_3;

/// `Phi(x)`, the cumulative normal distribution.
#[inline(always)]
fn cumulative<S: Simd, const V: usize>(simd: S, x: &[S::f32s; V]) -> [S::f32s; V] {
    let mut scaled = *x;
    for x in &mut scaled {
        *x = simd.mul_f32s(*x, simd.splat_f32s(FRAC_1_SQRT_2));
    }
    let mut value = erf(simd, scaled);
    for value in &mut value {
        let sum = simd.add_f32s(simd.splat_f32s(1.0), *value);
        *value = simd.mul_f32s(simd.splat_f32s(0.5), sum);
    }
    value
}

/// `x * Phi(x)`, in the place of `x` where that is not given.
struct Activation<'a> {
    x: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl WithSimd for Activation<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for_vectors!(S, self.out.len(), V: 4, FULL, first => {
            let end = first + lane_count::<S, V, FULL>(self.out.len(), first);
            let x = load::<S, V, FULL>(simd, &self.x.unwrap_or(self.out)[first..end]);
            let mut value = cumulative(simd, &x);
            for vector in 0..V {
                value[vector] = simd.mul_f32s(x[vector], value[vector]);
            }
            store::<S, V, FULL>(simd, &mut self.out[first..end], value);
        });
    }
}

/// `x * Phi(x)`, and `grad` times its slope `Phi(x) + x * phi(x)`.
struct ActivationAndSlope<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
    grad: &'a mut [f32],
}

impl WithSimd for ActivationAndSlope<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for_vectors!(S, self.x.len(), V: 4, FULL, first => {
            let end = first + lane_count::<S, V, FULL>(self.x.len(), first);
            let x = load::<S, V, FULL>(simd, &self.x[first..end]);
            let cumulative = cumulative(simd, &x);
            let mut exponent = x;
            for x in &mut exponent {
                *x = simd.mul_f32s(simd.mul_f32s(simd.splat_f32s(-0.5), *x), *x);
            }
            let density = exp(simd, exponent);
            let mut value = x;
            let mut grad = load::<S, V, FULL>(simd, &self.grad[first..end]);
            for vector in 0..V {
                value[vector] = simd.mul_f32s(x[vector], cumulative[vector]);
                let density = simd.mul_f32s(simd.splat_f32s(INVERSE_SQRT_TAU), density[vector]);
                let slope = simd.mul_add_f32s(x[vector], density, cumulative[vector]);
                grad[vector] = simd.mul_f32s(grad[vector], slope);
            }
            store::<S, V, FULL>(simd, &mut self.out[first..end], value);
            store::<S, V, FULL>(simd, &mut self.grad[first..end], grad);
        });
    }
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
    let weight = Matrix::new(&weight, outputs, inputs);
    let weight = Weight::of_transposed(weight, x.len() / inputs, precision);
    let rows = tile_rows(inputs, precision);
    let mut tile = vec![0.0; x.len().min(rows * inputs)];
    let mut scratch = precision.scratch(tile.len());
    let mut out = Vec::with_capacity(x.len() / inputs * outputs);
    for x in x.chunks(rows * inputs) {
        let tile = &mut tile[..x.len()];
        pulp::Arch::new().dispatch(Activation {
            x: Some(x),
            out: tile,
        });
        let activated = precision.operand_in(&mut scratch, tile);
        let activated = Matrix::new(activated, x.len() / inputs, inputs);
        append_affine(activated, &weight, Some(bias), &mut out);
    }
    out
}

/// A weight `[outputs, in]` and a bias `[outputs]`.
type Layer<'a> = (&'a [f32], &'a [f32]);

/// [`linear`] of what a fully connected layer makes of `x`, and that layer's output, which the backward pass wants.
pub fn mlp(
    x: &[f32],
    (weight, bias): Layer,
    (second_weight, second_bias): Layer,
    precision: Precision,
) -> (Vec<f32>, Vec<f32>) {
    let (width, outputs) = (bias.len(), second_bias.len());
    let inputs = weight.len() / width;
    let count = x.len() / inputs;
    let [weight, second_weight] = [weight, second_weight].map(|weight| precision.operand(weight));
    let weight = Weight::of_transposed(Matrix::new(&weight, width, inputs), count, precision);
    let second_weight = Matrix::new(&second_weight, outputs, width);
    let second_weight = Weight::of_transposed(second_weight, count, precision);
    let rows = tile_rows(width.max(inputs), precision);
    let mut tile = vec![0.0; rows.min(count) * width];
    let mut scratch = precision.scratch(tile.len());
    let mut x_scratch = precision.scratch(rows.min(count) * inputs);
    let (mut out, mut hidden) = (
        Vec::with_capacity(count * outputs),
        Vec::with_capacity(count * width),
    );
    for x in x.chunks(rows * inputs) {
        let (rows, start) = (x.len() / inputs, hidden.len());
        let x = precision.operand_in(&mut x_scratch, x);
        append_affine(
            Matrix::new(x, rows, inputs),
            &weight,
            Some(bias),
            &mut hidden,
        );
        let tile = &mut tile[..rows * width];
        pulp::Arch::new().dispatch(Activation {
            x: Some(&hidden[start..]),
            out: tile,
        });
        let activated = precision.operand_in(&mut scratch, tile);
        let activated = Matrix::new(activated, rows, width);
        append_affine(activated, &second_weight, Some(second_bias), &mut out);
    }
    (out, hidden)
}

/// The gradients of [`mlp`], from that of its output, `grad` `[rows, outputs]`: of `x`, and of the weight and the bias of each layer.
/// The gradient of `hidden` never leaves the cache.
pub fn mlp_backward(
    x: &[f32],
    hidden: &[f32],
    weights: [&[f32]; 2],
    grad: &[f32],
    outputs: usize,
    precision: Precision,
) -> [Vec<f32>; 5] {
    let width = weights[1].len() / outputs;
    let inputs = weights[0].len() / width;
    let count = x.len() / inputs;
    let [weight, second_weight] = weights.map(|weight| precision.operand(weight));
    let weight = Weight::for_rows(Matrix::new(&weight, width, inputs), count, precision);
    let second_weight = Matrix::new(&second_weight, outputs, width);
    let second_weight = Weight::for_rows(second_weight, count, precision);
    let rows = tile_rows(width.max(inputs), precision);
    let [mut slopes, mut activated] = [(); 2].map(|()| vec![0.0; rows.min(count) * width]);
    let [mut slopes_scratch, mut activated_scratch] =
        [(); 2].map(|()| precision.scratch(slopes.len()));
    let mut x_scratch = precision.scratch(rows.min(count) * inputs);
    let mut grad_scratch = precision.scratch(rows.min(count) * outputs);
    let mut dx = Vec::with_capacity(x.len());
    let mut dw = TransposedSum::new(width, inputs, precision);
    let mut second_dw = TransposedSum::new(outputs, width, precision);
    let (mut db, mut second_db) = (ColumnSums::new(width), ColumnSums::new(outputs));
    let tiles = x.chunks(rows * inputs).zip(hidden.chunks(rows * width));
    for ((x, hidden), grad) in tiles.zip(grad.chunks(rows * outputs)) {
        let rows = x.len() / inputs;
        let (slopes, activated) = (&mut slopes[..hidden.len()], &mut activated[..hidden.len()]);
        second_db.add(grad);
        let grad = precision.operand_in(&mut grad_scratch, grad);
        let grad = Matrix::new(grad, rows, outputs);
        affine(grad, &second_weight, None, slopes);
        pulp::Arch::new().dispatch(ActivationAndSlope {
            x: hidden,
            out: activated,
            grad: slopes,
        });
        db.add(slopes);
        let activated = precision.operand_in(&mut activated_scratch, activated);
        second_dw.add(grad, Matrix::new(activated, rows, width));
        let slopes = precision.operand_in(&mut slopes_scratch, slopes);
        let slopes = Matrix::new(slopes, rows, width);
        append_affine(slopes, &weight, None, &mut dx);
        let x = precision.operand_in(&mut x_scratch, x);
        dw.add(slopes, Matrix::new(x, rows, inputs));
    }
    [
        dx,
        dw.into_values(),
        db.finish(),
        second_dw.into_values(),
        second_db.finish(),
    ]
}

/// `x` and [`mlp`] of it, in `f32`, added. The second layer has as many outputs as `x` has columns.
pub fn feed_forward(
    x: &[f32],
    (weight, bias): Layer,
    (second_weight, second_bias): Layer,
) -> Vec<f32> {
    let (inputs, outputs) = (weight.len() / bias.len(), second_bias.len());
    let count = x.len() / inputs;
    let weight = Matrix::new(weight, bias.len(), inputs);
    let weight = Weight::of_transposed(weight, count, Precision::F32);
    let second_weight = Matrix::new(second_weight, outputs, bias.len());
    let second_weight = Weight::of_transposed(second_weight, count, Precision::F32);
    let rows = tile_rows(bias.len(), Precision::F32);
    let mut hidden = vec![0.0; rows.min(count) * bias.len()];
    let mut out = Vec::with_capacity(count * outputs);
    for x in x.chunks(rows * inputs) {
        let rows = x.len() / inputs;
        let hidden = &mut hidden[..rows * bias.len()];
        affine(Matrix::new(x, rows, inputs), &weight, Some(bias), hidden);
        pulp::Arch::new().dispatch(Activation {
            x: None,
            out: hidden,
        });
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
    let count = x.len() / inputs;
    let weight = Weight::for_rows(Matrix::new(&weight, outputs, inputs), count, precision);
    let mut dw = TransposedSum::new(outputs, inputs, precision);
    let rows = tile_rows(inputs, precision);
    let mut activated = vec![0.0; x.len().min(rows * inputs)];
    let mut scratch = precision.scratch(grad.len().min(rows * outputs));
    let mut activated_scratch = precision.scratch(activated.len());
    let mut dx = Vec::with_capacity(x.len());
    for x in x.chunks(rows * inputs) {
        let (start, rows) = (dx.len(), x.len() / inputs);
        let grad = &grad[start / inputs * outputs..][..rows * outputs];
        let grad = Matrix::new(precision.operand_in(&mut scratch, grad), rows, outputs);
        let activated = &mut activated[..x.len()];
        append_affine(grad, &weight, None, &mut dx);
        pulp::Arch::new().dispatch(ActivationAndSlope {
            x,
            out: activated,
            grad: &mut dx[start..],
        });
        let activated = precision.operand_in(&mut activated_scratch, activated);
        dw.add(grad, Matrix::new(activated, rows, inputs));
    }
    (dx, dw.into_values())
}
