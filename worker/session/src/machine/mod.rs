//! The session as a pure state machine: `handle(now, event) -> effects`. No socket, no clock.
//!
//! It keeps two lives apart. The link to a coordinator comes and goes: a lost one is looked for
//! again, at all known addresses in turn, and the next coordinator is told everything that is not
//! acknowledged. The activity (idle, following, training, halted, finished) goes on meanwhile.
//!
//! Invariants:
//! * GEN-2: a message of a lower term than the highest seen has no effect, nor has a start of a generation
//!   that is not later than the one at hand, nor a halt of an earlier one.
//! * A report is dropped only once a coordinator has said that it is durable: by an acknowledgement, or by
//!   a later generation, before whose first step everything is in the log.

mod link;
mod orders;
mod reports;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use perennial_proto::v1::{
    self, CoordinatorMessage, Finished, Hello, Ready, Standing, WorkerMessage,
};

use super::{Assignment, Command, Report, Source};
pub use link::{CONNECT_PATIENCE, RETRY, RETRY_AT_MOST};

/// What a session needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where coordinators may be, at least one, in the order in which they are tried.
    pub urls: Vec<String>,
    /// Without a name the first time: a coordinator gives it.
    pub hello: Hello,
    /// How long a worker that had a coordinator goes on without one.
    pub patience: Duration,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The stream to the coordinator is open.
    Opened,
    /// The stream could not be opened.
    OpenFailed(String),
    Received(CoordinatorMessage),
    /// The stream ended; empty when the coordinator closed it properly.
    Closed(String),
    /// The training has something to say.
    Report(Report),
    /// Time passes.
    Tick,
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Try to open the stream and answer with [`Event::Opened`] or [`Event::OpenFailed`]. What comes of
    /// an earlier stream later is not to be told.
    Open {
        url: String,
    },
    Send(WorkerMessage),
    /// End the stream, without an answer.
    Close,
    /// Tell the training.
    Deliver(Command),
    /// Something that people should know.
    Warn(String),
}

#[derive(Debug, Clone, PartialEq)]
enum Link {
    Connecting,
    /// Until this time no new attempt is made.
    Retrying(Duration),
    Greeted,
    /// In the pool: no job wants this worker yet.
    Waiting,
    Welcomed,
    Ended,
}

#[derive(Debug, Clone, PartialEq)]
enum Activity {
    /// Nothing, or a replica that nobody asked for.
    Idle,
    Following(Source),
    Training,
    Halted(Standing),
    Finished(Finished),
}

/// A generation that was announced before the training of the one at hand had ended, and what the
/// coordinator has asked of it since.
#[derive(Debug)]
struct Announced {
    assignment: Box<Assignment>,
    flags: u64,
    halt: bool,
}

/// A worker's session with the coordinators of a job.
#[derive(Debug)]
pub struct Session {
    config: Config,
    url: usize,
    link: Link,
    /// How often it was tried to find a coordinator since there was one.
    attempts: u32,
    activity: Activity,
    /// The highest term seen.
    term: u64,
    /// A coordinator has welcomed this worker.
    prepared: bool,
    ready: Option<Ready>,
    /// The last generation that this worker was in, or is in; 0 before the first one.
    generation: u64,
    rank: usize,
    next: Option<Announced>,
    /// Not yet acknowledged, in the order in which it was said.
    kept: VecDeque<Report>,
    caught_up: Option<v1::CaughtUp>,
    draining: bool,
    /// It came from a pool, to which it goes back.
    pooled: bool,
    stale_reported: bool,
    last_failure: String,
    /// Since when there is no coordinator.
    alone_since: Duration,
    last_heard: Duration,
    last_sent: Duration,
    last_tick: Duration,
}

// === impl Session ===

impl Session {
    /// A session that is about to knock at the first address, and its first effect.
    pub fn new(config: Config, now: Duration) -> (Self, Vec<Effect>) {
        let session = Self {
            url: 0,
            link: Link::Connecting,
            attempts: 0,
            activity: Activity::Idle,
            term: 0,
            prepared: false,
            ready: None,
            generation: 0,
            rank: 0,
            next: None,
            kept: VecDeque::new(),
            caught_up: None,
            draining: false,
            pooled: false,
            stale_reported: false,
            last_failure: String::new(),
            alone_since: now,
            last_heard: now,
            last_sent: now,
            last_tick: now,
            config,
        };
        let url = session.config.urls[0].clone();
        (session, vec![Effect::Open { url }])
    }

    /// Whether the session is over.
    pub fn is_ended(&self) -> bool {
        self.link == Link::Ended
    }

    /// The highest term seen.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The name that a coordinator gave; empty before.
    pub fn worker(&self) -> &str {
        &self.config.hello.worker
    }

    /// Takes in what happened at `now` (since any fixed moment) and says what to do.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            _ if self.is_ended() => {}
            Event::Opened => self.opened(now, &mut effects),
            Event::OpenFailed(cause) => self.retry(now, cause, &mut effects),
            Event::Received(message) => self.received(now, message, &mut effects),
            Event::Closed(cause) => self.closed(now, &cause, &mut effects),
            Event::Report(report) => self.report(now, report, &mut effects),
            Event::Tick => self.tick(now, &mut effects),
        }
        effects
    }
}
