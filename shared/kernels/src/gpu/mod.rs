//! The operations on GPUs, in `f32`, without tensor cores.
//!
//! A [kernel](mod@kernel) says what one unit of work does. It is plain Rust on slices: a build with the feature `cuda`
//! compiles it for the GPU through CubeCL, and any build can run it on the host, where tests hold it against the
//! references. So a kernel and its twin on the host are one text, with the same index arithmetic and the same order of
//! sums; what differs are the last bits of `exp` and `sqrt`, and where the compiler joins a product and a sum.
//!
//! [`operations`] is made of kernels and written once for both machines.
//!
//! Sums have an order that the shapes alone decide: groups of [`sums::GROUP`] rows one after the other, then groups of
//! groups; a product's terms in pieces of [`product::PIECE`]. No unit adds to what another one writes, so there is no
//! atomic addition anywhere.
// A kernel has neither ranges as values nor all methods of numbers.
#![allow(
    clippy::manual_clamp,
    clippy::manual_div_ceil,
    clippy::manual_is_multiple_of,
    clippy::manual_range_contains
)]

pub mod conv;
pub mod depthwise;
pub mod elementwise;
pub mod gates;
pub mod host;
pub mod kernel;
pub mod math;
pub mod norm;
pub mod operations;
pub mod optimizer;
pub mod pictures;
pub mod product;
pub mod sums;

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "cuda")]
pub mod health;
#[cfg(feature = "cuda")]
pub(crate) mod lend;
#[cfg(feature = "cuda")]
pub mod memory;
#[cfg(feature = "cuda")]
pub mod probe;

/// Runs `work` on a thread of its own; the error is why there is none.
#[cfg(feature = "cuda")]
fn in_background(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let started = std::thread::Builder::new().name(name.into()).spawn(work);
    started
        .map(drop)
        .map_err(|error| format!("no thread can be started: {error}"))
}

/// The kernel set that computed a replica on a GPU, part of its numerics class.
pub const KERNEL_SET: &str = "cuda-f32-2";
