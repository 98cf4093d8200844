//! The program as its users meet it: what it prints, where, and how it exits.

mod audit;
mod certs;
mod checkpoint;
mod coordinator;
mod data;
mod job_file;
mod report;
mod support;
mod train;
