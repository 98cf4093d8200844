//! One coordinator for many jobs over a pool of workers, as a pure state machine: `handle(now, event) ->
//! effects`. Each job that runs has a [`machine`](crate::machine) of its own, which knows nothing of this
//! one; here it is decided which jobs run and with how many workers ([`share`]), and workers are handed out.
//!
//! Invariants:
//! * Its whole state is its log, but for who is connected: an entry takes effect once it exists, in one
//!   place for a coordinator that wrote it and for one that read it.
//! * A worker serves one job at a time: it is handed out only while it waits.
//! * A job takes its share by its own planned changes of membership: nothing is computed twice because
//!   somebody else has a higher priority.

mod interface;
mod log;
mod pool;
mod schedule;
pub mod share;
mod status;
#[cfg(test)]
mod tests;
mod wishes;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use perennial_plan::invariants::Violation;

use crate::log_queue::LogQueue;
use crate::machine::ConnectionId;
pub use interface::{Config, Effect, End, Event, Refusal, Ticket, Wish};
pub use log::{How, QueueEntry, Queued, Replayed, State, Submission};
use pool::{Coming, Shunned, Worker};
use schedule::Run;
pub use status::{JobView, WorkerView};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The term's log entry is being written.
    Claiming,
    Ruling,
    Ended,
}

/// The queue's state machine.
#[derive(Debug)]
pub struct Queue {
    config: Config,
    term: u64,
    phase: Phase,
    now: Duration,
    last_tick: Duration,
    /// Since when this coordinator rules.
    claimed_at: Duration,
    /// Jobs ran when it took over: their workers may come back.
    inherited: bool,
    log: LogQueue<QueueEntry>,
    log_failure_reported: bool,
    /// What the log says.
    state: Replayed,
    /// The jobs that run, by name.
    runs: BTreeMap<String, Run>,
    workers: BTreeMap<ConnectionId, Worker>,
    /// Workers that a job has let go and that are not here yet, by name.
    coming: BTreeMap<String, Coming>,
    /// The number of the last name that was given.
    names: u32,
    /// Workers that were told to leave for good, which the log does not have yet.
    dismissed: VecDeque<String>,
    /// Workers that a job did not keep.
    shunned: BTreeMap<(String, String), Shunned>,
    /// Not decided yet, in the order in which they came.
    wishes: VecDeque<(Ticket, Wish)>,
    ended: VecDeque<(String, End)>,
    /// Whose wish is in the entry that is being written.
    answering: Option<Ticket>,
    /// Why jobs wait, as of the last look.
    reasons: BTreeMap<String, String>,
    effects: Vec<Effect>,
}

/// So many names are put down as used at a time.
const NAMES: u32 = 100;

// === impl Queue ===

impl Queue {
    /// A coordinator that is about to claim the queue, and its first effects. An error when the log is not
    /// what a log can be.
    pub fn new(config: Config, now: Duration) -> Result<(Self, Vec<Effect>), Violation> {
        let state = Replayed::of(&config.log)?;
        let term = state.term + 1;
        let mut log = LogQueue::new(term, config.writer.clone(), config.log.len() as u64);
        log.push(QueueEntry::Term {
            address: config.address.clone(),
            version: config.version.clone(),
            names: state.names + NAMES,
        });
        let mut queue = Self {
            term,
            phase: Phase::Claiming,
            now,
            last_tick: now,
            claimed_at: now,
            inherited: false,
            log,
            log_failure_reported: false,
            names: state.names,
            state,
            runs: BTreeMap::new(),
            workers: BTreeMap::new(),
            coming: BTreeMap::new(),
            dismissed: VecDeque::new(),
            shunned: BTreeMap::new(),
            wishes: VecDeque::new(),
            ended: VecDeque::new(),
            answering: None,
            reasons: BTreeMap::new(),
            effects: Vec::new(),
            config,
        };
        queue.write_log();
        let effects = std::mem::take(&mut queue.effects);
        Ok((queue, effects))
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
        if self.phase == Phase::Ended {
            return Vec::new();
        }
        match event {
            Event::Arrived(connection, hello) => self.arrived(connection, hello),
            Event::Heard(connection) => self.heard(connection),
            Event::Left(connection) => self.left(connection),
            Event::Wish(ticket, wish) => self.wishes.push_back((ticket, wish)),
            Event::Ready(job) => {
                if let Some(run) = self.runs.get_mut(&job) {
                    run.ready = true;
                }
            }
            Event::JobEnded(job, end) => self.ended.push_back((job, end)),
            Event::LogAppended => self.log_appended(),
            Event::LogRaceLost => self.deposed(),
            Event::LogFailed(message) => self.log_failed(&message),
            Event::Tick => self.tick(),
        }
        self.settle();
        self.write_log();
        std::mem::take(&mut self.effects)
    }

    /// Decides what is to be decided. One entry is written at a time, so every decision is made on what the
    /// log has.
    fn settle(&mut self) {
        while self.phase == Phase::Ruling && !self.log.is_busy() {
            if let Some((job, end)) = self.ended.pop_front() {
                self.job_ended(&job, end);
            } else if let Some((ticket, wish)) = self.wishes.pop_front() {
                self.decide(ticket, wish);
            } else if let Some(worker) = self.dismissed.pop_front() {
                self.log.push(QueueEntry::Dismissed { worker });
            } else if self.names + 1 >= self.state.names {
                let names = self.names + NAMES;
                self.log.push(QueueEntry::Names { names });
            } else {
                self.schedule();
                return;
            }
        }
    }

    // --- the log ------------------------------------------------------------------------------------

    fn write_log(&mut self) {
        if self.phase != Phase::Ended
            && let Some((position, record)) = self.log.next(self.now)
        {
            self.effects.push(Effect::AppendLog { position, record });
        }
    }

    fn log_appended(&mut self) {
        let Some(entry) = self.log.appended() else {
            return;
        };
        self.log_failure_reported = false;
        self.state.apply(&entry);
        if let Some(ticket) = self.answering.take() {
            self.effects.push(Effect::Answer(ticket, Ok(())));
        }
        match &entry {
            QueueEntry::Term { .. } => self.claimed(),
            QueueEntry::Started { job, .. } => self.begin(job, false),
            QueueEntry::Stopped { job, now } => self.stop_run(job, *now),
            QueueEntry::Drained { worker } => self.let_go(worker),
            QueueEntry::Ended { job, .. } | QueueEntry::Returned { job, .. } => {
                self.runs.remove(job);
            }
            _ => {}
        }
        self.effects.push(Effect::Emit(entry));
    }

    /// The claim is in the log: this coordinator rules, and goes on with the jobs that ran.
    fn claimed(&mut self) {
        self.state.term = self.term;
        self.phase = Phase::Ruling;
        self.claimed_at = self.now;
        let running = self.state.jobs.iter();
        let running = running.filter(|job| job.state == State::Running);
        let running: Vec<(String, Option<bool>)> = running
            .map(|job| (job.submission.job.clone(), job.stop))
            .collect();
        self.inherited = !running.is_empty();
        for (job, stop) in running {
            self.begin(&job, true);
            if let Some(now) = stop {
                self.stop_run(&job, now);
            }
        }
    }

    fn log_failed(&mut self, message: &str) {
        self.log.failed(self.now);
        if !std::mem::replace(&mut self.log_failure_reported, true) {
            self.effects.push(Effect::Warn(format!(
                "the queue's log cannot be written and is tried again: {message}"
            )));
        }
    }

    fn deposed(&mut self) {
        self.phase = Phase::Ended;
        self.effects.push(Effect::Deposed(format!(
            "another coordinator rules the queue: it wrote position {} of the queue's log first; this one steps down",
            self.log.position()
        )));
    }
}
