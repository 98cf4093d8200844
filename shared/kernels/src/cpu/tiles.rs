//! Matrix products on the tiles of Intel's processors (AMX), which multiply bfloat16 numbers and sum them in `f32`.
//!
//! Each value of a product is a sum by itself, as in [`matmul`](super::matmul): of each `TERMS` terms the first half is added up with fused
//! multiplications from zero, and the second; the sum of both is added to that of the terms before. So its bits depend on its row and its
//! column alone, and are those that Intel's manual gives for `TDPBF16PS`. Subnormal numbers are zero for tiles.
#![allow(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;
use std::sync::OnceLock;

use super::matmul::{Base, Matrix};
use crate::Precision;

/// Rows of a tile, and numbers of `f32` in each.
const SIDE: usize = 16;
/// Terms in a tile: two in the place of each number.
const TERMS: usize = 2 * SIDE;
/// Rows and columns of the block of a product whose sums are in tiles at the same time.
pub(super) const BLOCK: usize = 2 * SIDE;
/// Terms that are packed of the left operand at a time: those of a block's rows stay in the first-level cache.
const DEPTH: usize = 768;
/// Bytes of a right operand that stay in the second-level cache, so that it can be read again for each block of rows.
const NEAR: usize = 1 << 20;
/// Rows that a larger one is read for at a time.
const FAR_ROWS: usize = 256;

/// A row of a tile.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
struct Line([f32; SIDE]);

/// The environment variable that wants no tiles, with the value `none`: so that processors with and without them can work together.
const VARIABLE: &str = "PERENNIAL_AMX";

/// Whether products of this precision are computed on tiles.
pub(super) fn are_used_for(precision: Precision) -> bool {
    precision == Precision::Bf16 && are_used()
}

/// Whether products in bfloat16 are computed on tiles: where the processor has them, the system lends them and nobody wants them unused.
/// It stays as it is for the whole process.
pub fn are_used() -> bool {
    /// Bits of `edx` of the extended features: bfloat16 in tiles, and tiles.
    const AMX: u32 = 1 << 22 | 1 << 24;
    static USED: OnceLock<bool> = OnceLock::new();
    *USED.get_or_init(|| {
        let has_them = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16")
            && __cpuid_count(7, 0).edx & AMX == AMX;
        if !has_them || std::env::var_os(VARIABLE).is_some_and(|value| value == "none") {
            return false;
        }
        are_lent()
    })
}

/// Asks the system for the permission to use tiles, for all threads.
#[cfg(target_os = "linux")]
fn are_lent() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    /// The part of a processor's state that it is asked for.
    const TILES: libc::c_ulong = 18;
    // SAFETY: it reads no memory of ours, and what it permits nobody else uses.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILES) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn are_lent() -> bool {
    false
}

/// An operand of a product as it is stored.
#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    pub matrix: Matrix<'a>,
    /// Whether the matrix has a row, instead of a column, for each term.
    pub terms_are_rows: bool,
}

// === impl Operand ===

impl Operand<'_> {
    fn terms(self) -> usize {
        if self.terms_are_rows {
            self.matrix.rows
        } else {
            self.matrix.columns
        }
    }

    /// Rows of a left operand, columns of a right one.
    fn others(self) -> usize {
        if self.terms_are_rows {
            self.matrix.columns
        } else {
            self.matrix.rows
        }
    }
}

/// The right operand of products, rounded to bfloat16, in tiles: for the columns of each all terms, one tile after the other.
#[derive(Debug)]
pub struct Tiles {
    lines: Vec<Line>,
    terms: usize,
    columns: usize,
}

// === impl Tiles ===

impl Tiles {
    /// Only where tiles are used.
    pub fn of(right: Operand) -> Self {
        assert!(are_used(), "only where tiles are used");
        let (terms, columns) = (right.terms(), right.others());
        let count = columns.div_ceil(SIDE) * lines_of(terms);
        let mut lines = Vec::<Line>::with_capacity(count);
        // SAFETY: the processor has what `are_used` asks for; there is room for all lines, and each is written.
        unsafe {
            let mut packing = Packing::new::<false>(right);
            packing.start(0..columns, 0..terms, lines.as_mut_ptr());
            packing.finish();
            lines.set_len(count);
        }
        Self {
            lines,
            terms,
            columns,
        }
    }

    /// Terms of a product with it.
    pub fn terms(&self) -> usize {
        self.terms
    }

    pub fn columns(&self) -> usize {
        self.columns
    }
}

/// Packs an operand tile by tile, four lines at a time, so that it can go on while tiles are multiplied.
///
/// The place of a number of `f32` has two terms, of which the second is 16 behind the first. A line of a left tile is a row; one of a
/// right tile is a pair of terms.
struct Packing<'a> {
    operand: Operand<'a>,
    /// [`pack_lines`], which must stay a function by itself: the products would be made of copies of it.
    pack_lines: unsafe fn(&mut Packing),
    /// The next tile's first row (left) or column (right), and where they end.
    other: usize,
    end: usize,
    /// Its first term, and all of them.
    term: usize,
    terms: Range<usize>,
    /// Its next line.
    line: usize,
    /// The values of its first place, and from one row of them to the next.
    values: [*const f32; 2],
    stride: usize,
    out: *mut Line,
    /// The values of a tile that the matrix does not fill, with zeros.
    partial: Vec<f32>,
}

// === impl Packing ===

impl<'a> Packing<'a> {
    fn new<const LEFT: bool>(operand: Operand<'a>) -> Self {
        let pack_lines: unsafe fn(&mut Packing) = if LEFT == operand.terms_are_rows {
            pack_lines::<true>
        } else {
            pack_lines::<false>
        };
        Self {
            operand,
            pack_lines: std::hint::black_box(pack_lines),
            other: 0,
            end: 0,
            term: 0,
            terms: 0..0,
            line: 0,
            values: [std::ptr::null(); 2],
            stride: 0,
            out: std::ptr::null_mut(),
            partial: vec![0.0; SIDE * TERMS],
        }
    }

    /// From here on these rows or columns and terms are packed, one tile after the other.
    ///
    /// # Safety
    ///
    /// The operand has them, and `out` has room for their tiles.
    unsafe fn start(&mut self, others: Range<usize>, terms: Range<usize>, out: *mut Line) {
        self.other = others.start;
        self.end = if terms.is_empty() {
            others.start
        } else {
            others.end
        };
        self.term = terms.start;
        self.terms = terms;
        self.out = out;
        self.start_tile();
    }

    fn is_done(&self) -> bool {
        self.other >= self.end
    }

    /// # Safety
    ///
    /// The processor has the vector unit, and [`Packing::start`] was called.
    unsafe fn finish(&mut self) {
        while !self.is_done() {
            // SAFETY: by the caller's word.
            unsafe { (self.pack_lines)(self) };
        }
    }

    #[inline(never)]
    fn start_tile(&mut self) {
        self.line = 0;
        if self.is_done() {
            return;
        }
        let matrix = self.operand.matrix;
        let by_rows = self.operand.terms_are_rows;
        let (row, column, rows, columns) = if by_rows {
            (self.term, self.other, TERMS, SIDE)
        } else {
            (self.other, self.term, SIDE, TERMS)
        };
        let mut values = &matrix.values[row * matrix.columns + column..];
        let mut stride = matrix.columns;
        if row + rows > matrix.rows || column + columns > matrix.columns {
            let taken = columns.min(matrix.columns - column);
            self.partial.fill(0.0);
            let lines = self.partial.chunks_exact_mut(columns);
            for (line, values) in lines.zip(values.chunks(stride)).take(matrix.rows - row) {
                line[..taken].copy_from_slice(&values[..taken]);
            }
            (values, stride) = (&self.partial, columns);
        }
        let half = if by_rows { SIDE * stride } else { SIDE };
        self.values = [values.as_ptr(), values[half..].as_ptr()];
        self.stride = stride;
    }
}

/// Packs the next four lines. `TURNED`: a line is a column of the matrix.
///
/// # Safety
///
/// The processor has the vector unit, and a tile was started.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline(never)]
unsafe fn pack_lines<const TURNED: bool>(packing: &mut Packing) {
    let Packing {
        values,
        line,
        stride,
        out,
        ..
    } = *packing;
    // SAFETY: a tile has all of its values, in the matrix or apart; there is room for its lines.
    unsafe {
        let [low, high] = if TURNED {
            let [low, high] = [values[0].add(line), values[1].add(line)];
            [turned_rows(low, stride), turned_rows(high, stride)]
        } else {
            let [low, high] = [values[0].add(line * stride), values[1].add(line * stride)];
            [rows(low, stride), rows(high, stride)]
        };
        for at in 0..4 {
            _mm512_store_si512(out.add(line + at).cast(), rounded(low[at], high[at]));
        }
        packing.line += 4;
        if packing.line == SIDE {
            packing.out = out.add(SIDE);
            packing.term += TERMS;
            if packing.term >= packing.terms.end {
                packing.term = packing.terms.start;
                packing.other += SIDE;
            }
            packing.start_tile();
        }
    }
}

/// Four rows of 16 values.
#[target_feature(enable = "avx512f")]
unsafe fn rows(first: *const f32, stride: usize) -> [__m512; 4] {
    // SAFETY: by the caller's word they are there.
    unsafe {
        [
            _mm512_loadu_ps(first),
            _mm512_loadu_ps(first.add(stride)),
            _mm512_loadu_ps(first.add(2 * stride)),
            _mm512_loadu_ps(first.add(3 * stride)),
        ]
    }
}

/// Four columns of 16 rows.
#[target_feature(enable = "avx512f")]
unsafe fn turned_rows(first: *const f32, stride: usize) -> [__m512; 4] {
    let mut rows = [_mm512_setzero_ps(); 4];
    for (at, four) in rows.iter_mut().enumerate() {
        // SAFETY: by the caller's word they are there.
        unsafe {
            let row = |lane: usize| _mm_loadu_ps(first.add((4 * lane + at) * stride));
            let values = _mm512_castps128_ps512(row(0));
            let values = _mm512_insertf32x4::<1>(values, row(1));
            let values = _mm512_insertf32x4::<2>(values, row(2));
            *four = _mm512_insertf32x4::<3>(values, row(3));
        }
    }
    let [a, b, c, d] = rows;
    let ab_low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
    let ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
    let cd_low = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
    let cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
    [
        _mm512_castpd_ps(_mm512_unpacklo_pd(ab_low, cd_low)),
        _mm512_castpd_ps(_mm512_unpackhi_pd(ab_low, cd_low)),
        _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high)),
        _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high)),
    ]
}

/// The nearest bfloat16 numbers, in the lower half of each place those to `low`, in the upper one those to `high`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn rounded(low: __m512, high: __m512) -> __m512i {
    let places = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
        19, 3, 18, 2, 17, 1, 16, 0,
    );
    // SAFETY: both are 64 bytes of numbers.
    let numbers: __m512i = unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(high, low)) };
    _mm512_permutexvar_epi16(places, numbers)
}

/// Lines of the tiles that have so many terms of the same rows or columns.
fn lines_of(terms: usize) -> usize {
    terms.div_ceil(TERMS) * SIDE
}

/// What a processor is told of its tiles: all eight have 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Layout {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

static LAYOUT: Layout = Layout {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

// The tiles of a block: its sums are in 0 to 3, by rows, what is left of them in 4 and 5, what is right in 6 and 7. No compiled code uses
// tiles, so nobody is told.

macro_rules! load_tile {
    ($tile:literal, $from:expr, $stride:expr) => {
        asm!(
            concat!("tileloadd tmm", $tile, ", [{from} + {stride}]"),
            from = in(reg) $from,
            stride = in(reg) $stride,
            options(nostack, preserves_flags),
        )
    };
}

macro_rules! store_tile {
    ($tile:literal, $to:expr, $stride:expr) => {
        asm!(
            concat!("tilestored [{to} + {stride}], tmm", $tile),
            to = in(reg) $to,
            stride = in(reg) $stride,
            options(nostack, preserves_flags),
        )
    };
}

macro_rules! clear_tile {
    ($tile:literal,) => {
        asm!(
            concat!("tilezero tmm", $tile),
            options(nomem, nostack, preserves_flags)
        )
    };
}

macro_rules! multiply_tiles {
    ($sum:literal, $left:literal, $right:literal) => {
        asm!(
            concat!("tdpbf16ps tmm", $sum, ", tmm", $left, ", tmm", $right),
            options(nostack, preserves_flags),
        )
    };
}

/// Runs `$work!` with each of the block's sums that there is: its tile, and the arguments, which know its place in the block.
macro_rules! for_sums {
    ($rows:ident, $columns:ident, ($m:ident, $n:ident) => $work:ident!($($argument:expr),*)) => {{
        { let ($m, $n) = (0, 0); $work!("0", $($argument),*); }
        if $columns == 2 { let ($m, $n) = (0, 1); $work!("1", $($argument),*); }
        if $rows == 2 { let ($m, $n) = (1, 0); $work!("2", $($argument),*); }
        if $rows == 2 && $columns == 2 { let ($m, $n) = (1, 1); $work!("3", $($argument),*); }
    }};
}

/// `left @ right`, added to `base`.
///
/// # Safety
///
/// `out` points to room for the product by rows, which overlaps no operand and is initialised if it is the base. All is initialised
/// afterwards.
pub(super) unsafe fn multiply(
    left: Operand,
    right: &Tiles,
    base: Base,
    out: *mut f32,
    is_far: bool,
) {
    assert_eq!(left.terms(), right.terms, "inner dimensions agree");
    let product = Product {
        left,
        right,
        base,
        out,
        is_far,
    };
    // SAFETY: who has packed tiles has asked whether they can be used; the caller vouches for the rest.
    unsafe { product.compute() }
}

struct Product<'a> {
    left: Operand<'a>,
    right: &'a Tiles,
    base: Base<'a>,
    out: *mut f32,
    /// Whether what is written is probably in no cache.
    is_far: bool,
}

/// Where a block of a product is, and what is read for it: tiles of rows and of columns, and the terms in them.
#[derive(Clone, Copy)]
struct Place<'a> {
    row: usize,
    column: usize,
    left: [*const Line; 2],
    right: [*const Line; 2],
    steps: usize,
    base: Base<'a>,
}

// === impl Product ===

impl Product<'_> {
    /// # Safety
    ///
    /// As for [`multiply`].
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn compute(&self) {
        let Tiles {
            ref lines,
            terms,
            columns,
        } = *self.right;
        let rows = self.left.others();
        let chunk = if size_of_val(&lines[..]) <= NEAR {
            BLOCK
        } else {
            FAR_ROWS.min(rows.next_multiple_of(BLOCK))
        };
        // Without terms there is one part of none.
        let depths = terms.div_ceil(DEPTH).max(1);
        let part = |index: usize| {
            let (row, term) = (index / depths * chunk, index % depths * DEPTH);
            (row..rows.min(row + chunk), term..terms.min(term + DEPTH))
        };
        let count = rows.div_ceil(chunk) * depths;
        let room = chunk / SIDE * lines_of(terms.min(DEPTH));
        let [mut packed, mut packed_next] = [(); 2].map(|()| Vec::<Line>::with_capacity(room));
        let mut packing = Packing::new::<true>(self.left);
        // SAFETY: the operands have the rows, columns and terms of each part, and there is room for what is packed of one; the caller
        // vouches for the product. Nobody else uses tiles.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const LAYOUT, options(nostack, preserves_flags));
            for index in 0..count {
                let (of_rows, of_terms) = part(index);
                if index == 0 {
                    packing.start(of_rows.clone(), of_terms.clone(), packed.as_mut_ptr());
                    packing.finish();
                }
                if index + 1 < count {
                    let (of_rows, of_terms) = part(index + 1);
                    packing.start(of_rows, of_terms, packed_next.as_mut_ptr());
                }
                let tile_of_rows = lines_of(of_terms.len());
                for column in (0..columns).step_by(BLOCK) {
                    let first = column / SIDE * lines_of(terms) + lines_of(of_terms.start);
                    let right = lines.as_ptr().wrapping_add(first);
                    for row in of_rows.clone().step_by(BLOCK) {
                        let first = (row - of_rows.start) / SIDE * tile_of_rows;
                        let left = packed.as_ptr().wrapping_add(first);
                        let place = Place {
                            row,
                            column,
                            left: [left, left.wrapping_add(tile_of_rows)],
                            right: [right, right.wrapping_add(lines_of(terms))],
                            steps: of_terms.len().div_ceil(TERMS),
                            base: if of_terms.start == 0 {
                                self.base
                            } else {
                                Base::Output
                            },
                        };
                        match (rows - row > SIDE, columns - column > SIDE) {
                            (true, true) => self.block::<2, 2>(place, &mut packing),
                            (true, false) => self.block::<2, 1>(place, &mut packing),
                            (false, true) => self.block::<1, 2>(place, &mut packing),
                            (false, false) => self.block::<1, 1>(place, &mut packing),
                        }
                    }
                }
                packing.finish();
                std::mem::swap(&mut packed, &mut packed_next);
            }
            asm!("tilerelease", options(nomem, nostack, preserves_flags));
        }
    }

    /// A block of `M` by `N` tiles, of which the last ones need not be full.
    ///
    /// # Safety
    ///
    /// The place is inside of the product.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    #[inline]
    unsafe fn block<const M: usize, const N: usize>(&self, place: Place, packing: &mut Packing) {
        let (rows, columns) = (self.left.others(), self.right.columns);
        let Place { row, column, .. } = place;
        let out = |m: usize, n: usize| {
            let first = (row + m * SIDE) * columns + column + n * SIDE;
            self.out.wrapping_add(first)
        };
        let is_whole = row + M * SIDE <= rows && column + N * SIDE <= columns;
        let stride = columns * size_of::<f32>();
        let line = size_of::<Line>();
        // SAFETY: by the caller's word the place is there, and tiles that reach beyond the product are apart.
        unsafe {
            if !is_whole {
                let mut apart = [[Line([0.0; SIDE]); SIDE]; 4];
                self.for_lines::<M, N>(place, &mut apart, |line, column, out, there| {
                    let from = match place.base {
                        Base::Row(base) => base.as_ptr().wrapping_add(column),
                        Base::Output => out,
                        Base::Nothing | Base::Column(_) => return,
                    };
                    _mm512_store_ps(line, _mm512_maskz_loadu_ps(there, from));
                });
                for_sums!(M, N, (m, n) => load_tile!(&raw const apart[2 * m + n], line));
                sums::<M, N>(place, packing);
                for_sums!(M, N, (m, n) => store_tile!(&raw mut apart[2 * m + n], line));
                self.for_lines::<M, N>(place, &mut apart, |line, _, out, there| {
                    _mm512_mask_storeu_ps(out, there, _mm512_load_ps(line));
                });
                return;
            }
            match place.base {
                Base::Nothing => for_sums!(M, N, (_m, _n) => clear_tile!()),
                Base::Row(base) => {
                    let base = |n: usize| base.as_ptr().wrapping_add(column + n * SIDE);
                    for_sums!(M, N, (_m, n) => load_tile!(base(n), 0usize));
                }
                Base::Column(_) => unreachable!("only vectors compute a product as its transpose"),
                Base::Output => for_sums!(M, N, (m, n) => load_tile!(out(m, n), stride)),
            }
            if self.is_far && !matches!(place.base, Base::Output) {
                for m in 0..M {
                    for n in 0..N {
                        for at in 0..SIDE {
                            let to = out(m, n).wrapping_add(at * columns);
                            _mm_prefetch::<_MM_HINT_T0>(to.cast());
                        }
                    }
                }
            }
            sums::<M, N>(place, packing);
            for_sums!(M, N, (m, n) => store_tile!(out(m, n), stride));
        }
    }

    /// Calls `work(line, column, out, there)` for each line of a block that the product has a row for: its first column, where it is in
    /// the product, and a bit for each of its values that are there.
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn for_lines<const M: usize, const N: usize>(
        &self,
        place: Place,
        tiles: &mut [[Line; SIDE]; 4],
        mut work: impl FnMut(*mut f32, usize, *mut f32, __mmask16),
    ) {
        let (rows, columns) = (self.left.others(), self.right.columns);
        for m in 0..M {
            for n in 0..N {
                let (row, column) = (place.row + m * SIDE, place.column + n * SIDE);
                let there = (1u32 << SIDE.min(columns - column)) - 1;
                let lines = tiles[2 * m + n].iter_mut().take(rows - row);
                for (at, line) in lines.enumerate() {
                    let out = self.out.wrapping_add((row + at) * columns + column);
                    work(line.0.as_mut_ptr(), column, out, there as __mmask16);
                }
            }
        }
    }
}

/// Adds a block's products to its sums, and packs in between.
///
/// # Safety
///
/// The place has its operands, and the sums are in their tiles.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
unsafe fn sums<const M: usize, const N: usize>(place: Place, packing: &mut Packing) {
    let line = size_of::<Line>();
    for step in 0..place.steps {
        let at = |operand: *const Line| operand.wrapping_add(step * SIDE);
        // SAFETY: by the caller's word the tiles are there.
        unsafe {
            load_tile!("4", at(place.left[0]), line);
            load_tile!("6", at(place.right[0]), line);
            multiply_tiles!("0", "4", "6");
            if N == 2 {
                load_tile!("7", at(place.right[1]), line);
                multiply_tiles!("1", "4", "7");
            }
            if M == 2 {
                load_tile!("5", at(place.left[1]), line);
                multiply_tiles!("2", "5", "6");
            }
            if M == 2 && N == 2 {
                multiply_tiles!("3", "5", "7");
            }
            if !packing.is_done() {
                (packing.pack_lines)(packing);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rounding::bf16;
    use super::*;
    use crate::cpu::matmul::{TransposedSum, Weight, affine};
    use crate::cpu::tests::{bits, turned, values};

    /// The sum as Intel's manual has it, of `base` and the products of these terms.
    fn sum(base: f32, terms: impl Iterator<Item = (f32, f32)>) -> f32 {
        let terms: Vec<_> = terms.map(|(a, b)| (bf16(a), bf16(b))).collect();
        terms.chunks(TERMS).fold(base, |sum, terms| {
            let (first, second) = terms.split_at(SIDE.min(terms.len()));
            let [first, second] = [first, second].map(|half| {
                let terms = half.iter();
                terms.fold(0.0f32, |sum, (a, b)| a.mul_add(*b, sum))
            });
            sum + (first + second)
        })
    }

    const SHAPES: [[usize; 3]; 10] = [
        [1, 1, 1],
        [16, 32, 16],
        [7, 3, 5],
        [17, 31, 33],
        [33, 64, 47],
        [32, 96, 64],
        [70, 9, 130],
        // Terms, and a right operand, that are packed in parts.
        [37, DEPTH + 41, 50],
        [65, 2 * DEPTH, 16],
        [FAR_ROWS + 13, 1500, 370],
    ];

    #[test]
    fn products_in_tiles_are_the_sums_that_the_manual_gives() {
        if !are_used() {
            return;
        }
        for [rows, terms, columns] in SHAPES {
            let [left, right] = [rows * terms, terms * columns].map(values);
            let bias = values(columns);
            let expected = |base: &dyn Fn(usize, usize) -> f32| {
                let columns_first = turned(&right, columns);
                let mut out = Vec::new();
                for row in 0..rows {
                    for column in 0..columns {
                        let left = &left[row * terms..][..terms];
                        let right = &columns_first[column * terms..][..terms];
                        let terms = left.iter().copied().zip(right.iter().copied());
                        out.push(sum(base(row, column), terms));
                    }
                }
                bits(&out)
            };
            let what = format!("{rows} x {terms} x {columns}");
            let plain = expected(&|_, _| 0.0);
            let weight = Matrix::new(&right, terms, columns);
            let weight = Weight::of(weight, Precision::Bf16);
            let matrix = Matrix::new(&left, rows, terms);
            let mut out = vec![f32::NAN; rows * columns];
            affine(matrix, &weight, None, &mut out);
            assert_eq!(bits(&out), plain, "{what}");
            let transposed = turned(&right, columns);
            let transposed = Matrix::new(&transposed, columns, terms);
            let weight = Weight::of_transposed(transposed, rows, Precision::Bf16);
            affine(matrix, &weight, Some(&bias), &mut out);
            let with_bias = expected(&|_, column| bias[column]);
            assert_eq!(bits(&out), with_bias, "{what}, with a bias");

            let mut sums = TransposedSum::new(rows, columns, Precision::Bf16);
            let left = turned(&left, terms);
            let (left, right) = (
                Matrix::new(&left, terms, rows),
                Matrix::new(&right, terms, columns),
            );
            sums.add(left, right);
            let once = plain.iter().map(|bits| f32::from_bits(*bits));
            let once: Vec<f32> = once.collect();
            let twice = expected(&|row, column| once[row * columns + column]);
            sums.add(left, right);
            assert_eq!(bits(&sums.into_values()), twice, "{what}, twice");
        }
    }

    #[test]
    fn what_is_no_number_stays_so_and_what_is_subnormal_is_zero() {
        if !are_used() {
            return;
        }
        let product = |a: f32, b: f32| {
            let weight = Weight::of(Matrix::new(&[b], 1, 1), Precision::Bf16);
            let mut out = [f32::NAN];
            affine(Matrix::new(&[a], 1, 1), &weight, None, &mut out);
            out[0]
        };
        assert_eq!(product(f32::INFINITY, -2.0), f32::NEG_INFINITY);
        assert_eq!(product(f32::MAX, 1.0), f32::INFINITY);
        for nan in [
            f32::NAN,
            f32::from_bits(0x7f80_0001),
            f32::from_bits(u32::MAX),
        ] {
            assert!(product(nan, 1.0).is_nan());
            assert!(product(0.0, nan).is_nan());
        }
        assert!(product(f32::INFINITY, 0.0).is_nan());
        let subnormal = f32::from_bits(0x0040_0000);
        assert_eq!(product(subnormal, 1e30), 0.0);
        assert_eq!(product(1e-20, 1e-20), 0.0);
        assert_eq!(product(f32::MIN_POSITIVE, 1.0), f32::MIN_POSITIVE);
    }

    #[test]
    fn without_terms_there_is_what_was_there() {
        if !are_used() {
            return;
        }
        let weight = Weight::of(Matrix::new(&[], 0, 3), Precision::Bf16);
        let mut out = [7.0; 6];
        affine(Matrix::new(&[], 2, 0), &weight, None, &mut out);
        assert_eq!(out, [0.0; 6]);
        affine(
            Matrix::new(&[], 2, 0),
            &weight,
            Some(&[1.0, 2.0, 3.0]),
            &mut out,
        );
        assert_eq!(out, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
        let mut sum = TransposedSum::new(1, 2, Precision::Bf16);
        sum.add(Matrix::new(&[2.0], 1, 1), Matrix::new(&[1.0, 3.0], 1, 2));
        sum.add(Matrix::new(&[], 0, 1), Matrix::new(&[], 0, 2));
        assert_eq!(sum.into_values(), [2.0, 6.0]);
    }
}
