//! What happens to gradients and weights in one training step.
//!
//! All parameters of a network lie in one flat `f32` slice, described by a table of [`segment::Segment`]s.
//! [`slot`] computes the gradient of one slot with the network, [`replica`] applies the sum over all slots.
//! Everything else runs over such slices without fused multiply-add: each value is computed by itself, and each tensor's
//! sum of squares in ascending order. So the bits depend neither on the number of threads nor on the vector width of
//! the processor.

pub mod clip;
pub mod ema;
pub mod encoding;
mod error;
pub mod loss;
pub mod metrics;
pub mod optimizer;
pub mod replica;
mod scaling;
pub mod schedule;
pub mod scores;
pub mod segment;
pub mod slot;
mod threads;

pub use encoding::StepDelta;
pub use error::TrainError;
pub use optimizer::{Optimizer, OptimizerState};
pub use replica::{Replica, StepOutcome};
pub use schedule::LearningRate;
pub use scores::Scores;
pub use segment::Segment;
pub use slot::{SlotInput, SlotOutcome, infer, loss_factor, slot_gradient, statistics_len};
