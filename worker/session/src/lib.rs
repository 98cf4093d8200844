//! A worker's session with the coordinators of its job: a pure state machine ([`machine`]) and the gRPC
//! client around it ([`connect`]).
//!
//! The session decides, the training obeys: it gets [`Command`]s and answers with [`Report`]s. While no
//! coordinator is there the training goes on, and what it reports is kept until it is acknowledged.

mod client;
pub mod machine;

use perennial_plan::{Generation, Spec};
use perennial_proto::v1;

pub use client::{Options, Reporter, SessionError, SessionHandle, attach, connect};

/// What the training is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Said once: read the data, build the network, answer with [`Report::Ready`].
    Prepare { spec: Box<Spec>, store_url: String },
    /// Become a member. Comes only when the training of an earlier generation has answered with
    /// [`Report::Halted`] or [`Report::Finished`]; ends a [`Command::Follow`]. Answered by one of
    /// [`Report::Halted`], [`Report::Finished`] and [`Report::Failed`].
    Train(Box<Assignment>),
    /// Copy the replica from there and keep up with it until the next command; answered by
    /// [`Report::CaughtUp`] (once) or [`Report::FollowFailed`]. Replaces an earlier one.
    Follow(Source),
    /// Break the generation off and answer with [`Report::Halted`]. Of another generation, or after
    /// that answer, it means nothing.
    Break { generation: u64 },
    /// Add these [flags](perennial_proto::rules::control) to the generation's sums from now on.
    Raise { generation: u64, flags: u64 },
    /// The worker's life ends. Nothing follows.
    Exit(Result<(), String>),
    /// The worker came from a pool, and its time with the job is over; why, if not all is well. It comes back
    /// to the pool with a session of its own, under this name. Nothing follows.
    Return {
        worker: String,
        end: Result<(), String>,
    },
}

/// A place in a generation, and what is to be done at its start cursor.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    pub generation: Generation,
    /// This worker's place in it.
    pub rank: usize,
    /// First evaluate the epoch that ends at the start cursor.
    pub evaluate: bool,
    /// Then write the checkpoint of the start cursor.
    pub checkpoint: bool,
    /// Then finish, without a step.
    pub finish: bool,
    /// Where a replica of the start cursor is to be had. None: everybody loads the generation's
    /// checkpoint, or begins with the initial weights where it has none.
    pub source: Option<Source>,
}

/// A replica that can be copied.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    pub worker: String,
    /// `host:port`.
    pub address: String,
    /// Where it stands: exactly, in an [`Assignment`]; as far as is known, to be followed.
    pub global_step: u64,
    pub replica_hash: u64,
}

/// What the training says. Every field is that of the protocol's message.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    Ready(v1::Ready),
    StepDone(v1::StepDone),
    EpochDone(v1::EpochDone),
    PartWritten(v1::PartWritten),
    CheckpointFailed(v1::CheckpointFailed),
    /// The member stands where the job or a stop ends; it may be asked to train again from there.
    Finished(v1::Finished),
    /// The member takes no step before it is told to train again.
    Halted(v1::Standing),
    CaughtUp(v1::CaughtUp),
    FollowFailed(v1::FollowFailed),
    /// The worker cannot go on.
    Failed(v1::Failed),
    /// The process was asked to leave.
    Drain,
    /// What its GPU holds: of interest now or not at all.
    DeviceMemory(v1::DeviceMemory),
}

// === impl Source ===

impl From<v1::Source> for Source {
    fn from(source: v1::Source) -> Self {
        Self {
            worker: source.worker,
            address: source.address,
            global_step: source.global_step,
            replica_hash: source.replica_hash,
        }
    }
}

// === impl Report ===

impl From<Report> for v1::WorkerMessage {
    fn from(report: Report) -> Self {
        match report {
            Report::Ready(ready) => ready.into(),
            Report::StepDone(done) => done.into(),
            Report::EpochDone(done) => done.into(),
            Report::PartWritten(part) => part.into(),
            Report::CheckpointFailed(failed) => failed.into(),
            Report::Finished(finished) => finished.into(),
            Report::Halted(standing) => standing.into(),
            Report::CaughtUp(caught_up) => caught_up.into(),
            Report::FollowFailed(failed) => failed.into(),
            Report::Failed(failed) => failed.into(),
            Report::Drain => v1::Drain {}.into(),
            Report::DeviceMemory(memory) => memory.into(),
        }
    }
}
