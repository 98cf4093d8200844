//! Fully connected layers over rows, which is what a pointwise convolution is in channels-last.

use super::matmul::{Matrix, TransposedSum, Weight, append_affine};
use super::{tiles, vectorized};
use crate::Precision;

/// Values of a tile of rows, about: the tile stays in the second-level cache.
const TILE: usize = 32 * 1024;
/// The fewest rows of a tile: a matrix product pays for reading the weight.
const TILE_ROWS: usize = 128;

/// Rows of `width` values in each of the products that a layer over many rows is made of.
pub(super) fn tile_rows(width: usize, precision: Precision) -> usize {
    let rows = (TILE / width).max(TILE_ROWS);
    if tiles::are_used_for(precision) {
        // Of full blocks.
        rows.next_multiple_of(tiles::BLOCK)
    } else {
        rows
    }
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
    let weight = Matrix::new(&weight, outputs, inputs);
    let weight = Weight::of_transposed(weight, x.len() / inputs, precision);
    let tile = tile_rows(inputs.max(outputs), precision) * inputs;
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
    let count = x.len() / inputs;
    let weight = Weight::for_rows(Matrix::new(&weight, outputs, inputs), count, precision);
    let rows = tile_rows(inputs.max(outputs), precision);
    let mut x_scratch = precision.scratch(x.len().min(rows * inputs));
    let mut grad_scratch = precision.scratch(grad.len().min(rows * outputs));
    let mut dx = Vec::with_capacity(x.len());
    let mut dw = TransposedSum::new(outputs, inputs, precision);
    let tiles = x.chunks(rows * inputs).zip(grad.chunks(rows * outputs));
    for (x, grad) in tiles {
        let rows = x.len() / inputs;
        let x = Matrix::new(precision.operand_in(&mut x_scratch, x), rows, inputs);
        let grad = precision.operand_in(&mut grad_scratch, grad);
        let grad = Matrix::new(grad, rows, outputs);
        append_affine(grad, &weight, None, &mut dx);
        dw.add(grad, x);
    }
    (dx, dw.into_values())
}

/// Rows summed in `f32` before the partial sum goes to `f64`.
const ROWS: usize = 64;

/// The sum of each column of `values` `[rows, columns]`.
pub fn column_sums(values: &[f32], columns: usize) -> Vec<f32> {
    let mut sums = ColumnSums::new(columns);
    sums.add(values);
    sums.finish()
}

/// The sums of the columns of rows that come in pieces: to the bit those of all rows at once.
pub(super) struct ColumnSums {
    /// Of the blocks before the last one.
    sums: Vec<f64>,
    block: Vec<f32>,
    /// Rows in the last block.
    rows: usize,
}

// === impl ColumnSums ===

impl ColumnSums {
    pub fn new(columns: usize) -> Self {
        Self {
            sums: vec![0.0; columns],
            block: vec![0.0; columns],
            rows: 0,
        }
    }

    pub fn add(&mut self, values: &[f32]) {
        let columns = self.sums.len();
        vectorized(
            #[inline(always)]
            || {
                let mut values = values;
                while !values.is_empty() {
                    let taken = values.len().min((ROWS - self.rows) * columns);
                    let (rows, rest) = values.split_at(taken);
                    for row in rows.chunks_exact(columns) {
                        for (sum, value) in self.block.iter_mut().zip(row) {
                            *sum += value;
                        }
                    }
                    self.rows += taken / columns;
                    if self.rows == ROWS {
                        self.close();
                    }
                    values = rest;
                }
            },
        );
    }

    #[inline(always)]
    fn close(&mut self) {
        for (sum, block) in self.sums.iter_mut().zip(&mut self.block) {
            *sum += f64::from(*block);
            *block = 0.0;
        }
        self.rows = 0;
    }

    pub fn finish(mut self) -> Vec<f32> {
        self.close();
        self.sums.into_iter().map(|sum| sum as f32).collect()
    }
}
