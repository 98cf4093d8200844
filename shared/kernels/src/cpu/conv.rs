//! Dense 3x3 convolution, stride 2, padding 1: patches as rows, one matrix product.

use super::matmul::{Matrix, matmul, product};
use super::{Image, at_least, linear, vectorized};
use crate::Precision;

/// The shape of the output.
pub fn output_image(shape: Image, outputs: usize) -> Image {
    Image {
        batch: shape.batch,
        height: shape.height.div_ceil(2),
        width: shape.width.div_ceil(2),
        channels: outputs,
    }
}

/// Calls `visit(patch_offset, x_offset, length)` for every row of every patch, as far as it lies inside
/// the picture: up to three pixels that are neighbours in the patch and in the picture.
fn for_each_patch_row(shape: Image, mut visit: impl FnMut(usize, usize, usize)) {
    let out = output_image(shape, 1);
    let channels = shape.channels;
    let mut patch = 0;
    for picture in 0..shape.batch {
        for row in 0..out.height {
            for column in 0..out.width {
                let first = usize::from(column == 0);
                let end = 3.min(shape.width + 1 - 2 * column);
                for dy in 0..3 {
                    let y = (2 * row + dy).wrapping_sub(1);
                    if y < shape.height {
                        let pixel =
                            (picture * shape.height + y) * shape.width + 2 * column + first - 1;
                        let tap = 3 * dy + first;
                        visit(
                            patch + tap * channels,
                            pixel * channels,
                            (end - first) * channels,
                        );
                    }
                }
                patch += 9 * channels;
            }
        }
    }
}

/// The patches of `x` as rows: `[batch * out_height * out_width, 9 * channels]`.
fn patches(shape: Image, x: &[f32]) -> Vec<f32> {
    let out = output_image(shape, 9 * shape.channels);
    let mut patches = vec![0.0; out.len()];
    for_each_patch_row(shape, |patch, pixel, length| {
        patches[patch..patch + length].copy_from_slice(&x[pixel..pixel + length]);
    });
    patches
}

/// Each output's weight of `columns` columns transposed: `[outputs, inputs, 9]` (PyTorch's order) to
/// `[outputs, 9, inputs]` (a patch's order) with nine columns, and back with `inputs`.
fn transposed(weight: &[f32], inputs: usize, columns: usize) -> Vec<f32> {
    let length = 9 * inputs;
    let rows = length / columns;
    let mut out = vec![0.0; weight.len()];
    for (out, weight) in out
        .chunks_exact_mut(length)
        .zip(weight.chunks_exact(length))
    {
        for row in 0..rows {
            for column in 0..columns {
                out[column * rows + row] = weight[row * columns + column];
            }
        }
    }
    out
}

/// `x`: `[batch, height, width, in]`, `weight`: `[out, in, 3, 3]`, `bias`: `[out]`; `relu`: whether one follows.
pub fn forward(
    shape: Image,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    relu: bool,
    precision: Precision,
) -> Vec<f32> {
    let patches = patches(shape, &precision.operand(x));
    let weight = transposed(&precision.operand(weight), shape.channels, 9);
    // Rounded already, when there was one copy of each value instead of up to four.
    let mut out = linear::forward(&patches, &weight, Some(bias), bias.len(), Precision::F32);
    if relu {
        vectorized(
            #[inline(always)]
            || {
                for value in &mut out {
                    *value = at_least(*value, 0.0);
                }
            },
        );
    }
    out
}

/// The gradients of `x` and `weight`.
pub fn backward(
    shape: Image,
    x: &[f32],
    weight: &[f32],
    grad: &[f32],
    outputs: usize,
    precision: Precision,
) -> (Vec<f32>, Vec<f32>) {
    let channels = shape.channels;
    let taps = 9 * channels;
    let grad = precision.operand(grad);
    let grad = Matrix::new(&grad, grad.len() / outputs, outputs);

    let mut buffer = patches(shape, &precision.operand(x));
    let dw = weight_gradient(channels, &buffer, grad);

    let weight = transposed(&precision.operand(weight), channels, 9);
    let weight = Matrix::new(&weight, outputs, taps);
    matmul(grad, weight, &mut buffer, false);
    let mut dx = vec![0.0; x.len()];
    for_each_patch_row(shape, |patch, pixel, length| {
        for (dx, value) in dx[pixel..pixel + length]
            .iter_mut()
            .zip(&buffer[patch..patch + length])
        {
            *dx += value;
        }
    });
    (dx, dw)
}

/// The gradient of `weight` alone, for pictures that nobody wants one of.
pub fn weight_backward(
    shape: Image,
    x: &[f32],
    grad: &[f32],
    outputs: usize,
    precision: Precision,
) -> Vec<f32> {
    let grad = precision.operand(grad);
    let grad = Matrix::new(&grad, grad.len() / outputs, outputs);
    let patches = patches(shape, &precision.operand(x));
    weight_gradient(shape.channels, &patches, grad)
}

/// From the patches and the output's gradient, by rows.
fn weight_gradient(channels: usize, patches: &[f32], grad: Matrix) -> Vec<f32> {
    let taps = 9 * channels;
    let patches = Matrix::new(patches, patches.len() / taps, taps);
    transposed(&product(grad.transposed(), patches), channels, channels)
}
