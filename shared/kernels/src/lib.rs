//! The operations that the networks spend their time in, as a Burn backend extension.
//!
//! Activations are channels-last: `[batch, height, width, channels]`, contiguous `f32`. Weights keep
//! PyTorch's shapes. Each operation computes on the calling thread alone and sums in an order that
//! depends on the shapes alone, so its bits do not depend on how many threads, slots or workers run.
//!
//! [`ops`] is what networks call; [`cpu`] computes on slices; `autodiff` records the backward pass.

mod autodiff;
pub mod cpu;
pub mod device;
mod flex;
pub mod gpu;
mod lend;
pub mod memory;
pub mod ops;
pub mod pictures;
pub mod resident;

pub use device::{ComputeDevice, DeviceError};
pub use lend::lend;
pub use perennial_collective::nccl::Lent;

/// What may follow a batch normalisation in the same pass over memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    None,
    Relu,
}

/// What the operands of matrix products are rounded to. Sums and everything else are `f32`.
///
/// An operation takes it as an argument, forward and backward: no thread, device or process has one of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// To nothing.
    F32,
    /// To bfloat16, the upper half of an `f32`: eight bits of precision and the same range.
    Bf16,
    /// To half precision (IEEE 754 binary16): eleven bits of precision, from 6e-8 to 65504. What is larger is infinite.
    F16,
}

/// The kernel set that computed a replica, part of its numerics class.
pub const KERNEL_SET: &str = "cpu-f32-5";

/// The target of the spans of a profile: an `operation` with the fields `name`, `flop` and `bytes`, closed when it is
/// done. Nobody pays for them unless a subscriber wants them.
pub const PROFILE: &str = "perennial_profile";
