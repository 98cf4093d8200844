//! Fully connected layers over rows, which is what a pointwise convolution is in channels-last.

use super::matmul::{Matrix, Panels, add_transposed, append_affine};
use super::vectorized;
use crate::Precision;

/// Values of a tile of rows, about: the tile stays in the second-level cache.
const TILE: usize = 32 * 1024;
/// The fewest rows of a tile: a matrix product pays for reading the weight.
const TILE_ROWS: usize = 128;

/// Rows of `width` values in each of the products that a layer over many rows is made of.
pub(super) fn tile_rows(width: usize) -> usize {
    (TILE / width).max(TILE_ROWS)
}

/// `x @ weight^T + bias`: `x` `[rows, in]`, `weight` `[outputs, in]`, `bias` `[outputs]`.
pub fn forward(
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    outputs: usize,
    precision: Precision,
) -> Vec<f32> {
    let inputs = weight.len() / outputs;
    let weight = precision.operand(weight);
    let weight = Panels::of_transposed(Matrix::new(&weight, outputs, inputs));
    let tile = tile_rows(inputs.max(outputs)) * inputs;
    let mut scratch = precision.scratch(x.len().min(tile));
    let mut out = Vec::with_capacity(x.len() / inputs * outputs);
    for x in x.chunks(tile) {
        let x = precision.operand_in(&mut scratch, x);
        let x = Matrix::new(x, x.len() / inputs, inputs);
        append_affine(x, &weight, bias, &mut out);
    }
    out
}

/// The gradients of `x` and `weight` from that of the output, `grad` `[rows, outputs]`.
pub fn backward(
    x: &[f32],
    weight: &[f32],
    grad: &[f32],
    outputs: usize,
    precision: Precision,
) -> (Vec<f32>, Vec<f32>) {
    let inputs = weight.len() / outputs;
    let weight = precision.operand(weight);
    let weight = Panels::of(Matrix::new(&weight, outputs, inputs));
    let rows = tile_rows(inputs.max(outputs));
    let mut x_scratch = precision.scratch(x.len().min(rows * inputs));
    let mut grad_scratch = precision.scratch(grad.len().min(rows * outputs));
    let mut dx = Vec::with_capacity(x.len());
    let mut dw = vec![0.0; outputs * inputs];
    let tiles = x.chunks(rows * inputs).zip(grad.chunks(rows * outputs));
    for (x, grad) in tiles {
        let rows = x.len() / inputs;
        let x = Matrix::new(precision.operand_in(&mut x_scratch, x), rows, inputs);
        let grad = precision.operand_in(&mut grad_scratch, grad);
        let grad = Matrix::new(grad, rows, outputs);
        append_affine(grad, &weight, None, &mut dx);
        add_transposed(grad, x, &mut dw);
    }
    (dx, dw)
}

/// Rows summed in `f32` before the partial sum goes to `f64`.
const ROWS: usize = 64;

/// The sum of each column of `values` `[rows, columns]`.
pub fn column_sums(values: &[f32], columns: usize) -> Vec<f32> {
    let mut sums = vec![0.0f64; columns];
    let mut block = vec![0.0f32; columns];
    vectorized(
        #[inline(always)]
        || {
            for rows in values.chunks(ROWS * columns) {
                block.fill(0.0);
                for row in rows.chunks_exact(columns) {
                    for (sum, value) in block.iter_mut().zip(row) {
                        *sum += value;
                    }
                }
                for (sum, block) in sums.iter_mut().zip(&block) {
                    *sum += f64::from(*block);
                }
            }
        },
    );
    sums.into_iter().map(|sum| sum as f32).collect()
}
