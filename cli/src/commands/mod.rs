//! One file a command.

pub mod audit;
pub mod bench;
pub mod certs;
pub mod chaos;
pub mod checkpoint;
pub mod completions;
pub mod coordinator;
pub mod curves;
pub mod data;
pub mod demo;
pub mod doctor;
pub mod evaluate;
pub mod export_onnx;
pub mod logs;
pub mod operate;
pub mod predict;
pub mod queue;
pub mod report;
pub mod status;
pub mod submit;
pub mod top;
pub mod train;
mod weights;
pub mod worker;
