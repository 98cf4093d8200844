//! A worker's session with the coordinator: a pure state machine ([`machine`]) and the gRPC client
//! around it ([`connect`]).

mod client;
pub mod machine;
#[cfg(test)]
mod tests;

use perennial_plan::{Generation, Spec};
use perennial_proto::v1;

pub use client::{Reporter, SessionError, SessionHandle, connect};

/// What the training hears.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionEvent {
    /// The worker is taken. Read the data and answer with [`Report::Ready`].
    Welcome {
        /// The worker's name in the job.
        worker: String,
        spec: Box<Spec>,
        store_url: String,
    },
    /// Train from the generation's cursor on.
    Start(Generation),
    /// Finish the step, write a checkpoint, send [`Report::Finished`].
    StopRequested,
    /// The job is over for this worker. Nothing follows.
    End { error: Option<String> },
    /// The coordinator is gone; the sentence says why. Nothing follows.
    Lost(String),
}

/// What the training says. Every field is that of the protocol's message.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    Ready(v1::Ready),
    StepDone(v1::StepDone),
    EpochDone(v1::EpochDone),
    PartWritten(v1::PartWritten),
    CheckpointFailed(v1::CheckpointFailed),
    Finished(v1::Finished),
    Failed(v1::Failed),
}

// === impl Report ===

impl Report {
    /// The worker cannot go on, by its own fault.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(v1::Failed {
            message: message.into(),
            lost_peer: String::new(),
        })
    }

    /// The worker cannot go on because it lost the worker called `peer`. The coordinator then looks
    /// for what happened to that one before it ends the run.
    pub fn lost_peer(peer: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Failed(v1::Failed {
            message: message.into(),
            lost_peer: peer.into(),
        })
    }
}

impl From<Report> for v1::WorkerMessage {
    fn from(report: Report) -> Self {
        match report {
            Report::Ready(ready) => ready.into(),
            Report::StepDone(done) => done.into(),
            Report::EpochDone(done) => done.into(),
            Report::PartWritten(part) => part.into(),
            Report::CheckpointFailed(failed) => failed.into(),
            Report::Finished(finished) => finished.into(),
            Report::Failed(failed) => failed.into(),
        }
    }
}
