//! The host in a GPU's place: every unit of a kernel, one after the other.

use super::kernel::{Kernel, Machine};
use super::product::{DEPTH, Product, SHARED, TILE, UNITS, VALUES, accumulate, load, store};

/// Runs kernels on the calling thread. What no unit writes stays NaN, so that a test sees it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

// === impl Host ===

impl Machine for Host {
    type Values = Vec<f32>;

    fn run<K: Kernel>(
        &self,
        inputs: &[&Vec<f32>],
        scalars: K::Scalars,
        units: usize,
        len: usize,
    ) -> Vec<f32> {
        let inputs: Vec<&[f32]> = inputs.iter().map(|values| values.as_slice()).collect();
        let mut out = vec![f32::NAN; len];
        for unit in 0..units {
            K::unit(unit, &inputs, scalars, &mut out);
        }
        out
    }

    fn multiply(
        &self,
        left: &Vec<f32>,
        right: &Vec<f32>,
        extra: Option<&Vec<f32>>,
        product: Product,
    ) -> Vec<f32> {
        let Product {
            rows,
            columns,
            depth,
            ..
        } = product;
        let pieces = product.pieces();
        let extra = extra.map_or(&[][..], Vec::as_slice);
        let mut out = vec![f32::NAN; pieces * rows * columns];
        for piece in 0..pieces {
            let (start, end) = (
                piece * product.piece,
                depth.min((piece + 1) * product.piece),
            );
            for row in (0..rows).step_by(TILE) {
                for column in (0..columns).step_by(TILE) {
                    let sums = tile(left, right, product, [row, column], start..end);
                    for (unit, sums) in sums.iter().enumerate() {
                        let ending = product.ending as u32;
                        store(
                            unit, row, column, piece, rows, columns, ending, extra, sums, &mut out,
                        );
                    }
                }
            }
        }
        out
    }
}

/// What each unit of a cube has when all terms are added. Between two barriers of the kernel, all units do their part.
fn tile(
    left: &[f32],
    right: &[f32],
    product: Product,
    [row, column]: [usize; 2],
    terms: std::ops::Range<usize>,
) -> Vec<[f32; VALUES]> {
    let mut sums = vec![[0.0; VALUES]; UNITS];
    let [mut left_tile, mut right_tile] = [[f32::NAN; SHARED]; 2];
    let [left_line, left_term] = product.left;
    let [right_line, right_term] = product.right;
    let [left_gelu, right_gelu] = product.gelu.map(u32::from);
    let format = product.format();
    let (rows, columns, end) = (product.rows, product.columns, terms.end);
    for first in terms.step_by(DEPTH) {
        for unit in 0..UNITS {
            load(
                unit,
                left,
                row,
                rows,
                first,
                end,
                left_line,
                left_term,
                left_gelu,
                format,
                &mut left_tile,
            );
            load(
                unit,
                right,
                column,
                columns,
                first,
                end,
                right_line,
                right_term,
                right_gelu,
                format,
                &mut right_tile,
            );
        }
        for (unit, sums) in sums.iter_mut().enumerate() {
            accumulate(unit, &left_tile, &right_tile, sums);
        }
    }
    sums
}
