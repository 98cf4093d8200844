//! The plan of a job: what every party computes for itself and must agree on to the bit.
//!
//! No I/O, no clock, no threads. What a member does at a cursor is a pure function of the [`spec`],
//! the [`generation`] it is in and the cursor: the [`order`] of samples and their slots, the [`random`]
//! numbers, the [`tree`] by which slots are summed, the [`scaling`] of the loss. The rules that hold at all times are
//! numbered in [`invariants`].

pub mod generation;
pub mod invariants;
pub mod ledger;
pub mod order;
pub mod random;
pub mod scaling;
pub mod spec;
pub mod tensors;
pub mod tree;

pub use generation::{Candidate, Cursor, Generation, Member};
pub use scaling::LossScale;
pub use spec::Spec;
