//! What a processor without tiles has in the place of [`tiles`](super::tiles).

use super::matmul::{Base, Matrix};
use crate::Precision;

pub(super) const BLOCK: usize = 1;

pub(super) fn are_used_for(_precision: Precision) -> bool {
    false
}

pub fn are_used() -> bool {
    false
}

#[derive(Debug, Clone, Copy)]
pub struct Operand<'a> {
    pub matrix: Matrix<'a>,
    pub terms_are_rows: bool,
}

/// Nobody makes one. A type of no value would make code unreachable that uses it, which the compiler warns of.
#[derive(Debug)]
pub struct Tiles;

// === impl Tiles ===

impl Tiles {
    pub fn of(_right: Operand) -> Self {
        unreachable!("only where tiles are used")
    }

    pub fn terms(&self) -> usize {
        unreachable!("nobody makes tiles")
    }

    pub fn columns(&self) -> usize {
        unreachable!("nobody makes tiles")
    }
}

/// # Safety
///
/// There is nothing to multiply with.
pub(super) unsafe fn multiply(
    _left: Operand,
    _right: &Tiles,
    _base: Base,
    _out: *mut f32,
    _is_far: bool,
) {
    unreachable!("nobody makes tiles")
}
