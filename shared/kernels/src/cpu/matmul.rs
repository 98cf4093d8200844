//! Matrix products on the calling thread.
#![allow(unsafe_code)]

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

/// `out = left @ right`, or `out += left @ right` with `accumulate`. `out` is stored by rows.
pub fn matmul(left: Matrix, right: Matrix, out: &mut [f32], accumulate: bool) {
    let (m, n, k) = (left.rows, right.columns, left.columns);
    assert_eq!(out.len(), m * n, "the result has rows * columns values");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !accumulate {
            out.fill(0.0);
        }
        return;
    }
    // SAFETY: `out` has `m * n` values and is borrowed mutably, so it overlaps neither input.
    unsafe { multiply(left, right, out.as_mut_ptr(), accumulate) }
}

/// Appends `left @ right` to `out`, by rows.
pub fn append_product(left: Matrix, right: Matrix, out: &mut Vec<f32>) {
    let (len, count) = (out.len(), left.rows * right.columns);
    if left.columns == 0 || count == 0 {
        out.resize(len + count, 0.0);
        return;
    }
    out.reserve_exact(count);
    // SAFETY: behind the `len` values is room for `count` more; without `accumulate` all of them are written and none
    // is read.
    unsafe {
        multiply(left, right, out.as_mut_ptr().add(len), false);
        out.set_len(len + count);
    }
}

/// Appends `left @ right`, and `bias` to each of its rows where there is one.
pub fn append_affine(left: Matrix, right: Matrix, bias: Option<&[f32]>, out: &mut Vec<f32>) {
    let Some(bias) = bias else {
        return append_product(left, right, out);
    };
    let start = out.len();
    for _ in 0..left.rows {
        out.extend_from_slice(bias);
    }
    matmul(left, right, &mut out[start..], true);
}

/// # Safety
///
/// `out` points to room for `left.rows * right.columns` values that overlap neither input. With `accumulate`
/// they are initialised.
unsafe fn multiply(left: Matrix, right: Matrix, out: *mut f32, accumulate: bool) {
    let (m, n, k) = (left.rows, right.columns, left.columns);
    assert_eq!(k, right.rows, "inner dimensions agree");
    // SAFETY: `gemm` reads `left[i * row_stride + l * column_stride]` for `i < m, l < k`, likewise
    // `right`, which `Matrix::new` and the assertion bound inside their slices, and writes `out[i * n + j]`, for
    // which the caller vouches; it reads that only with `accumulate`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            n as isize,
            accumulate,
            left.values.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.values.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
