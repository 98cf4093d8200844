//! The control plane of a job: who trains, what was applied, which checkpoints exist, how it ends.
//!
//! [`machine`] decides and touches nothing; [`serve`] is gRPC, storage and the clock around it;
//! [`queue`] decides which of many jobs run with how many workers, and [`serve_queue`] is what is around that;
//! [`JobEvent`]s tell people and programs what happened.

pub mod audit;
mod error;
mod event;
pub mod log;
mod log_queue;
pub mod machine;
pub mod operate;
pub mod queue;
pub mod replay;
mod report;
mod resume;
mod server;
mod storage;

pub use error::CoordinatorError;
pub use event::{JobEvent, Told};
pub use machine::Outcome;
pub use report::build_report;
pub use resume::{check_resume, check_same_job};
pub use server::{
    Access, QueueConfig, QueueEvent, ReadJob, ServeConfig, metrics_in_words, reachable, serve,
    serve_queue,
};
