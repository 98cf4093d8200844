//! What goes into the machine and what comes out of it.

use perennial_plan::Spec;
use perennial_proto::v1::{CoordinatorMessage, WorkerMessage};
use perennial_report::{EpochRecord, Evaluation};
use serde::{Deserialize, Serialize};

use super::{Commit, Snapshot};
use crate::JobEvent;
use crate::log::{DataFacts, LogRecord};

/// Which connection: the shell numbers them.
pub type ConnectionId = u64;

/// What the machine needs to know of the job before it begins.
#[derive(Debug, Clone)]
pub struct Config {
    pub spec: Spec,
    /// The wanted number of workers. The first generation waits for so many, later ones for
    /// `elastic.min_workers`. The log's own number, if it has one, goes before.
    pub wanted: u32,
    /// The program's version; a worker's must be equal.
    pub version: String,
    pub store_url: String,
    /// Where this coordinator listens: `host:port`.
    pub address: String,
    /// The newest checkpoint so far that is not beyond the log's steps; none: from the beginning.
    pub resume: Option<ResumePoint>,
    /// Tells this coordinator from every other one in the log.
    pub writer: String,
    /// The log so far, from position 0 on.
    pub log: Vec<LogRecord>,
    /// The command that goes on with the job, for messages.
    pub resume_command: String,
    /// Others want the workers that the job does not: whoever is more than wanted is let go at once.
    pub shared: bool,
}

/// What a run takes over from a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct ResumePoint {
    pub global_step: u64,
    pub snapshot: Snapshot,
    pub numerics: String,
    pub data_fingerprint: String,
    pub weights_sha256: String,
    pub ema_sha256: Option<String>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Connected(ConnectionId),
    Message(ConnectionId, WorkerMessage),
    /// The stream ended; why, if it broke.
    Disconnected(ConnectionId, String),
    /// The claim, which is the first entry asked for, is in the log; with the newest checkpoint that there
    /// is now and that is not beyond the log's steps. From now on nobody else removes it.
    Claimed(Option<Box<ResumePoint>>),
    /// The entry asked for last is in the log.
    LogAppended,
    /// Somebody else wrote the position: another coordinator rules the job.
    LogRaceLost,
    /// The entry could not be written, as far as is known. It is asked for again, the very same.
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
    /// End the run at once, without a checkpoint: what was computed since the newest one is computed again.
    BreakOffRequested,
    ScaleRequested(u32),
    /// Let this worker leave.
    DrainRequested(String),
    /// Time passes.
    Tick,
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    Send(ConnectionId, CoordinatorMessage),
    /// End the connection; nothing that comes from it later counts.
    Close(ConnectionId),
    /// Answered by [`Event::LogAppended`], [`Event::LogRaceLost`] or [`Event::LogFailed`]; the first one, the
    /// claim, by [`Event::Claimed`]. There is never more than one under way.
    AppendLog {
        position: u64,
        record: Box<LogRecord>,
    },
    /// Answered by [`Event::CheckpointCommitted`] or [`Event::CheckpointNotCommitted`].
    CommitCheckpoint(Box<Commit>),
    /// Apply retention to the checkpoints up to `newest`, which was just committed. What is newer is of
    /// steps that were taken back and are still to come again. Nothing is removed once the log has an entry
    /// of a term after `term`, at or after `position`: its coordinator may need what is there.
    Prune {
        newest: u64,
        term: u64,
        position: u64,
    },
    /// Answered by [`Event::ReportWritten`] or [`Event::ReportFailed`].
    WriteReport(Box<ReportInput>),
    Emit(JobEvent),
    /// The run is over for this coordinator. Nothing follows.
    End(Outcome),
}

/// What the report is made of, beside the spec.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportInput {
    pub finished: bool,
    pub epochs_done: u32,
    pub global_step: u64,
    pub data: DataFacts,
    pub workers: u32,
    pub generation: u64,
    pub history: Vec<EpochRecord>,
    pub evaluations: Evaluations,
    /// Of the weights that were evaluated, where a checkpoint of them exists.
    pub weights_sha256: Option<String>,
    pub ema_sha256: Option<String>,
    /// Over all steps up to the evaluated weights.
    pub ledger_root: Option<String>,
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
    /// Another coordinator rules the job.
    Deposed {
        message: String,
    },
    Failed {
        message: String,
    },
}
