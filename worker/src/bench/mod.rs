//! The parts of a worker by themselves, without a job and other members, to be timed.

mod checkpoint;
mod collective;
mod loader;
mod machine;
mod step;

pub use checkpoint::{CheckpointBench, CheckpointTimes};
pub use collective::{CollectiveBench, CollectiveTimes};
pub use loader::{LoaderBench, LoaderTimes};
pub use machine::CorePeak;
pub use perennial_kernels::PROFILE;
pub use step::StepBench;
