//! Matrix products on the calling thread.
//!
//! Each value of a product is a sum by itself: its terms are added in their order with fused multiplications, `DEPTH` at a
//! time from zero, and the sums of these in theirs. So its bits depend on its row and its column alone, not on how
//! large the matrices are, nor on a processor's vector units and caches.
#![allow(unsafe_code)]

use pulp::{Simd, WithSimd, bytemuck};

/// Terms that are summed before they are added to the sum of those before: as many rows of a panel stay in the
/// first-level cache.
const DEPTH: usize = 256;
/// Rows of the left matrix that are multiplied by all panels before the next ones are: they stay in the second-level cache.
const ROWS: usize = 126;

/// A matrix stored by rows, or the transpose of one.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
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
            row_stride: columns,
            column_stride: 1,
        }
    }

    /// The same values read as the transposed matrix.
    pub fn transposed(self) -> Self {
        Self {
            values: self.values,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// The right matrix of a product as it is read: in panels of as many columns as two vectors have lanes, each by rows, the last
/// one filled up with zeros.
#[derive(Debug, Default)]
pub struct Panels {
    values: Vec<f32>,
    rows: usize,
    columns: usize,
    /// Columns of a panel.
    width: usize,
}

// === impl Panels ===

impl Panels {
    /// Those of `matrix`.
    pub fn of(matrix: Matrix) -> Self {
        let mut panels = Self::default();
        panels.take(matrix);
        panels
    }

    /// Becomes those of `matrix`, in the same memory.
    pub fn take(&mut self, matrix: Matrix) {
        pulp::Arch::new().dispatch(Packing {
            matrix,
            panels: self,
        });
    }
}

struct Packing<'a> {
    matrix: Matrix<'a>,
    panels: &'a mut Panels,
}

impl WithSimd for Packing<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Matrix {
            values,
            rows,
            columns,
            row_stride,
            column_stride,
        } = self.matrix;
        let panels = self.panels;
        let width = 2 * S::F32_LANES;
        (panels.rows, panels.columns, panels.width) = (rows, columns, width);
        // What was in it is overwritten, but for the zeros of a part of a panel.
        panels
            .values
            .resize(columns.div_ceil(width) * rows * width, 0.0);
        let (whole, rest) = (columns / width * width, columns % width);
        if rest > 0 {
            panels.values[whole * rows..].fill(0.0);
        }
        if column_stride == 1 {
            for row in 0..rows {
                let from = &values[row * row_stride..][..columns];
                for first in (0..whole).step_by(width) {
                    let out = &mut panels.values[first * rows + row * width..][..width];
                    let out = S::as_mut_simd_f32s(out).0;
                    out.copy_from_slice(S::as_simd_f32s(&from[first..first + width]).0);
                }
                if rest > 0 {
                    let out = &mut panels.values[whole * rows + row * width..];
                    out[..rest].copy_from_slice(&from[whole..]);
                }
            }
            return;
        }
        let all = panels.values.chunks_exact_mut((rows * width).max(1));
        for (panel, first) in all.zip((0..columns).step_by(width)) {
            let taken = width.min(columns - first);
            // The matrix is the transpose of one whose rows are the columns here; four of them at a time.
            let column = |column: usize| &values[(first + column) * column_stride..][..rows];
            let mut at = 0;
            while at + 4 <= taken {
                let four = [0, 1, 2, 3].map(|more| column(at + more));
                for (row, out) in panel.chunks_exact_mut(width).enumerate() {
                    out[at..at + 4].copy_from_slice(&four.map(|column| column[row]));
                }
                at += 4;
            }
            for at in at..taken {
                for (out, value) in panel.chunks_exact_mut(width).zip(column(at)) {
                    out[at] = *value;
                }
            }
        }
    }
}

/// What the sums of a product are added to.
#[derive(Debug, Clone, Copy)]
enum Base<'a> {
    Nothing,
    /// The same for each row.
    Row(&'a [f32]),
    /// What is there.
    Output,
}

/// `out = left @ right`, or `out += left @ right` with `accumulate`. `out` is stored by rows.
pub fn matmul(left: Matrix, right: &Panels, out: &mut [f32], accumulate: bool) {
    let count = left.rows * right.columns;
    assert_eq!(out.len(), count, "the result has rows * columns values");
    let base = if accumulate {
        Base::Output
    } else {
        Base::Nothing
    };
    // SAFETY: `out` has that many values, is borrowed mutably, so it overlaps neither input, and is initialised.
    unsafe { multiply(left, right, out.as_mut_ptr(), base) }
}

/// Appends `left @ right` to `out`, by rows, with `bias` added to each row where there is one.
pub fn append_affine(left: Matrix, right: &Panels, bias: Option<&[f32]>, out: &mut Vec<f32>) {
    let (len, count) = (out.len(), left.rows * right.columns);
    out.reserve_exact(count);
    let base = bias.map_or(Base::Nothing, Base::Row);
    // SAFETY: behind the `len` values is room for `count` more; all of them are written, and none is read before.
    unsafe {
        multiply(left, right, out.as_mut_ptr().add(len), base);
        out.set_len(len + count);
    }
}

/// # Safety
///
/// `out` points to room for `left.rows * right.columns` values that overlap neither input. With [`Base::Output`]
/// they are initialised. All are afterwards.
unsafe fn multiply(left: Matrix, right: &Panels, out: *mut f32, base: Base) {
    let columns = right.columns;
    assert_eq!(left.columns, right.rows, "inner dimensions agree");
    if let Base::Row(row) = base {
        assert_eq!(row.len(), columns, "a row has as many values");
    }
    if left.rows == 0 || columns == 0 {
        return;
    }
    pulp::Arch::new().dispatch(Product {
        left,
        right,
        out,
        base,
    });
}

/// As [`multiply`] has checked it: with values in it.
struct Product<'a> {
    left: Matrix<'a>,
    right: &'a Panels,
    out: *mut f32,
    base: Base<'a>,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Of neighbouring terms, or of neighbouring rows.
        if self.left.column_stride == 1 {
            self.run::<S, false>(simd);
        } else {
            self.run::<S, true>(simd);
        }
    }
}

/// Where a block of the product is.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    row: usize,
    first_term: usize,
    terms: usize,
    first_column: usize,
    base: Base<'a>,
}

impl<'a> Product<'a> {
    #[inline(always)]
    fn run<S: Simd, const TRANSPOSED: bool>(&self, simd: S) {
        let (rows, terms) = (self.left.rows, self.left.columns);
        let width = self.right.width;
        assert_eq!(width, 2 * S::F32_LANES, "packed for this processor");
        for first_row in (0..rows).step_by(ROWS) {
            let end_row = rows.min(first_row + ROWS);
            // Without terms there is one block of none.
            for first_term in (0..terms.max(1)).step_by(DEPTH) {
                let terms = DEPTH.min(terms - first_term);
                let base = if first_term == 0 {
                    self.base
                } else {
                    Base::Output
                };
                for first_column in (0..self.right.columns).step_by(width) {
                    let mut place = Place {
                        row: first_row,
                        first_term,
                        terms,
                        first_column,
                        base,
                    };
                    while place.row < end_row {
                        place.row += match end_row - place.row {
                            // Eight are better two times four.
                            6 | 7 | 9.. => self.rows::<S, TRANSPOSED, 6>(simd, place),
                            4.. => self.rows::<S, TRANSPOSED, 4>(simd, place),
                            2.. => self.rows::<S, TRANSPOSED, 2>(simd, place),
                            _ => self.rows::<S, TRANSPOSED, 1>(simd, place),
                        };
                    }
                }
            }
        }
    }

    /// `R` rows of a panel's columns.
    #[inline(always)]
    fn rows<S: Simd, const TRANSPOSED: bool, const R: usize>(
        &self,
        simd: S,
        place: Place,
    ) -> usize {
        // SAFETY: `run` goes through the rows, the terms and the panels of the product.
        unsafe {
            if self.right.columns - place.first_column <= S::F32_LANES {
                self.block::<S, TRANSPOSED, R, 1>(simd, place);
            } else {
                self.block::<S, TRANSPOSED, R, 2>(simd, place);
            }
        }
        R
    }

    /// `R` rows of `V` vectors, or as many of their lanes as there are columns.
    ///
    /// # Safety
    ///
    /// The place is inside of the product.
    #[inline(always)]
    unsafe fn block<S: Simd, const TRANSPOSED: bool, const R: usize, const V: usize>(
        &self,
        simd: S,
        place: Place,
    ) {
        let lanes = S::F32_LANES;
        let left = self.left;
        let panel = place.first_column * self.right.rows + place.first_term * self.right.width;
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        // SAFETY: `left` has a value for each row and term, `Matrix::new` has seen to that, and a panel a vector's lanes for
        // each term and vector.
        unsafe {
            let mut right = self.right.values.as_ptr().add(panel);
            let mut of_rows = [left.values.as_ptr(); R];
            for (row, values) in of_rows.iter_mut().enumerate() {
                *values = values.add(
                    (place.row + row) * left.row_stride + place.first_term * left.column_stride,
                );
            }
            let mut of_terms = of_rows[0];
            for term in 0..place.terms {
                let mut vectors = [simd.splat_f32s(0.0); V];
                for (vector, value) in vectors.iter_mut().enumerate() {
                    *value = right.add(vector * lanes).cast::<S::f32s>().read_unaligned();
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
                right = right.add(2 * lanes);
                if TRANSPOSED {
                    of_terms = of_terms.add(left.column_stride);
                }
            }
        }
        let columns = self.right.columns;
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
                        Base::Output => {
                            let base = read::<S>(simd, out, count);
                            simd.add_f32s(base, sum)
                        }
                    };
                    write::<S>(out, sum, count);
                }
            }
        }
    }
}

/// `count` values from `from` on, no more than a vector has.
#[inline(always)]
unsafe fn read<S: Simd>(simd: S, from: *const f32, count: usize) -> S::f32s {
    // SAFETY: the caller vouches for them.
    unsafe {
        if count == S::F32_LANES {
            return from.cast::<S::f32s>().read_unaligned();
        }
        let mut vector = simd.splat_f32s(0.0);
        let lanes: &mut [f32] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut vector));
        for (lane, value) in lanes.iter_mut().enumerate().take(count) {
            *value = *from.add(lane);
        }
        vector
    }
}

/// The first `count` values of a vector.
#[inline(always)]
unsafe fn write<S: Simd>(to: *mut f32, vector: S::f32s, count: usize) {
    // SAFETY: the caller vouches for the room.
    unsafe {
        if count == S::F32_LANES {
            return to.cast::<S::f32s>().write_unaligned(vector);
        }
        let lanes: &[f32] = bytemuck::cast_slice(std::slice::from_ref(&vector));
        for (lane, value) in lanes.iter().enumerate().take(count) {
            to.add(lane).write(*value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::tests::{bits, on_each_vector_unit, values};

    #[test]
    fn a_product_has_the_same_bits_on_every_vector_unit() {
        for (rows, terms, columns) in [
            (1, 1, 1),
            (7, 3, 5),
            (8, 300, 33),
            (13, 64, 48),
            (130, 9, 70),
        ] {
            let [left, right] = [rows * terms, terms * columns].map(values);
            let [left_turned, right_turned] = [rows * terms, terms * columns].map(values);
            let base = values(columns);
            let products = [
                (
                    Matrix::new(&left, rows, terms),
                    Matrix::new(&right, terms, columns),
                ),
                (
                    Matrix::new(&left_turned, terms, rows).transposed(),
                    Matrix::new(&right_turned, columns, terms).transposed(),
                ),
            ];
            for (left, matrix) in products {
                for base in [Base::Nothing, Base::Row(&base), Base::Output] {
                    on_each_vector_unit!(simd => {
                        let mut right = Panels::default();
                        Packing { matrix, panels: &mut right }.with_simd(simd);
                        let mut out = vec![0.5f32; rows * columns];
                        Product { left, right: &right, out: out.as_mut_ptr(), base }.with_simd(simd);
                        bits(&out)
                    });
                }
            }
        }
    }

    #[test]
    fn a_value_does_not_depend_on_the_size_of_its_product() {
        let (rows, terms, columns) = (131, 300, 70);
        let [left, right] = [rows * terms, terms * columns].map(values);
        let panels = Panels::of(Matrix::new(&right, terms, columns));
        let mut all = Vec::new();
        append_affine(Matrix::new(&left, rows, terms), &panels, None, &mut all);
        for row in 0..rows {
            let left = Matrix::new(&left[row * terms..][..terms], 1, terms);
            let mut alone = vec![0.0; columns];
            matmul(left, &panels, &mut alone, false);
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
            let right = Panels::of(Matrix::new(&of_column, terms, 1));
            let mut alone = vec![0.0; rows];
            matmul(Matrix::new(&left, rows, terms), &right, &mut alone, false);
            let found: Vec<f32> = all.iter().skip(column).step_by(columns).copied().collect();
            assert_eq!(bits(&alone), bits(&found), "column {column}");
        }
    }

    #[test]
    fn without_terms_there_is_what_was_there() {
        let panels = Panels::of(Matrix::new(&[], 0, 3));
        let mut out = vec![7.0; 6];
        matmul(Matrix::new(&[], 2, 0), &panels, &mut out, true);
        assert_eq!(out, [7.0; 6]);
        matmul(Matrix::new(&[], 2, 0), &panels, &mut out, false);
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
