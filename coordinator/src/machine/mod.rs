//! The coordinator as a pure state machine: `handle(now, event) -> effects`. No socket, no store, no
//! clock.
//!
//! It claims the job with a term of its own, gathers workers, and puts a generation into force by writing
//! it to the log. While that one trains it follows every step, commits checkpoints, and prepares the next
//! membership: newcomers copy the replica, whoever wants to leave waits for a boundary. When a member is
//! lost, or when the next membership is ready, all members halt, and the next generation begins where the
//! furthest of them stands.
//!
//! Its whole state is the log: one that is killed is followed by another one that has read it. Every
//! invariant that it can see is checked on every message.

mod checkpoints;
mod decision;
mod ending;
mod interface;
mod joining;
mod ledger;
mod membership;
mod planned;
mod proposal;
mod retry;
mod running;
mod standing;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_plan::Generation;
use perennial_plan::invariants::Violation;
use perennial_proto::rules::part_kinds;
use perennial_proto::v1::{self, CoordinatorMessage, WorkerMessage};

use crate::JobEvent;
use crate::log::{DataFacts, LogEntry};
use crate::log_queue::LogQueue;
use crate::replay::Replayed;
use checkpoints::Checkpoints;
pub use checkpoints::{Commit, Progress, Provenance, Snapshot};
pub use interface::{
    Config, ConnectionId, Effect, Evaluations, Event, Outcome, ReportInput, ResumePoint,
};
use ledger::Ledger;
use proposal::Proposal;
use retry::Retry;
use worker::Worker;

/// Why a run cannot go on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    message: String,
    kind: FailureKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FailureKind {
    /// Going on from the checkpoint can help.
    Resumable,
    /// Going on from the checkpoint would meet the same.
    Final,
    /// Another coordinator rules.
    Deposed,
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    /// The term's log entry is being written.
    Claiming,
    /// No generation is at work. Members that were are halting or have halted.
    Assembling,
    /// The next generation's log entry is being written.
    Starting,
    Running,
    /// All members have finished; the last checkpoint or the report is being written.
    Finishing,
    /// The last log entry is being written.
    Concluding,
    /// The run has failed; a commit under way decides from where it can go on.
    Failing(Failure),
    Ended,
}

#[derive(Debug)]
struct Connection {
    last_heard: Duration,
    last_sent: Duration,
}

#[derive(Debug, Clone)]
struct Hashes {
    epochs_done: u32,
    weights_sha256: String,
    ema_sha256: Option<String>,
}

/// The coordinator's state machine.
#[derive(Debug)]
pub struct Machine {
    config: Config,
    term: u64,
    phase: Phase,
    now: Duration,
    last_tick: Duration,
    log: LogQueue,
    connections: BTreeMap<ConnectionId, Connection>,
    /// In the order in which they came. Members that are gone stay until the next generation.
    workers: Vec<Worker>,
    /// The highest number in a worker's name; names are not given twice.
    names: u32,
    wanted: u32,
    data: Option<DataFacts>,
    /// The generation in force; its members may have halted.
    generation: Option<Generation>,
    last_generation: u64,
    proposal: Option<Box<Proposal>>,
    ledger: Option<Ledger>,
    /// Steps that are settled but not in the log.
    unlogged: Vec<perennial_plan::ledger::StepRecord>,
    unlogged_since: Duration,
    /// Steps and epochs in the log.
    logged: u64,
    logged_epochs: u32,
    checkpoints: Checkpoints,
    /// The newest checkpoint, from which a generation without survivors begins.
    newest: Option<ResumePoint>,
    /// The hashes of the weights (and their average) at the end of the last epoch in the store.
    evaluated: Option<Hashes>,
    /// Why the members were asked to halt at a boundary.
    regroup: Option<Regroup>,
    /// Since when no generation has been at work, and why.
    assembling_since: Duration,
    assembling_why: String,
    /// When somebody last became ready.
    last_ready: Duration,
    /// The last sentence about what is waited for.
    waiting_for: String,
    /// The members of a generation that an earlier coordinator made have until then to come back.
    claimed_at: Duration,
    last_dealt: Duration,
    /// When it was last looked at whether dealing them anew is worth it.
    last_weighed: Duration,
    last_checkpoint_retry: Retry,
    stale_reported: bool,
    log_failure_reported: bool,
    stop_requested: bool,
    report_requested: bool,
    /// Why the last attempt at the report failed.
    report_failure: Option<String>,
    report_retry: Retry,
    /// What is told once the last log entry is there.
    conclusion: Option<Box<(JobEvent, Outcome)>>,
    failing_until: Duration,
    /// Smoothed speed of the run, in pictures a second.
    images_per_second: Option<f64>,
    /// Of this coordinator.
    first_generation_at: Option<Duration>,
    /// Of all steps that were settled under this coordinator.
    step_seconds: f64,
    effects: Vec<Effect>,
}

/// A halt at a boundary that was asked for.
#[derive(Debug, Clone, PartialEq)]
struct Regroup {
    reason: String,
    /// With a checkpoint there.
    checkpoint: bool,
}

// === impl Machine ===

impl Machine {
    /// A coordinator that is about to claim the job, and its first effects. An error when the log is not
    /// what a log can be.
    pub fn new(config: Config, now: Duration) -> Result<(Self, Vec<Effect>), Violation> {
        let replayed = Replayed::of(&config.spec, &config.log)?;
        let term = replayed.term + 1;
        let mut log = LogQueue::new(term, config.writer.clone(), config.log.len() as u64);
        log.push(LogEntry::Term {
            address: config.address.clone(),
            version: config.version.clone(),
        });
        let mut ledger = replayed
            .data
            .as_ref()
            .map(|data| Ledger::restore(&config.spec, data, &replayed));
        if let (Some(ledger), Some(generation)) = (&mut ledger, &replayed.generation) {
            ledger.begin(generation);
        }
        let workers = replayed
            .generation
            .iter()
            .flat_map(|generation| &generation.members)
            .map(Worker::absent)
            .collect();
        let mut machine = Self {
            term,
            phase: Phase::Claiming,
            now,
            last_tick: now,
            log,
            connections: BTreeMap::new(),
            workers,
            names: replayed.names,
            wanted: replayed.wanted.unwrap_or(config.wanted),
            data: replayed.data.clone(),
            last_generation: replayed.last_generation,
            generation: replayed.generation.clone(),
            proposal: None,
            logged: replayed.steps.len() as u64,
            logged_epochs: replayed.history.len() as u32,
            ledger,
            unlogged: Vec::new(),
            unlogged_since: now,
            checkpoints: Checkpoints::new(part_kinds(&config.spec)),
            newest: None,
            evaluated: None,
            regroup: None,
            assembling_since: now,
            assembling_why: String::new(),
            last_ready: now,
            waiting_for: String::new(),
            claimed_at: now,
            last_dealt: now,
            last_weighed: now,
            last_checkpoint_retry: Retry::default(),
            stale_reported: false,
            log_failure_reported: false,
            stop_requested: false,
            report_requested: false,
            report_failure: None,
            report_retry: Retry::default(),
            conclusion: None,
            failing_until: Duration::ZERO,
            images_per_second: None,
            first_generation_at: None,
            step_seconds: 0.0,
            effects: Vec::new(),
            config,
        };
        machine.set_ranks();
        if let Some(newest) = machine.config.resume.take() {
            machine.found_checkpoint(newest);
        }
        machine.expect_checkpoint();
        machine.write_log();
        let effects = std::mem::take(&mut machine.effects);
        Ok((machine, effects))
    }

    /// Whether the run is over for this coordinator.
    pub fn is_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// The term in which this coordinator rules, or is about to.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The log position that this coordinator writes next, or is writing.
    pub fn log_position(&self) -> u64 {
        self.log.position()
    }

    /// Takes in what happened at `now` (since any fixed moment) and says what to do.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        self.now = now;
        if self.is_ended() {
            return self.after_the_end(event);
        }
        let result = self.take_in(event).and_then(|()| self.settle());
        if let Err(failure) = result {
            self.fail(failure);
        }
        self.write_log();
        std::mem::take(&mut self.effects)
    }

    fn take_in(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Connected(connection) => self.connected(connection),
            Event::Message(connection, message) => self.message(connection, message)?,
            Event::Disconnected(connection, cause) => self.disconnected(connection, &cause),
            Event::Claimed(newest) => {
                if let Some(newest) = newest {
                    self.found_checkpoint(*newest);
                }
                self.log_appended()?;
            }
            Event::LogAppended => self.log_appended()?,
            Event::LogRaceLost => return Err(self.log_race_lost()),
            Event::LogFailed(message) => self.log_failed(&message),
            Event::CheckpointCommitted { global_step } => self.checkpoint_committed(global_step),
            Event::CheckpointNotCommitted {
                global_step,
                message,
            } => self.commit_failed(global_step, message),
            Event::ReportWritten(_) | Event::ReportFailed(_) if self.phase != Phase::Finishing => {}
            Event::ReportWritten(location) => self.conclude(Some(location)),
            Event::ReportFailed(message) => self.report_failed(message),
            Event::StopRequested => self.stop_requested(),
            Event::BreakOffRequested => self.break_off(),
            Event::ScaleRequested(wanted) => self.scale(wanted),
            Event::DrainRequested(worker) => self.drain(&worker),
            Event::Tick => self.tick(),
        }
        Ok(())
    }

    fn message(&mut self, connection: ConnectionId, message: WorkerMessage) -> Result<(), Failure> {
        use v1::worker_message::Kind;
        let Some(heard) = self.connections.get_mut(&connection) else {
            return Ok(());
        };
        heard.last_heard = self.now;
        if message.term > self.term {
            return Err(self.deposed_by(message.term));
        }
        if matches!(self.phase, Phase::Failing(_)) {
            return Ok(());
        }
        let known = self
            .workers
            .iter()
            .position(|worker| worker.connection == Some(connection));
        match (known, message.kind) {
            (_, Some(Kind::Heartbeat(_))) => Ok(()),
            (None, Some(Kind::Hello(hello))) => {
                self.hello(connection, hello);
                Ok(())
            }
            (None, _) => {
                self.refuse(
                    connection,
                    "the first message of a worker must be its greeting".into(),
                    false,
                );
                Ok(())
            }
            (Some(index), Some(kind)) => self.worker_message(index, kind),
            (Some(index), None) => Err(Failure::resumable(format!(
                "worker `{}` sent a message of a kind that this version does not know",
                self.workers[index].name
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
            // Before the claim is in the log there is no rule.
            let term = if self.phase == Phase::Claiming {
                0
            } else {
                self.term
            };
            let message = CoordinatorMessage {
                term,
                ..message.into()
            };
            self.effects.push(Effect::Send(connection, message));
        }
    }

    fn send_to(&mut self, worker: usize, message: impl Into<CoordinatorMessage>) {
        if let Some(connection) = self.workers[worker].connection {
            self.send(connection, message);
        }
    }

    fn send_to_all(&mut self, message: impl Into<CoordinatorMessage>) {
        let message = message.into();
        for worker in 0..self.workers.len() {
            self.send_to(worker, message.clone());
        }
    }

    fn refuse(&mut self, connection: ConnectionId, reason: String, elsewhere: bool) {
        self.send(connection, v1::Refused { reason, elsewhere });
        self.close(connection);
    }

    fn close(&mut self, connection: ConnectionId) {
        if self.connections.remove(&connection).is_some() {
            self.effects.push(Effect::Close(connection));
        }
    }

    fn emit(&mut self, event: JobEvent) {
        self.effects.push(Effect::Emit(event));
    }

    fn warn(&mut self, message: String) {
        self.emit(JobEvent::Warning { message });
    }

    // --- the log ------------------------------------------------------------------------------------

    fn write_log(&mut self) {
        if !self.is_ended()
            && let Some((position, record)) = self.log.next(self.now)
        {
            self.effects.push(Effect::AppendLog { position, record });
        }
    }

    fn log_appended(&mut self) -> Result<(), Failure> {
        let Some(entry) = self.log.appended() else {
            return Ok(());
        };
        self.log_failure_reported = false;
        match entry {
            LogEntry::Term { .. } => self.claimed(),
            LogEntry::Generation { generation, .. } => {
                // One that goes back to a checkpoint takes back what the log had after it.
                let steps = self.global_step(generation.start);
                self.logged = self.logged.min(steps);
                self.logged_epochs = self.logged_epochs.min(generation.start.epoch);
                self.start()?;
            }
            LogEntry::Steps { steps } => {
                self.logged += steps.len() as u64;
                self.acknowledge();
            }
            LogEntry::Epoch { record, .. } => {
                self.logged_epochs = record.epoch;
                self.acknowledge();
            }
            LogEntry::Scale { .. } => {}
            LogEntry::Ended { .. } => self.concluded(),
        }
        Ok(())
    }

    fn log_failed(&mut self, message: &str) {
        self.log.failed(self.now);
        if !std::mem::replace(&mut self.log_failure_reported, true) {
            self.warn(format!(
                "the job's log cannot be written and is tried again: {message}"
            ));
        }
    }

    fn log_race_lost(&self) -> Failure {
        Failure::deposed(format!(
            "another coordinator rules job `{}`: it wrote position {} of the job's log first; this one steps down",
            self.config.spec.name,
            self.log.position()
        ))
    }

    fn deposed_by(&self, term: u64) -> Failure {
        Failure::deposed(format!(
            "another coordinator rules job `{}`: its workers obey term {term}, this one is of term {}; this one steps down",
            self.config.spec.name, self.term
        ))
    }

    // --- for people ---------------------------------------------------------------------------------

    /// Where the job stands, for the `Status` call.
    pub fn status(&self) -> v1::StatusReply {
        let (phase, reason) = match &self.phase {
            Phase::Claiming => (
                "claiming",
                "the coordinator's term is being written to the log".to_string(),
            ),
            Phase::Assembling if self.generation.is_some() && self.waiting_for.is_empty() => {
                ("halting", self.assembling_why.clone())
            }
            Phase::Assembling => ("waiting", self.waiting_for.clone()),
            Phase::Starting => (
                "starting",
                "the generation is being written to the log".into(),
            ),
            Phase::Running if self.stop_requested => ("stopping", "a stop was asked for".into()),
            Phase::Running => match &self.regroup {
                Some(regroup) => (
                    "running",
                    format!("until the next step: {}", regroup.reason),
                ),
                None => ("running", "all members are at work".into()),
            },
            Phase::Finishing | Phase::Concluding => (
                "finishing",
                "the last checkpoint or the report is being written".into(),
            ),
            Phase::Failing(failure) => ("finishing", failure.message.clone()),
            Phase::Ended => ("ended", "the run is over".into()),
        };
        let ledger = self.ledger.as_ref();
        let last = ledger.and_then(|ledger| ledger.history().last());
        v1::StatusReply {
            job: self.config.spec.name.clone(),
            phase: phase.into(),
            reason,
            workers: self
                .workers
                .iter()
                .map(|worker| self.worker_status(worker))
                .collect(),
            generation: self.generation_id(),
            global_step: ledger.map_or(0, Ledger::global_step),
            total_steps: ledger.map_or(0, Ledger::total_steps),
            checkpoint: self.checkpoints.newest(),
            term: self.term,
            wanted: self.wanted,
            images_per_second: self.images_per_second.unwrap_or(0.0),
            seconds_left: self.seconds_left(),
            goodput: self.goodput(),
            epoch: ledger.map_or(0, |ledger| ledger.evaluated().1),
            val_top1: last.map(|epoch| epoch.val_top1),
            ema_top1: last.and_then(|epoch| epoch.ema_top1),
            step_seconds: self.step_seconds,
        }
    }

    /// Seconds until the last step, at the speed of late.
    fn seconds_left(&self) -> Option<f64> {
        let speed = self.images_per_second.filter(|speed| *speed > 0.0)?;
        Some(self.ledger.as_ref()?.remaining_samples() as f64 / speed)
    }

    /// The share of the time since this coordinator's first generation that went into steps which count.
    fn goodput(&self) -> Option<f64> {
        let since = self.first_generation_at?;
        let elapsed = (self.now - since).as_secs_f64();
        (elapsed > 0.0 && self.step_seconds > 0.0).then(|| (self.step_seconds / elapsed).min(1.0))
    }

    /// Whether its claim is in the log.
    pub fn has_claimed(&self) -> bool {
        self.phase != Phase::Claiming
    }

    /// Whoever comes now is told that there is nothing to do.
    fn after_the_end(&self, event: Event) -> Vec<Effect> {
        match event {
            Event::Connected(connection) => {
                let refused = v1::Refused {
                    reason: "the run is over".to_string(),
                    elsewhere: true,
                };
                vec![
                    Effect::Send(connection, refused.into()),
                    Effect::Close(connection),
                ]
            }
            _ => Vec::new(),
        }
    }

    fn generation_id(&self) -> u64 {
        self.generation
            .as_ref()
            .map_or(0, |generation| generation.id)
    }
}

// === impl Failure ===

impl Failure {
    fn resumable(message: String) -> Self {
        Self {
            message,
            kind: FailureKind::Resumable,
        }
    }

    fn final_(message: String) -> Self {
        Self {
            message,
            kind: FailureKind::Final,
        }
    }

    fn deposed(message: String) -> Self {
        Self {
            message,
            kind: FailureKind::Deposed,
        }
    }
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Self::resumable(violation.to_string())
    }
}
