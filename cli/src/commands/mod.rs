//! One file a command.

pub mod checkpoint;
pub mod coordinator;
pub mod data;
pub mod demo;
pub mod report;
pub mod train;
