//! One file a command.

pub mod audit;
pub mod bench;
pub mod chaos;
pub mod checkpoint;
pub mod completions;
pub mod coordinator;
pub mod data;
pub mod demo;
pub mod doctor;
pub mod evaluate;
pub mod operate;
pub mod predict;
pub mod report;
pub mod status;
pub mod train;
mod weights;
pub mod worker;
