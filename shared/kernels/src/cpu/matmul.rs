//! Matrix products on the calling thread.
//!
//! Each value of a product is a sum by itself: its terms are added in their order with fused multiplications, `DEPTH` at a
//! time from zero, and the sums of these in theirs. So its bits depend on its row and its column alone, not on how
//! large the matrices are, nor on a processor's vector units and caches. Products in bfloat16 have bits of their own where a processor
//! has [`tiles`] for them.
#![allow(unsafe_code)]

use std::ops::Range;

use pulp::{MemMask, Simd, WithSimd};

use super::tiles::{self, Operand as TileOperand, Tiles};
use crate::Precision;

/// Terms that are summed before they are added to the sum of those before: as many rows of a panel stay in the
/// first-level cache.
const DEPTH: usize = 256;
/// Rows of the left matrix that are multiplied by all panels before the next ones are: they stay in the second-level cache.
const ROWS: usize = 132;
/// The most columns of a panel: two vectors of AVX-512.
const MAX_WIDTH: usize = 32;
/// Rows of a block, the most that a processor has registers for.
const BLOCK: usize = 12;
/// Rows of a product that pay for packing a panel of a right matrix that could be read by rows, when its turn comes.
const PACKED_ROWS: usize = 72;
/// Columns of a product that pay for packing its left matrix, which is read once for each panel: of rows that are a power of two
/// apart, the first-level cache would keep few.
const PACKED_COLUMNS: usize = 192;

/// A matrix stored by rows.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    pub(super) values: &'a [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
}

// === impl Matrix ===

impl<'a> Matrix<'a> {
    /// `values` as `rows` rows of `columns`.
    pub fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(
            values.len(),
            rows * columns,
            "a matrix has rows * columns values"
        );
        Self {
            values,
            rows,
            columns,
        }
    }

    /// Writes the transpose.
    pub fn transpose_into(self, out: &mut [f32]) {
        assert_eq!(
            out.len(),
            self.values.len(),
            "the transpose has rows * columns values"
        );
        // SAFETY: the matrix has all of its rows, and `out` is as large.
        unsafe { turn(self, self.columns, out.as_mut_ptr(), self.rows) }
    }

    /// Writes the panel of the columns `taken`.
    ///
    /// # Safety
    ///
    /// `panel` has room for two vectors a row.
    #[inline(always)]
    unsafe fn copy_panel<S: Simd>(self, simd: S, taken: Range<usize>, panel: *mut f32) {
        for row in 0..self.rows {
            let values = &self.values[row * self.columns..][taken.clone()];
            let vectors = if values.len() == 2 * S::F32_LANES {
                let whole = S::as_simd_f32s(values).0;
                [whole[0], whole[1]]
            } else {
                let (low, high) = values.split_at(values.len().min(S::F32_LANES));
                [simd.partial_load_f32s(low), simd.partial_load_f32s(high)]
            };
            // SAFETY: the caller has made room.
            unsafe {
                let out = panel.add(row * 2 * S::F32_LANES).cast::<[S::f32s; 2]>();
                out.write_unaligned(vectors);
            }
        }
    }
}

/// The right matrix of a product as it is read: in panels of as many columns as two vectors have lanes, each by rows, the last
/// one filled up with zeros.
#[derive(Debug)]
pub struct Panels {
    values: Vec<f32>,
    rows: usize,
    columns: usize,
    /// Columns of a panel.
    width: usize,
}

/// The right matrix of products, in the way that is fastest to read for as many rows as they have.
#[derive(Debug)]
pub enum Weight<'a> {
    Packed(Panels),
    /// For few rows: a panel is packed when its turn comes, and never leaves the cache.
    ByRows(Matrix<'a>),
    /// The transpose of this one, for few rows: the product's own transpose is computed.
    Transposed(Matrix<'a>),
    Tiles(Tiles),
}

// === impl Weight ===

impl<'a> Weight<'a> {
    /// `matrix`.
    pub fn of(matrix: Matrix, precision: Precision) -> Self {
        if tiles::are_used_for(precision) {
            return Self::in_tiles(matrix, true);
        }
        Self::packed(matrix, false)
    }

    /// `matrix`, for products of `rows` rows in all.
    pub fn for_rows(matrix: Matrix<'a>, rows: usize, precision: Precision) -> Self {
        if rows <= ROWS && !tiles::are_used_for(precision) {
            Self::ByRows(matrix)
        } else {
            Self::of(matrix, precision)
        }
    }

    /// The transpose of `matrix`, for products of `rows` rows in all.
    pub fn of_transposed(matrix: Matrix<'a>, rows: usize, precision: Precision) -> Self {
        if tiles::are_used_for(precision) {
            return Self::in_tiles(matrix, false);
        }
        // Packing reads and writes the weight once, the other way all that the product reads and writes beside it.
        let beside = rows * (matrix.rows + matrix.columns);
        if rows > MAX_WIDTH && beside < matrix.values.len() {
            Self::Transposed(matrix)
        } else {
            Self::packed(matrix, true)
        }
    }

    fn in_tiles(matrix: Matrix, terms_are_rows: bool) -> Self {
        let operand = TileOperand {
            matrix,
            terms_are_rows,
        };
        Self::Tiles(Tiles::of(operand))
    }

    /// `matrix`, or its transpose.
    fn packed(matrix: Matrix, transposed: bool) -> Self {
        Self::Packed(pulp::Arch::new().dispatch(Packing { matrix, transposed }))
    }

    /// Terms of a product with it.
    pub fn rows(&self) -> usize {
        match self {
            Self::Packed(panels) => panels.rows,
            Self::ByRows(matrix) => matrix.rows,
            Self::Transposed(matrix) => matrix.columns,
            Self::Tiles(tiles) => tiles.terms(),
        }
    }

    fn columns(&self) -> usize {
        match self {
            Self::Packed(panels) => panels.columns,
            Self::ByRows(matrix) => matrix.columns,
            Self::Transposed(matrix) => matrix.rows,
            Self::Tiles(tiles) => tiles.columns(),
        }
    }
}

struct Packing<'a> {
    matrix: Matrix<'a>,
    transposed: bool,
}

impl WithSimd for Packing<'_> {
    type Output = Panels;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Panels {
        let (mut rows, mut columns) = (self.matrix.rows, self.matrix.columns);
        if self.transposed {
            (rows, columns) = (columns, rows);
        }
        let width = 2 * S::F32_LANES;
        let count = columns.div_ceil(width) * rows * width;
        let mut values = Vec::<f32>::with_capacity(count);
        let out = values.as_mut_ptr();
        // SAFETY: there is room for all panels, and each is written whole.
        unsafe {
            for first in (0..columns).step_by(width) {
                let taken = first..columns.min(first + width);
                let panel = out.add(first * rows);
                if self.transposed {
                    self.transpose(taken, width, panel);
                } else {
                    self.matrix.copy_panel(simd, taken, panel);
                }
            }
            values.set_len(count);
        }
        Panels {
            values,
            rows,
            columns,
            width,
        }
    }
}

impl Packing<'_> {
    /// Writes the panel of the matrix' rows `taken`, which are columns here.
    ///
    /// # Safety
    ///
    /// `panel` has room for `width` values a column of the matrix.
    #[inline(always)]
    unsafe fn transpose(&self, taken: Range<usize>, width: usize, panel: *mut f32) {
        /// Rows of the panel that stay in the first-level cache until they are complete.
        const ROWS: usize = 64;
        let matrix = self.matrix;
        let mut part = [0.0; ROWS * MAX_WIDTH];
        for first in (0..matrix.columns).step_by(ROWS) {
            let rows = ROWS.min(matrix.columns - first);
            let part = &mut part[..rows * width];
            let taken = Matrix {
                values: &matrix.values[taken.start * matrix.columns + first..],
                rows: taken.len(),
                columns: matrix.columns,
            };
            // SAFETY: the matrix has all of the rows taken, and `part` as many values in each of its own as a panel; the caller
            // has made room.
            unsafe {
                turn(taken, rows, part.as_mut_ptr(), width);
                let out = panel.add(first * width);
                out.copy_from_nonoverlapping(part.as_ptr(), part.len());
            }
        }
    }
}

/// Writes the first `columns` columns of `from` as rows, `stride` values from one to the next. Blocks of four by four are turned
/// in registers.
///
/// # Safety
///
/// `from` has the columns in each of its rows, the last of which may end with them; `to` has room for the rows.
#[inline(always)]
unsafe fn turn(from: Matrix, columns: usize, to: *mut f32, stride: usize) {
    /// Columns of a block: a cache line of each row.
    const COLUMNS: usize = 16;
    let row = |at: usize| from.values.as_ptr().wrapping_add(at * from.columns);
    let whole = from.rows / 4 * 4;
    // SAFETY: the caller vouches for what is read, up to `columns` values of each row, and for the room.
    unsafe {
        for first in (0..columns).step_by(COLUMNS) {
            let end = columns.min(first + COLUMNS);
            let fours = first + (end - first) / 4 * 4;
            for at in (0..whole).step_by(4) {
                let rows = [row(at), row(at + 1), row(at + 2), row(at + 3)];
                for column in (first..fours).step_by(4) {
                    // No `map`: it is not compiled for the vector unit.
                    let mut block = [[0.0f32; 4]; 4];
                    for (values, row) in block.iter_mut().zip(rows) {
                        *values = row.add(column).cast::<[f32; 4]>().read_unaligned();
                    }
                    for more in [0, 1, 2, 3] {
                        let turned = [
                            block[0][more],
                            block[1][more],
                            block[2][more],
                            block[3][more],
                        ];
                        let to = to.add((column + more) * stride + at);
                        to.cast::<[f32; 4]>().write_unaligned(turned);
                    }
                }
                for column in fours..end {
                    for (more, row) in rows.into_iter().enumerate() {
                        *to.add(column * stride + at + more) = *row.add(column);
                    }
                }
            }
            for at in whole..from.rows {
                for column in first..end {
                    *to.add(column * stride + at) = *row(at).add(column);
                }
            }
        }
    }
}

/// What the sums of a product are added to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Base<'a> {
    Nothing,
    /// The same for each row.
    Row(&'a [f32]),
    /// The same for each column.
    Column(&'a [f32]),
    /// What is there.
    Output,
}

/// `out = left @ right`, by rows, with `bias` added to each row where there is one.
pub fn affine(left: Matrix, right: &Weight, bias: Option<&[f32]>, out: &mut [f32]) {
    let count = left.rows * right.columns();
    assert_eq!(out.len(), count, "the result has rows * columns values");
    // SAFETY: `out` has that many values and is borrowed mutably, so it overlaps neither input.
    unsafe { multiply(left, right, bias, out.as_mut_ptr(), false) }
}

/// Appends [`affine`] to `out`, whose memory may be far away.
pub fn append_affine(left: Matrix, right: &Weight, bias: Option<&[f32]>, out: &mut Vec<f32>) {
    let (len, count) = (out.len(), left.rows * right.columns());
    out.reserve_exact(count);
    // SAFETY: behind the `len` values is room for `count` more; all of them are written, and none is read before.
    unsafe {
        multiply(left, right, bias, out.as_mut_ptr().add(len), true);
        out.set_len(len + count);
    }
}

/// # Safety
///
/// `out` points to room for `left.rows * right.columns` values that overlap no input. All are initialised afterwards.
unsafe fn multiply(
    left: Matrix,
    right: &Weight,
    bias: Option<&[f32]>,
    out: *mut f32,
    is_far: bool,
) {
    assert_eq!(left.columns, right.rows(), "inner dimensions agree");
    if let Some(bias) = bias {
        assert_eq!(bias.len(), right.columns(), "a row has as many values");
    }
    let arch = pulp::Arch::new();
    match *right {
        Weight::Packed(ref panels) => {
            arch.dispatch(product(left, Right::of(panels), bias, out, is_far));
        }
        Weight::ByRows(matrix) => {
            arch.dispatch(product(left, Right::by_rows(matrix), bias, out, is_far));
        }
        Weight::Transposed(right) => arch.dispatch(Turned {
            left,
            right,
            bias,
            out,
        }),
        Weight::Tiles(ref right) => {
            let left = TileOperand {
                matrix: left,
                terms_are_rows: false,
            };
            let base = bias.map_or(Base::Nothing, Base::Row);
            // SAFETY: by the caller's word.
            unsafe { tiles::multiply(left, right, base, out, is_far) }
        }
    }
}

/// What [`multiply`] computes.
fn product<'a>(
    left: Matrix<'a>,
    right: Right<'a>,
    bias: Option<&'a [f32]>,
    out: *mut f32,
    is_far: bool,
) -> Product<'a, false> {
    Product {
        left,
        right,
        rows: left.rows,
        out,
        is_far,
        base: bias.map_or(Base::Nothing, Base::Row),
    }
}

/// A sum of products `left^T @ right`, each of which has a row of both for each term.
#[derive(Debug)]
pub struct TransposedSum {
    rows: usize,
    columns: usize,
    by_tiles: bool,
    /// By rows, or by columns if it is turned; none before the first product.
    values: Vec<f32>,
}

// === impl TransposedSum ===

impl TransposedSum {
    /// Zeros.
    pub fn new(rows: usize, columns: usize, precision: Precision) -> Self {
        Self {
            rows,
            columns,
            by_tiles: tiles::are_used_for(precision),
            values: Vec::new(),
        }
    }

    /// Of tiles the left ones are packed while others are multiplied: so the wider operand is on the left.
    fn is_turned(&self) -> bool {
        self.by_tiles && self.columns > self.rows
    }

    pub fn add(&mut self, left: Matrix, right: Matrix) {
        let (rows, columns) = (left.columns, right.columns);
        assert_eq!(
            (rows, columns),
            (self.rows, self.columns),
            "a product has the rows and columns of the sum"
        );
        let base = if self.values.is_empty() {
            self.values.reserve_exact(rows * columns);
            Base::Nothing
        } else {
            Base::Output
        };
        let out = self.values.as_mut_ptr();
        if self.by_tiles {
            let [mut left, mut right] = [left, right].map(|matrix| TileOperand {
                matrix,
                terms_are_rows: true,
            });
            if self.is_turned() {
                std::mem::swap(&mut left, &mut right);
            }
            let right = Tiles::of(right);
            let is_far = matches!(base, Base::Nothing);
            // SAFETY: there is room, which is initialised if it is the base.
            unsafe { tiles::multiply(left, &right, base, out, is_far) };
        } else {
            // Otherwise a panel would be packed once for each `ROWS` rows.
            let panels = (rows > 2 * ROWS).then(|| {
                pulp::Arch::new().dispatch(Packing {
                    matrix: right,
                    transposed: false,
                })
            });
            let right = (panels.as_ref()).map_or(Right::by_rows(right), Right::of);
            pulp::Arch::new().dispatch(transposed(left, right, out, base));
        }
        // SAFETY: there is room, and the product has initialised all of it.
        unsafe { self.values.set_len(rows * columns) };
    }

    /// By rows.
    pub fn into_values(mut self) -> Vec<f32> {
        self.values.resize(self.rows * self.columns, 0.0);
        if self.is_turned() {
            let mut values = vec![0.0; self.values.len()];
            let turned = Matrix::new(&self.values, self.columns, self.rows);
            turned.transpose_into(&mut values);
            return values;
        }
        self.values
    }
}

/// What a [`TransposedSum`] adds to `base`. `out` has room for it.
fn transposed<'a>(
    left: Matrix<'a>,
    right: Right<'a>,
    out: *mut f32,
    base: Base<'a>,
) -> Product<'a, true> {
    assert_eq!(left.rows, right.rows, "inner dimensions agree");
    Product {
        left,
        right,
        rows: left.columns,
        out,
        is_far: matches!(base, Base::Nothing),
        base,
    }
}

/// The product of `left` and the transpose of `right`, with `bias` added to each row, computed as its transpose: so `left` is packed,
/// which is the smaller one. `out` has room for it.
struct Turned<'a> {
    left: Matrix<'a>,
    right: Matrix<'a>,
    bias: Option<&'a [f32]>,
    out: *mut f32,
}

impl WithSimd for Turned<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (left, right) = (self.left, self.right);
        let (terms, columns) = (right.columns, right.rows);
        let packing = Packing {
            matrix: left,
            transposed: true,
        };
        let panels = packing.with_simd(simd);
        let mut tile = [0.0f32; ROWS * MAX_WIDTH];
        for first_column in (0..columns).step_by(ROWS) {
            let taken = first_column..columns.min(first_column + ROWS);
            let base = self.bias.map(|bias| Base::Column(&bias[taken.clone()]));
            for first_row in (0..left.rows).step_by(panels.width) {
                let rows = panels.width.min(left.rows - first_row);
                let product = Product::<false> {
                    left: Matrix {
                        values: &right.values[first_column * terms..],
                        ..right
                    },
                    right: Right {
                        values: &panels.values[first_row * terms..],
                        columns: rows,
                        ..Right::of(&panels)
                    },
                    rows: taken.len(),
                    out: tile.as_mut_ptr(),
                    is_far: false,
                    base: base.unwrap_or(Base::Nothing),
                };
                product.with_simd(simd);
                let turned = Matrix {
                    values: &tile,
                    rows: taken.len(),
                    columns: rows,
                };
                // SAFETY: the tile has the rows and columns, and `out` has room for all of the product.
                unsafe {
                    let out = self.out.add(first_row * columns + first_column);
                    turn(turned, rows, out, columns);
                }
            }
        }
    }
}

/// The right matrix of a product.
#[derive(Debug, Clone, Copy)]
struct Right<'a> {
    values: &'a [f32],
    /// The terms of the product.
    rows: usize,
    columns: usize,
    /// Columns of a panel where it is packed.
    width: Option<usize>,
}

// === impl Right ===

impl<'a> Right<'a> {
    fn of(panels: &'a Panels) -> Self {
        Self {
            values: &panels.values,
            rows: panels.rows,
            columns: panels.columns,
            width: Some(panels.width),
        }
    }

    fn by_rows(matrix: Matrix<'a>) -> Self {
        Self {
            values: matrix.values,
            rows: matrix.rows,
            columns: matrix.columns,
            width: None,
        }
    }

    /// Its values from this term and this column on, which is the first of a panel.
    #[inline(always)]
    fn operand(self, term: usize, column: usize) -> Operand {
        let (first, stride) = match self.width {
            Some(width) => (column * self.rows + term * width, width),
            None => (term * self.columns + column, self.columns),
        };
        Operand {
            values: self.values.as_ptr().wrapping_add(first),
            stride,
        }
    }
}

/// A product as the functions above have checked it. `TRANSPOSED`: that of the left matrix' transpose. `out` has room for
/// `rows` rows, initialised if they are the base.
struct Product<'a, const TRANSPOSED: bool> {
    left: Matrix<'a>,
    right: Right<'a>,
    rows: usize,
    out: *mut f32,
    /// Whether what is written is probably in no cache.
    is_far: bool,
    base: Base<'a>,
}

/// Where a block of the product is, and what is read for it.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    row: usize,
    first_column: usize,
    terms: usize,
    left: Operand,
    right: Operand,
    base: Base<'a>,
}

/// Where the values of an operand are.
#[derive(Debug, Clone, Copy)]
struct Operand {
    /// The first one.
    values: *const f32,
    /// From those of a term, or in a left matrix that is stored by rows from those of a row, to those of the next.
    stride: usize,
}

impl<const TRANSPOSED: bool> WithSimd for Product<'_, TRANSPOSED> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let width = 2 * S::F32_LANES;
        let right = self.right;
        let (all_terms, columns) = (right.rows, right.columns);
        if let Some(packed) = right.width {
            assert_eq!(packed, width, "packed for this processor");
        }
        let room = all_terms.min(DEPTH);
        let packs_left = TRANSPOSED && columns >= PACKED_COLUMNS;
        let packs_right = right.width.is_none() && (!TRANSPOSED || self.rows >= PACKED_ROWS);
        let mut left_block = Vec::<f32>::new();
        if packs_left {
            left_block.reserve_exact(self.rows.min(ROWS).next_multiple_of(BLOCK) * room);
        }
        let mut panel = Vec::<f32>::new();
        if packs_right {
            panel.reserve_exact(room * width);
        }
        for first_row in (0..self.rows).step_by(ROWS) {
            let end_row = self.rows.min(first_row + ROWS);
            // Without terms there is one block of none.
            for first_term in (0..all_terms.max(1)).step_by(DEPTH) {
                let terms = first_term..all_terms.min(first_term + DEPTH);
                let base = if first_term == 0 {
                    self.base
                } else {
                    Base::Output
                };
                if packs_left {
                    // SAFETY: there is room for `ROWS` rows, in whole blocks, of `DEPTH` terms.
                    unsafe {
                        let to = left_block.as_mut_ptr();
                        self.pack_left(first_row..end_row, terms.clone(), to);
                    }
                }
                for first_column in (0..columns).step_by(width) {
                    let taken = first_column..columns.min(first_column + width);
                    let right = if packs_right {
                        let part = Matrix {
                            values: &right.values[first_term * columns..],
                            rows: terms.len(),
                            columns,
                        };
                        // SAFETY: there is room for a panel of `DEPTH` terms.
                        unsafe { part.copy_panel(simd, taken, panel.as_mut_ptr()) };
                        Operand {
                            values: panel.as_ptr(),
                            stride: width,
                        }
                    } else {
                        right.operand(first_term, first_column)
                    };
                    let mut row = first_row;
                    while row < end_row {
                        let left = if packs_left {
                            let block = (row - first_row) / BLOCK * BLOCK * terms.len();
                            let first = block + (row - first_row) % BLOCK;
                            Operand {
                                values: left_block.as_ptr().wrapping_add(first),
                                stride: BLOCK,
                            }
                        } else {
                            self.left_operand(row, first_term)
                        };
                        let place = Place {
                            row,
                            first_column,
                            terms: terms.len(),
                            left,
                            right,
                            base,
                        };
                        row += self.rows(simd, place, end_row - row);
                    }
                }
            }
        }
    }
}

impl<const TRANSPOSED: bool> Product<'_, TRANSPOSED> {
    /// The left values from this row of the product and this term on, where they are not packed.
    #[inline(always)]
    fn left_operand(&self, row: usize, term: usize) -> Operand {
        let columns = self.left.columns;
        let first = if TRANSPOSED {
            term * columns + row
        } else {
            row * columns + term
        };
        Operand {
            values: self.left.values.as_ptr().wrapping_add(first),
            stride: columns,
        }
    }

    /// Writes the values of the left matrix' columns `rows` in its rows `terms`: of `BLOCK` columns after the other, by rows.
    ///
    /// # Safety
    ///
    /// The matrix has them, and `out` has room for them, and for those that the last block lacks.
    #[inline(always)]
    unsafe fn pack_left(&self, rows: Range<usize>, terms: Range<usize>, out: *mut f32) {
        let left = self.left;
        let blocks = rows.clone().step_by(BLOCK);
        for (block, first) in blocks.enumerate() {
            let taken = BLOCK.min(rows.end - first);
            // SAFETY: the caller vouches for both.
            unsafe {
                let mut to = out.add(block * BLOCK * terms.len());
                for term in terms.clone() {
                    let from = left.values.as_ptr().add(term * left.columns + first);
                    if taken == BLOCK {
                        let values = from.cast::<[f32; BLOCK]>().read_unaligned();
                        to.cast::<[f32; BLOCK]>().write_unaligned(values);
                    } else {
                        to.copy_from_nonoverlapping(from, taken);
                    }
                    to = to.wrapping_add(BLOCK);
                }
            }
        }
    }

    /// A block of as many of the next `rows` rows as there are registers for; the number of them.
    #[inline(always)]
    fn rows<S: Simd>(&self, simd: S, place: Place, rows: usize) -> usize {
        // AVX-512 has 32 registers, others 16.
        let many = S::F32_LANES * size_of::<f32>() == 64;
        let one_vector = self.right.columns - place.first_column <= S::F32_LANES;
        // SAFETY: there are that many rows, and `with_simd` goes through the terms and the panels of the product.
        unsafe {
            match rows {
                BLOCK.. if one_vector => self.block::<S, BLOCK, 1>(simd, place),
                BLOCK.. if many => self.block::<S, BLOCK, 2>(simd, place),
                8.. if many && one_vector => self.block::<S, 8, 1>(simd, place),
                8.. if many => self.block::<S, 8, 2>(simd, place),
                // Eight are better two times four.
                6 | 7 | 9.. if one_vector => self.block::<S, 6, 1>(simd, place),
                6 | 7 | 9.. => self.block::<S, 6, 2>(simd, place),
                4.. if one_vector => self.block::<S, 4, 1>(simd, place),
                4.. => self.block::<S, 4, 2>(simd, place),
                2.. if one_vector => self.block::<S, 2, 1>(simd, place),
                2.. => self.block::<S, 2, 2>(simd, place),
                _ if one_vector => self.block::<S, 1, 1>(simd, place),
                _ => self.block::<S, 1, 2>(simd, place),
            }
        }
    }

    /// `R` rows of `V` vectors, the last of which has as many lanes as there are columns; `R`.
    ///
    /// # Safety
    ///
    /// The place is inside of the product.
    #[inline(always)]
    unsafe fn block<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        place: Place,
    ) -> usize {
        let lanes = S::F32_LANES;
        let columns = self.right.columns;
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        if self.is_far {
            for row in 0..R {
                let first = (place.row + row) * columns + place.first_column;
                for vector in 0..V {
                    fetch(self.out.wrapping_add(first + vector * lanes));
                }
            }
        }
        // A row that is not packed ends with its columns; if it has as many as a panel, they are all there.
        let last = place.first_column + (V - 1) * lanes;
        let there = if place.right.stride == 2 * lanes {
            lanes
        } else {
            lanes.min(columns - last)
        };
        let mask = MemMask::new(simd.mask_between_m32s(0, there as u32).mask());
        // SAFETY: `left` has a value for each row and term, and `right` a value for each column, or each lane of a panel's vectors,
        // and term: `Matrix::new` and the packing have seen to that.
        unsafe {
            let mut right = place.right.values;
            // Two vectors, which the compiler then knows.
            let stride = if TRANSPOSED {
                place.right.stride
            } else {
                2 * lanes
            };
            let mut of_rows = [place.left.values; R];
            for (row, values) in of_rows.iter_mut().enumerate() {
                *values = values.wrapping_add(row * place.left.stride);
            }
            let mut of_terms = place.left.values;
            for term in 0..place.terms {
                let mut vectors = [simd.splat_f32s(0.0); V];
                for (vector, value) in vectors.iter_mut().enumerate() {
                    let from = right.add(vector * lanes);
                    *value = if TRANSPOSED && vector == V - 1 {
                        simd.mask_load_ptr_f32s(mask, from)
                    } else {
                        from.cast::<S::f32s>().read_unaligned()
                    };
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let value = if TRANSPOSED {
                        *of_terms.add(row)
                    } else {
                        *of_rows[row].add(term)
                    };
                    let value = simd.splat_f32s(value);
                    for (sum, vector) in sums.iter_mut().zip(vectors) {
                        *sum = simd.mul_add_f32s(value, vector, *sum);
                    }
                }
                right = right.wrapping_add(stride);
                if TRANSPOSED {
                    of_terms = of_terms.wrapping_add(place.left.stride);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (vector, sum) in sums.into_iter().enumerate() {
                let column = place.first_column + vector * lanes;
                let count = lanes.min(columns - column);
                // SAFETY: `out` has a value for each row and column, initialised if it is the base.
                unsafe {
                    let out = self.out.add((place.row + row) * columns + column);
                    let sum = match place.base {
                        Base::Nothing => sum,
                        Base::Row(base) => {
                            let base = read::<S>(simd, base.as_ptr().add(column), count);
                            simd.add_f32s(base, sum)
                        }
                        Base::Column(base) => {
                            simd.add_f32s(simd.splat_f32s(base[place.row + row]), sum)
                        }
                        Base::Output => {
                            let base = read::<S>(simd, out, count);
                            simd.add_f32s(base, sum)
                        }
                    };
                    write::<S>(simd, out, sum, count);
                }
            }
        }
        R
    }
}

/// Fetches the cache line of `at`, which is to be written: a store to what is far away would hold up those after it.
#[inline(always)]
fn fetch(at: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: no more than a hint, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}

/// `count` values from `from` on, no more than a vector has.
#[inline(always)]
unsafe fn read<S: Simd>(simd: S, from: *const f32, count: usize) -> S::f32s {
    // SAFETY: the caller vouches for them.
    unsafe {
        if count == S::F32_LANES {
            from.cast::<S::f32s>().read_unaligned()
        } else {
            simd.mask_load_ptr_f32s(simd.mask_between_m32s(0, count as u32), from)
        }
    }
}

/// The first `count` values of a vector.
#[inline(always)]
unsafe fn write<S: Simd>(simd: S, to: *mut f32, vector: S::f32s, count: usize) {
    // SAFETY: the caller vouches for the room.
    unsafe {
        if count == S::F32_LANES {
            to.cast::<S::f32s>().write_unaligned(vector);
        } else {
            simd.mask_store_ptr_f32s(simd.mask_between_m32s(0, count as u32), to, vector);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Precision::F32;
    use crate::cpu::tests::{bits, on_each_vector_unit, run, turned, values};

    #[test]
    fn a_product_has_the_same_bits_on_every_vector_unit() {
        for (rows, terms, columns) in [
            (1, 1, 1),
            (7, 3, 5),
            (8, 300, 33),
            (13, 64, 48),
            (25, 66, 20),
            (130, 9, 70),
            (300, 5, 23),
            (PACKED_ROWS + 73, 259, PACKED_COLUMNS + 37),
        ] {
            let [left, right] = [rows * terms, terms * columns].map(values);
            let bias = values(columns);
            let mut found = Vec::new();
            for bias in [None, Some(&bias[..])] {
                for transposed in [false, true] {
                    found.push(on_each_vector_unit!(simd => {
                        let matrix = if transposed {
                            Matrix::new(&right, columns, terms)
                        } else {
                            Matrix::new(&right, terms, columns)
                        };
                        let right = run(simd, Packing { matrix, transposed });
                        let mut out = vec![0.5f32; rows * columns];
                        let left = Matrix::new(&left, rows, terms);
                        run(simd, product(left, Right::of(&right), bias, out.as_mut_ptr(), true));
                        bits(&out)
                    }));
                }
                let [by_rows, by_columns] = [found.len() - 2, found.len() - 1];
                let lazy = on_each_vector_unit!(simd => {
                    let mut out = vec![0.5f32; rows * columns];
                    let left = Matrix::new(&left, rows, terms);
                    let right = Right::by_rows(Matrix::new(&right, terms, columns));
                    run(simd, product(left, right, bias, out.as_mut_ptr(), true));
                    bits(&out)
                });
                assert_eq!(lazy, found[by_rows], "packed before or not");
                let right = Matrix::new(&right, columns, terms);
                let turned = on_each_vector_unit!(simd => {
                    let mut out = vec![0.5f32; rows * columns];
                    let left = Matrix::new(&left, rows, terms);
                    run(simd, Turned { left, right, bias, out: out.as_mut_ptr() });
                    bits(&out)
                });
                assert_eq!(turned, found[by_columns], "by its transpose or not");
            }
            for (packed, base) in [false, true]
                .into_iter()
                .flat_map(|packed| [(packed, Base::Nothing), (packed, Base::Output)])
            {
                found.push(on_each_vector_unit!(simd => {
                    let left = Matrix::new(&left, terms, rows);
                    let right = Matrix::new(&right, terms, columns);
                    let panels = packed.then(|| run(simd, Packing { matrix: right, transposed: false }));
                    let mut out = vec![0.5f32; rows * columns];
                    let right = panels.as_ref().map_or(Right::by_rows(right), Right::of);
                    run(simd, transposed(left, right, out.as_mut_ptr(), base));
                    bits(&out)
                }));
            }
            assert_eq!(found[4..6], found[6..8], "packed or not");
        }
    }

    #[test]
    fn products_of_transposed_matrices_are_those_of_the_turned_ones() {
        for (rows, terms, columns) in [
            (1, 1, 1),
            (5, 70, 3),
            (14, 131, 66),
            (2 * ROWS + 1, 4, 39),
            (PACKED_ROWS + 17, 270, PACKED_COLUMNS + 5),
        ] {
            let [left, right] = [rows * terms, terms * columns].map(values);
            let by_rows = Weight::of(Matrix::new(&right, terms, columns), F32);
            let mut expected = Vec::new();
            append_affine(
                Matrix::new(&left, rows, terms),
                &by_rows,
                None,
                &mut expected,
            );
            let by_columns = turned(&right, columns);
            let by_columns =
                Weight::of_transposed(Matrix::new(&by_columns, columns, terms), 0, F32);
            match (by_columns, by_rows) {
                (Weight::Packed(found), Weight::Packed(expected)) => {
                    assert_eq!(bits(&found.values), bits(&expected.values));
                }
                _ => unreachable!("they are packed"),
            }
            let left = turned(&left, terms);
            let left = Matrix::new(&left, terms, rows);
            let mut sum = TransposedSum::new(rows, columns, F32);
            sum.add(left, Matrix::new(&right, terms, columns));
            assert_eq!(bits(&sum.into_values()), bits(&expected));
        }
    }

    #[test]
    fn a_value_does_not_depend_on_the_size_of_its_product() {
        let (rows, terms, columns) = (131, 300, 70);
        let [left, right] = [rows * terms, terms * columns].map(values);
        let panels = Weight::of(Matrix::new(&right, terms, columns), F32);
        let mut all = Vec::new();
        append_affine(Matrix::new(&left, rows, terms), &panels, None, &mut all);
        let by_rows = Weight::for_rows(Matrix::new(&right, terms, columns), rows, F32);
        assert!(matches!(by_rows, Weight::ByRows(_)));
        let mut lazy = Vec::new();
        append_affine(Matrix::new(&left, rows, terms), &by_rows, None, &mut lazy);
        assert_eq!(bits(&lazy), bits(&all));
        for row in 0..rows {
            let left = Matrix::new(&left[row * terms..][..terms], 1, terms);
            let mut alone = vec![0.0; columns];
            affine(left, &panels, None, &mut alone);
            assert_eq!(
                bits(&alone),
                bits(&all[row * columns..][..columns]),
                "row {row}"
            );
        }
        for column in 0..columns {
            let of_column: Vec<f32> = right
                .iter()
                .skip(column)
                .step_by(columns)
                .copied()
                .collect();
            let right = Weight::of(Matrix::new(&of_column, terms, 1), F32);
            let mut alone = vec![0.0; rows];
            affine(Matrix::new(&left, rows, terms), &right, None, &mut alone);
            let found: Vec<f32> = all.iter().skip(column).step_by(columns).copied().collect();
            assert_eq!(bits(&alone), bits(&found), "column {column}");
        }
    }

    #[test]
    fn without_terms_there_is_what_was_there() {
        let panels = Weight::of(Matrix::new(&[], 0, 3), F32);
        assert_eq!(TransposedSum::new(2, 3, F32).into_values(), [0.0; 6]);
        let mut sum = TransposedSum::new(1, 2, F32);
        sum.add(Matrix::new(&[2.0], 1, 1), Matrix::new(&[1.0, 3.0], 1, 2));
        sum.add(Matrix::new(&[], 0, 1), Matrix::new(&[], 0, 2));
        assert_eq!(sum.into_values(), [2.0, 6.0]);
        let mut out = vec![7.0; 6];
        affine(Matrix::new(&[], 2, 0), &panels, None, &mut out);
        assert_eq!(out, [0.0; 6]);
        append_affine(
            Matrix::new(&[], 1, 0),
            &panels,
            Some(&[1.0, 2.0, 3.0]),
            &mut out,
        );
        assert_eq!(out[6..], [1.0, 2.0, 3.0]);
    }
}
