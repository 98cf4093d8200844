//! Matrix products in tiles: a cube of [`UNITS`] units makes [`TILE`] x [`TILE`] values of the result, each unit 4 x 4 of
//! them. Both operands' parts of [`DEPTH`] terms go through shared memory; every value adds its terms one after the other.
//!
//! The sum of a weight's gradient, over all pixels, is cut into pieces of [`PIECE`] terms that cubes of their own add; the
//! pieces are then summed as [`super::sums::total`] does.

#[cfg(feature = "cuda")]
use cubecl::prelude::*;

use super::kernel::Machine;
use super::math::{gelu, gelu_slope, mul_add, operand, rectified};
use crate::Precision;

/// Rows and columns of a tile.
pub const TILE: usize = 64;
/// Terms that a tile takes at a time.
pub const DEPTH: usize = 16;
/// Units of a cube.
pub const UNITS: usize = 256;
/// Terms of a weight's gradient that a cube adds.
pub const PIECE: usize = 2048;
/// Rows and columns of a tile that a unit makes: every sixteenth one.
const OWN: usize = 4;
const STEP: usize = TILE / OWN;
/// Distance of terms in shared memory: units that write neighbouring terms then use different banks.
const STRIDE: usize = TILE + 1;
/// Values in shared memory for each operand.
pub const SHARED: usize = DEPTH * STRIDE;
/// Values that a unit makes.
pub const VALUES: usize = OWN * OWN;

/// What is done with a value of the result before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Ending {
    None = 0,
    /// Add `extra[column]`.
    Bias = 1,
    /// Add `extra[column]`, then a ReLU.
    BiasRelu = 2,
    /// Times the slope of GELU at `extra[row, column]`.
    GeluSlope = 3,
}

/// `left` `[rows, depth]` times `right` `[depth, columns]`.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
    /// Distances of rows and of terms in `left`.
    pub left: [usize; 2],
    /// Distances of columns and of terms in `right`.
    pub right: [usize; 2],
    /// Terms of a piece.
    pub piece: usize,
    /// Whether GELU is applied to what is read of `left` and of `right`.
    pub gelu: [bool; 2],
    /// What then becomes of it. Sums and the result are `f32`.
    pub precision: Precision,
    pub ending: Ending,
}

// === impl Product ===

impl Product {
    /// `left` `[rows, depth]` and `right` `[columns, depth]`, both contiguous: a layer's forward pass.
    pub fn of_rows(rows: usize, columns: usize, depth: usize) -> Self {
        Self {
            rows,
            columns,
            depth,
            left: [depth, 1],
            right: [depth, 1],
            piece: depth,
            gelu: [false; 2],
            precision: Precision::F32,
            ending: Ending::None,
        }
    }

    /// `left` `[rows, depth]` and `right` `[depth, columns]`, both contiguous: the gradient of an input.
    pub fn plain(rows: usize, columns: usize, depth: usize) -> Self {
        Self {
            right: [1, columns],
            ..Self::of_rows(rows, columns, depth)
        }
    }

    /// `left` `[depth, rows]` and `right` `[depth, columns]`, both contiguous: the gradient of a weight.
    pub fn of_columns(rows: usize, columns: usize, depth: usize) -> Self {
        Self {
            left: [1, rows],
            piece: PIECE,
            ..Self::plain(rows, columns, depth)
        }
    }

    /// What [`operand()`] calls the precision.
    pub fn format(&self) -> u32 {
        match self.precision {
            Precision::F32 => 0,
            Precision::Bf16 => 1,
            Precision::F16 => 2,
        }
    }

    /// How many pieces the sum is cut into.
    pub fn pieces(&self) -> usize {
        self.depth.div_ceil(self.piece)
    }
}

/// [`Machine::multiply`] and the sum of the pieces.
pub fn product<M: Machine>(
    machine: &M,
    left: &M::Values,
    right: &M::Values,
    extra: Option<&M::Values>,
    product: Product,
) -> M::Values {
    let pieces = product.pieces();
    assert!(
        pieces == 1 || product.ending == Ending::None,
        "a product of several pieces ends with their sum"
    );
    let values = machine.multiply(left, right, extra, product);
    let size = product.rows * product.columns;
    super::sums::total(machine, values, 1, pieces, size)
}

/// A unit's share of one operand's next [`DEPTH`] terms: `[terms, TILE]` in shared memory, zero outside the operand.
/// `line` is the tile's first row (or column), of `lines`; `first` its first term, of those before `end`.
#[cfg_attr(feature = "cuda", cube)]
#[allow(clippy::too_many_arguments)]
pub fn load(
    unit: usize,
    values: &[f32],
    line: usize,
    lines: usize,
    first: usize,
    end: usize,
    line_stride: usize,
    term_stride: usize,
    activated: u32,
    format: u32,
    shared: &mut [f32],
) {
    for step in 0..OWN {
        let at = unit + step * UNITS;
        // Neighbouring units read what are neighbours in memory.
        let mut own_line = at / DEPTH;
        let mut own_term = at % DEPTH;
        if line_stride == 1 {
            own_line = at % TILE;
            own_term = at / TILE;
        }
        let mut value = 0.0f32;
        if line + own_line < lines && first + own_term < end {
            value = values[(line + own_line) * line_stride + (first + own_term) * term_stride];
            if activated == 1 {
                value = gelu(value);
            }
            value = operand(value, format);
        }
        shared[own_term * STRIDE + own_line] = value;
    }
}

/// Adds [`DEPTH`] terms to each value of a unit.
#[cfg_attr(feature = "cuda", cube)]
pub fn accumulate(unit: usize, left: &[f32], right: &[f32], sums: &mut [f32]) {
    let row = unit / STEP;
    let column = unit % STEP;
    for term in 0..DEPTH {
        for i in 0..OWN {
            let factor = left[term * STRIDE + row + i * STEP];
            for j in 0..OWN {
                let other = right[term * STRIDE + column + j * STEP];
                sums[i * OWN + j] = mul_add(factor, other, sums[i * OWN + j]);
            }
        }
    }
}

/// Stores a unit's values of the tile at `row`, `column` of piece `piece`.
#[cfg_attr(feature = "cuda", cube)]
#[allow(clippy::too_many_arguments)]
pub fn store(
    unit: usize,
    row: usize,
    column: usize,
    piece: usize,
    rows: usize,
    columns: usize,
    ending: u32,
    extra: &[f32],
    sums: &[f32],
    out: &mut [f32],
) {
    for i in 0..OWN {
        let own_row = row + unit / STEP + i * STEP;
        for j in 0..OWN {
            let own_column = column + unit % STEP + j * STEP;
            if own_row < rows && own_column < columns {
                let mut value = sums[i * OWN + j];
                if ending == 1 || ending == 2 {
                    value += extra[own_column];
                }
                if ending == 2 {
                    value = rectified(value);
                }
                if ending == 3 {
                    value *= gelu_slope(extra[own_row * columns + own_column]);
                }
                out[(piece * rows + own_row) * columns + own_column] = value;
            }
        }
    }
}

/// One tile of one piece.
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
pub(super) mod product_kernel {
    use cubecl::prelude::*;

    use super::*;

    #[cube(launch_unchecked, address_type = "dynamic")]
    pub fn kernel(
        left: &[f32],
        right: &[f32],
        extra: &[f32],
        out: &mut [f32],
        rows: usize,
        columns: usize,
        depth: usize,
        left_line: usize,
        left_term: usize,
        right_line: usize,
        right_term: usize,
        piece_terms: usize,
        left_gelu: u32,
        right_gelu: u32,
        format: u32,
        ending: u32,
    ) {
        let mut left_tile = Shared::<[f32]>::new_slice(SHARED);
        let mut right_tile = Shared::<[f32]>::new_slice(SHARED);
        let mut sums = Array::<f32>::new(VALUES);
        let unit = UNIT_POS as usize;
        let row = CUBE_POS_X as usize * TILE;
        let column = CUBE_POS_Y as usize * TILE;
        let piece = CUBE_POS_Z as usize;
        let start = piece * piece_terms;
        let mut end = start + piece_terms;
        if end > depth {
            end = depth;
        }
        let tiles = (end - start + DEPTH - 1) / DEPTH;
        for tile in 0..tiles {
            let first = start + tile * DEPTH;
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
            sync_cube();
            accumulate(unit, &left_tile, &right_tile, &mut sums[0..VALUES]);
            sync_cube();
        }
        store(
            unit,
            row,
            column,
            piece,
            rows,
            columns,
            ending,
            extra,
            &sums[0..VALUES],
            out,
        );
    }
}
