//! A worker process. [`session`] is its end of the conversation with the coordinator.

pub mod session;
