//! What goes into the queue and what comes out of it.

use perennial_proto::v1::Hello;

use super::log::{QueueEntry, Submission};
use crate::log::LogRecord;
use crate::machine::ConnectionId;

/// What the queue needs to know before it begins.
#[derive(Debug, Clone)]
pub struct Config {
    /// The program's version; a worker's must be equal.
    pub version: String,
    /// Where this coordinator listens: `host:port`.
    pub address: String,
    /// Tells this coordinator from every other one in the log.
    pub writer: String,
    /// The log so far, from position 0 on.
    pub log: Vec<LogRecord<QueueEntry>>,
}

/// A wish that is answered by [`Effect::Answer`].
pub type Ticket = u64;

/// What an operator wishes.
#[derive(Debug, Clone, PartialEq)]
pub enum Wish {
    /// A new job, or one that the queue does not know.
    Submit(Submission),
    Resume {
        job: String,
        priority: Option<i32>,
        workers: Option<u32>,
    },
    Prioritize {
        job: String,
        priority: i32,
    },
    Scale {
        job: String,
        workers: u32,
    },
    Stop {
        job: String,
        now: bool,
    },
    /// Let a worker leave for good; without a job, whatever it does.
    Drain {
        job: Option<String>,
        worker: String,
    },
}

/// Why a wish cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Unknown(String),
    #[error("{0}")]
    Exists(String),
    #[error("{0}")]
    Impossible(String),
}

/// How a job's run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Finished,
    Stopped,
    /// Why.
    Failed(String),
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A worker has greeted.
    Arrived(ConnectionId, Hello),
    /// It said something while it waits: it lives.
    Heard(ConnectionId),
    Left(ConnectionId),
    Wish(Ticket, Wish),
    /// A job that was to run rules itself now: it takes workers.
    Ready(String),
    JobEnded(String, End),
    /// The entry asked for last is in the log.
    LogAppended,
    /// Somebody else wrote the position: another coordinator rules the queue.
    LogRaceLost,
    /// The entry could not be written, as far as is known. It is asked for again, the very same.
    LogFailed(String),
    /// Time passes.
    Tick,
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Answered by [`Event::LogAppended`], [`Event::LogRaceLost`] or [`Event::LogFailed`]. There is never
    /// more than one under way.
    AppendLog {
        position: u64,
        record: Box<LogRecord<QueueEntry>>,
    },
    /// To whoever made the wish; what was granted is durable.
    Answer(Ticket, Result<(), Refusal>),
    /// The worker is in the pool under this name.
    Wait(ConnectionId, String),
    /// Show a worker in the pool that the coordinator lives.
    Beat(ConnectionId),
    /// The worker is to try elsewhere, or here later.
    TurnAway(ConnectionId, String),
    /// The worker cannot be of use here, ever.
    Refuse(ConnectionId, String),
    /// The worker leaves for good.
    Dismiss(ConnectionId),
    /// It has been silent for too long.
    Close(ConnectionId),
    /// The connection is the job's from now on: it hears the greeting, with this name.
    Hand {
        connection: ConnectionId,
        job: String,
        worker: String,
    },
    /// Begin to rule the job, which wants so many workers, or as many as its log says; answered by
    /// [`Event::Ready`] and at last by [`Event::JobEnded`].
    Run {
        job: String,
        workers: Option<u32>,
        command: Option<String>,
    },
    /// The job wants so many workers from now on.
    Share {
        job: String,
        workers: u32,
    },
    /// End the job's run: at the next step with a checkpoint, or at once without one.
    Stop {
        job: String,
        now: bool,
    },
    /// The job is to let the worker go.
    Drain {
        job: String,
        worker: String,
    },
    /// Something is in the log: for people.
    Emit(QueueEntry),
    Warn(String),
    /// Another coordinator rules the queue. Nothing follows.
    Deposed(String),
}
