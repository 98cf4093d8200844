//! What goes into the machine and what comes out of it.

use perennial_plan::{Generation, Spec};
use perennial_proto::v1::{self, CoordinatorMessage, WorkerMessage};
use perennial_report::{EpochRecord, Evaluation};
use serde::{Deserialize, Serialize};

use super::{Commit, Snapshot};
use crate::JobEvent;

/// Which connection: the shell numbers them.
pub type ConnectionId = u64;

/// What the machine needs to know of the job before it begins.
#[derive(Debug, Clone)]
pub struct Config {
    pub spec: Spec,
    /// The run begins when so many workers are ready, and no more are taken.
    pub expected_workers: u32,
    /// The program's version; a worker's must be equal.
    pub version: String,
    pub store_url: String,
    /// The checkpoint from which to go on; none: from the beginning.
    pub resume: Option<ResumePoint>,
    /// The id of the generation that this run makes.
    pub generation: u64,
    /// Tells this coordinator from every other one in the log.
    pub writer: String,
    /// The next free position in the log.
    pub log_position: u64,
    /// The command that goes on with the job, for messages.
    pub resume_command: String,
}

/// What a run takes over from a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct ResumePoint {
    pub global_step: u64,
    pub snapshot: Snapshot,
    pub numerics: String,
    pub data_fingerprint: String,
}

/// What the log keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum LogEntry {
    /// A membership, in force from the moment this entry exists.
    Generation {
        generation: Generation,
        /// The coordinator that made it.
        writer: String,
        version: String,
        numerics: String,
        data_fingerprint: String,
    },
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Connected(ConnectionId),
    Message(ConnectionId, WorkerMessage),
    /// The stream ended; why, if it broke.
    Disconnected(ConnectionId, String),
    LogAppended,
    /// Somebody else wrote the position: another coordinator rules the job.
    LogRaceLost,
    LogFailed(String),
    CheckpointCommitted {
        global_step: u64,
    },
    CheckpointNotCommitted {
        global_step: u64,
        message: String,
    },
    /// Where the HTML report lies.
    ReportWritten(String),
    ReportFailed(String),
    StopRequested,
    /// Time passes.
    Tick,
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    Send(ConnectionId, CoordinatorMessage),
    /// End the connection; nothing that comes from it later counts.
    Close(ConnectionId),
    AppendLog {
        position: u64,
        entry: Box<LogEntry>,
    },
    CommitCheckpoint(Box<Commit>),
    /// Apply retention: a checkpoint was committed.
    Prune,
    WriteReport(Box<ReportInput>),
    Emit(JobEvent),
    /// The run is over. Nothing follows.
    End(Outcome),
}

/// What the report is made of, beside the spec.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportInput {
    pub finished: bool,
    pub epochs_done: u32,
    pub global_step: u64,
    pub ready: v1::Ready,
    pub numerics: String,
    pub workers: u32,
    pub generation: u64,
    pub history: Vec<EpochRecord>,
    pub evaluations: Evaluations,
    /// Of the weights that were evaluated, where a checkpoint of them exists.
    pub weights_sha256: Option<String>,
    pub ema_sha256: Option<String>,
}

/// Both evaluations at the end of an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluations {
    pub raw: Evaluation,
    pub ema: Option<Evaluation>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Finished {
        global_step: u64,
        weights_sha256: String,
        ema_sha256: Option<String>,
        /// Where the HTML report lies.
        report: String,
    },
    Stopped {
        global_step: u64,
        /// How to go on.
        resume: String,
        report: Option<String>,
    },
    Failed {
        message: String,
    },
}
