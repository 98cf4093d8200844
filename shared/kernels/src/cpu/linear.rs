//! Fully connected layers over rows, which is what a pointwise convolution is in channels-last.

use super::matmul::{Matrix, matmul, product};
use super::vectorized;

/// `x @ weight^T + bias`: `x` `[rows, in]`, `weight` `[outputs, in]`, `bias` `[outputs]`.
pub fn forward(x: &[f32], weight: &[f32], bias: Option<&[f32]>, outputs: usize) -> Vec<f32> {
    let inputs = weight.len() / outputs;
    let rows = x.len() / inputs;
    let x = Matrix::new(x, rows, inputs);
    let weight = Matrix::new(weight, outputs, inputs).transposed();
    let Some(bias) = bias else {
        return product(x, weight);
    };
    let mut out = bias.repeat(rows);
    matmul(x, weight, &mut out, true);
    out
}

/// The gradients of `x` and `weight` from that of the output, `grad` `[rows, outputs]`.
pub fn backward(x: &[f32], weight: &[f32], grad: &[f32], outputs: usize) -> (Vec<f32>, Vec<f32>) {
    let inputs = weight.len() / outputs;
    let rows = x.len() / inputs;
    let grad = Matrix::new(grad, rows, outputs);
    let dx = product(grad, Matrix::new(weight, outputs, inputs));
    let dw = product(grad.transposed(), Matrix::new(x, rows, inputs));
    (dx, dw)
}

/// Rows summed in `f32` before the partial sum goes to `f64`.
const ROWS: usize = 64;

/// The sum of each column of `values` `[rows, columns]`.
pub fn column_sums(values: &[f32], columns: usize) -> Vec<f32> {
    column_sums_f64(values, columns)
        .into_iter()
        .map(|sum| sum as f32)
        .collect()
}

/// [`column_sums`] in `f64`: blocks of rows in `f32`, the blocks in `f64`.
pub(super) fn column_sums_f64(values: &[f32], columns: usize) -> Vec<f64> {
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
    sums
}
