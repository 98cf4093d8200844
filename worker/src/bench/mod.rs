//! The parts of a worker by themselves, without a job and other members, to be timed.

mod checkpoint;
mod collective;
mod loader;
mod step;

pub use checkpoint::{CheckpointBench, CheckpointTimes};
pub use collective::{CollectiveBench, CollectiveTimes};
pub use loader::{LoaderBench, LoaderTimes};
pub use step::StepBench;
