//! The rules of log, terms, generations and checkpoints as a model small enough to explore every state.
//!
//! The model is more generous than the world wherever that loses no behaviour:
//!
//! * A message once sent can be delivered at any later moment, any number of times, or never. So loss,
//!   delay, reordering and duplication need no transitions of their own, and a message is sent as soon as
//!   its sender may send it.
//! * A party that is dead is one that takes none of its transitions; a worker that starts again is
//!   another worker. A coordinator that starts again is the same machine with nothing but the log.
//! * Anybody can be believed dead or alive at any time: a coordinator begins to rule, halts a generation
//!   and leaves out members whenever it likes.
//!
//! A step's result is a function of the step and the replica before it, as in the product, so two
//! generations that work at the same time make equal replicas. What a model of the arithmetic would add is
//! whether a sum is over the shares of one generation; that is kept as [`state::Worker::inexact`].

pub mod log;
pub mod model;
pub mod properties;
pub mod rules;
pub mod state;

pub use model::Cluster;
pub use rules::{Bounds, Broken};
