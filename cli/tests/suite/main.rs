//! The program as its users meet it: what it prints, where, and how it exits.

mod audit;
mod bench;
mod certs;
mod checkpoint;
mod coordinator;
mod curves;
mod data;
mod doctor;
mod job_file;
mod log;
mod onnx;
mod report;
mod support;
mod train;
mod wrong;
