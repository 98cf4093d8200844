//! The coordinator as a pure state machine: `handle(now, event) -> effects`. No socket, no store, no
//! clock.
//!
//! It waits until all expected workers are ready, writes a generation to the log, starts it once the
//! entry exists, follows every step that the members report, commits a checkpoint once all its parts
//! lie in the store, and ends the run: finished, stopped, or failed with a sentence that says why.
//! Every invariant that it can see is checked on every message.

mod checkpoints;
mod ending;
mod interface;
mod joining;
mod ledger;
mod running;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_plan::Generation;
use perennial_plan::invariants::Violation;
use perennial_proto::rules::part_kinds;
use perennial_proto::v1::{self, CoordinatorMessage, WorkerMessage};

use crate::JobEvent;
use checkpoints::Checkpoints;
pub use checkpoints::{Commit, Progress, Provenance, Snapshot};
pub use interface::{
    Config, ConnectionId, Effect, Evaluations, Event, LogEntry, Outcome, ReportInput, ResumePoint,
};
use ledger::Ledger;

/// Why a run cannot go on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    message: String,
    /// Whether going on from the checkpoint can help.
    resumable: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Waiting,
    /// The generation's log entry is being written.
    Starting,
    Running,
    /// As running; members were asked to stop.
    Stopping,
    /// All members have finished; the last checkpoint or the report is being written.
    Finishing,
    /// The run has failed; a commit under way decides from where it can go on.
    Failing(Failure),
    Ended,
}

#[derive(Debug)]
struct Connection {
    last_heard: Duration,
    last_sent: Duration,
}

#[derive(Debug)]
struct Worker {
    connection: ConnectionId,
    name: String,
    hello: v1::Hello,
    ready: Option<v1::Ready>,
    finished: bool,
    /// It said that it lost a peer, and may leave without being the one at fault.
    failed: bool,
}

#[derive(Debug, Clone)]
struct Hashes {
    epochs_done: u32,
    weights_sha256: String,
    ema_sha256: Option<String>,
}

/// A worker lost a peer: whatever happened to that one is waited for until `until`.
#[derive(Debug)]
struct Suspicion {
    until: Duration,
    sentence: String,
}

/// The coordinator's state machine.
#[derive(Debug)]
pub struct Machine {
    config: Config,
    phase: Phase,
    now: Duration,
    last_tick: Duration,
    connections: BTreeMap<ConnectionId, Connection>,
    /// In the order in which they came: the order of ranks.
    workers: Vec<Worker>,
    /// Workers that were ever welcomed; names are not given twice.
    welcomed: u32,
    generation: Option<Generation>,
    ledger: Option<Ledger>,
    checkpoints: Checkpoints,
    /// The hashes of the weights (and their average) at the end of the last epoch in the store.
    evaluated: Option<Hashes>,
    suspicion: Option<Suspicion>,
    stale_reported: bool,
    stop_requested: bool,
    report_requested: bool,
    failing_until: Duration,
    /// Smoothed speed of the run, in pictures a second.
    images_per_second: Option<f64>,
    effects: Vec<Effect>,
}

// === impl Machine ===

impl Machine {
    pub fn new(config: Config, now: Duration) -> Self {
        let newest = config.resume.as_ref().map(|resume| resume.global_step);
        Self {
            checkpoints: Checkpoints::new(part_kinds(&config.spec), newest),
            config,
            phase: Phase::Waiting,
            now,
            last_tick: now,
            connections: BTreeMap::new(),
            workers: Vec::new(),
            welcomed: 0,
            generation: None,
            ledger: None,
            evaluated: None,
            suspicion: None,
            stale_reported: false,
            stop_requested: false,
            report_requested: false,
            failing_until: Duration::ZERO,
            images_per_second: None,
            effects: Vec::new(),
        }
    }

    /// Whether the run is over.
    pub fn is_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Takes in what happened at `now` (since any fixed moment) and says what to do.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        self.now = now;
        if self.is_ended() {
            return after_the_end(event);
        }
        if let Err(failure) = self.take_in(event) {
            self.fail(failure);
        }
        std::mem::take(&mut self.effects)
    }

    fn take_in(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Connected(connection) => self.connected(connection),
            Event::Message(connection, message) => self.message(connection, message)?,
            Event::Disconnected(connection, cause) => self.disconnected(connection, &cause)?,
            Event::LogAppended => self.start()?,
            Event::LogRaceLost => return Err(self.log_race_lost()),
            Event::LogFailed(message) => {
                return Err(Failure::resumable(format!(
                    "the job's log cannot be written: {message}"
                )));
            }
            Event::CheckpointCommitted { global_step } => self.checkpoint_committed(global_step)?,
            Event::CheckpointNotCommitted {
                global_step,
                message,
            } => {
                self.checkpoint_failed(global_step, &message)?;
            }
            Event::ReportWritten(_) | Event::ReportFailed(_) if self.phase != Phase::Finishing => {}
            Event::ReportWritten(location) => self.conclude(Some(location)),
            Event::ReportFailed(message) => self.report_failed(&message)?,
            Event::StopRequested => self.stop_requested(),
            Event::Tick => self.tick()?,
        }
        Ok(())
    }

    fn message(&mut self, connection: ConnectionId, message: WorkerMessage) -> Result<(), Failure> {
        use v1::worker_message::Kind;
        let Some(heard) = self.connections.get_mut(&connection) else {
            return Ok(());
        };
        heard.last_heard = self.now;
        if matches!(self.phase, Phase::Failing(_)) {
            return Ok(());
        }
        let rank = self
            .workers
            .iter()
            .position(|worker| worker.connection == connection);
        match (rank, message.kind) {
            (_, Some(Kind::Heartbeat(_))) => Ok(()),
            (None, Some(Kind::Hello(hello))) => {
                self.hello(connection, hello);
                Ok(())
            }
            (Some(rank), Some(Kind::Ready(ready))) => self.ready(rank, ready),
            (Some(rank), Some(Kind::Failed(failed))) => self.worker_failed(rank, failed),
            (Some(rank), Some(kind)) => self.member_message(rank, kind),
            (None, _) => {
                self.refuse(
                    connection,
                    "the first message of a worker must be its greeting".into(),
                );
                Ok(())
            }
            (Some(rank), None) => Err(Failure::resumable(format!(
                "worker `{}` sent a message of a kind that this version does not know",
                self.workers[rank].name
            ))),
        }
    }

    fn connected(&mut self, connection: ConnectionId) {
        let heard = Connection {
            last_heard: self.now,
            last_sent: self.now,
        };
        self.connections.insert(connection, heard);
    }

    fn send(&mut self, connection: ConnectionId, message: impl Into<CoordinatorMessage>) {
        if let Some(peer) = self.connections.get_mut(&connection) {
            peer.last_sent = self.now;
            self.effects.push(Effect::Send(connection, message.into()));
        }
    }

    fn send_to_all(&mut self, message: impl Into<CoordinatorMessage>) {
        let message = message.into();
        let members: Vec<ConnectionId> = self
            .workers
            .iter()
            .map(|worker| worker.connection)
            .collect();
        for connection in members {
            self.send(connection, message.clone());
        }
    }

    fn refuse(&mut self, connection: ConnectionId, reason: String) {
        self.send(connection, v1::Refused { reason });
        self.effects.push(Effect::Close(connection));
        self.connections.remove(&connection);
    }

    fn emit(&mut self, event: JobEvent) {
        self.effects.push(Effect::Emit(event));
    }

    fn warn(&mut self, message: String) {
        self.emit(JobEvent::Warning { message });
    }

    /// Where the job stands, for the `Status` call.
    pub fn status(&self) -> v1::StatusReply {
        let (phase, reason) = match &self.phase {
            Phase::Waiting => {
                let ready = self
                    .workers
                    .iter()
                    .filter(|worker| worker.ready.is_some())
                    .count();
                let of = self.config.expected_workers;
                ("waiting", format!("{ready} of {of} workers are ready"))
            }
            Phase::Starting => (
                "starting",
                "the generation is being written to the log".into(),
            ),
            Phase::Running => ("running", "all members are at work".into()),
            Phase::Stopping => ("stopping", "a stop was asked for".into()),
            Phase::Finishing => (
                "finishing",
                "the last checkpoint or the report is being written".into(),
            ),
            Phase::Failing(failure) => ("finishing", failure.message.clone()),
            Phase::Ended => ("ended", "the run is over".into()),
        };
        let ledger = self.ledger.as_ref();
        v1::StatusReply {
            job: self.config.spec.name.clone(),
            phase: phase.into(),
            reason,
            workers: self
                .workers
                .iter()
                .map(|worker| worker.name.clone())
                .collect(),
            generation: self
                .generation
                .as_ref()
                .map_or(0, |generation| generation.id),
            global_step: ledger.map_or(0, Ledger::global_step),
            total_steps: ledger.map_or(0, Ledger::total_steps),
            checkpoint: self.checkpoints.newest(),
        }
    }
}

/// Whoever comes now is told that there is nothing to do.
fn after_the_end(event: Event) -> Vec<Effect> {
    match event {
        Event::Connected(connection) => {
            let reason = "the run is over".to_string();
            vec![
                Effect::Send(connection, v1::Refused { reason }.into()),
                Effect::Close(connection),
            ]
        }
        _ => Vec::new(),
    }
}

// === impl Failure ===

impl Failure {
    fn resumable(message: String) -> Self {
        Self {
            message,
            resumable: true,
        }
    }

    /// Going on from the checkpoint would meet the same.
    fn final_(message: String) -> Self {
        Self {
            message,
            resumable: false,
        }
    }
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Self::resumable(violation.to_string())
    }
}
