//! The control plane of a job: who trains, what was applied, which checkpoints exist, how it ends.
//!
//! [`machine`] decides and touches nothing; [`JobEvent`]s tell people and programs what happened.

mod event;
pub mod machine;

pub use event::JobEvent;
