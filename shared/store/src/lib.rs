//! What a job keeps: the resolved spec, the coordinator's log, checkpoints and reports, in a folder or
//! an S3 bucket.
//!
//! Invariants:
//! * No object is ever overwritten: every write is create-if-absent.
//! * CK-1: a checkpoint exists when its manifest does, and the manifest is written last, after every part
//!   it names was seen with its size. Reading a part verifies its SHA-256.
//! * CK-2: removing a checkpoint never removes an object that another manifest names.
//! * LOG-1: log positions are contiguous; of two writers of a position exactly one wins.
//! * What fails for a reason that may pass is tried again within a [`RetryBudget`]; nothing waits for ever.

mod backend;
mod checkpoint;
mod error;
mod faults;
mod faulty;
mod job;
mod log;
mod manifest;
mod open;
mod retention;
mod retry;
pub mod tensors;
mod translate;

pub use backend::{Object, Store};
pub use checkpoint::CheckpointInfo;
pub use error::StoreError;
pub use faults::{FAULTS_VARIABLE, FaultCounts, FaultKind, Faults};
pub use faulty::FaultyStore;
pub use job::Job;
pub use log::Log;
pub use manifest::{FORMAT_VERSION, Manifest, Part, PartKind};
pub use retention::{Retention, select};
pub use retry::RetryBudget;
pub use tensors::{HostTensor, NamedTensors, TensorData};
