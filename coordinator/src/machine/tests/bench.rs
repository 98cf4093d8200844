//! A coordinator with a log that keeps what it is given, and made-up workers.

use std::time::Duration;

use perennial_plan::{Cursor, Generation};
use perennial_proto::rules::{part_kinds, part_writer};
use perennial_proto::v1::coordinator_message::Kind;
use perennial_proto::v1::{self, Hello, Start, WorkerMessage};

use super::facts::{
    STEPS, config, cursor, epoch, finished, halted, hello, part, ready, spec, step, unoccupied,
};
use crate::JobEvent;
use crate::log::{LogEntry, LogRecord};
use crate::machine::{Config, ConnectionId, Effect, Event, Machine, Outcome, ResumePoint};

pub struct Bench {
    pub machine: Machine,
    pub now: Duration,
    /// Everything that was asked of the shell so far, but for the log.
    pub effects: Vec<Effect>,
    pub log: Vec<LogRecord>,
    /// The entry asked for while the log does not answer.
    pub held: Option<LogRecord>,
    pub log_answers: bool,
    /// The checkpoint that is there once the claim is in the log.
    pub found: Option<ResumePoint>,
    /// Workers whose connections are open.
    connected: Vec<ConnectionId>,
}

// === impl Bench ===

impl Bench {
    pub fn new(config: Config) -> Self {
        let mut bench = Self::waiting_for_the_log(config);
        bench.release_the_log();
        bench
    }

    /// Its claim is not in the log yet.
    pub fn waiting_for_the_log(config: Config) -> Self {
        let log = config.log.clone();
        let (machine, effects) = Machine::new(config, Duration::ZERO).unwrap();
        let mut bench = Self {
            machine,
            now: Duration::ZERO,
            effects: Vec::new(),
            log,
            held: None,
            log_answers: false,
            found: None,
            connected: Vec::new(),
        };
        bench.carry_out(effects);
        bench
    }

    /// So many workers are members of generation 1.
    pub fn running(workers: u64) -> Self {
        Self::running_with(config(workers as u32), workers)
    }

    pub fn running_with(config: Config, workers: u64) -> Self {
        let mut bench = Self::new(config);
        (1..=workers).for_each(|worker| bench.join(worker));
        assert!(bench.start(1).is_some(), "{:?}", bench.machine.status());
        bench
    }

    /// A coordinator that takes over with the log of this one.
    pub fn successor(&self) -> Self {
        Self::new(Config {
            log: self.log.clone(),
            writer: "second".into(),
            ..config(2)
        })
    }

    pub fn event(&mut self, event: Event) {
        let effects = self.machine.handle(self.now, event);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut appended = None;
        for effect in effects {
            match effect {
                Effect::AppendLog { position, record } if self.log_answers => {
                    assert_eq!(position, self.log.len() as u64);
                    appended = Some(*record);
                }
                Effect::AppendLog { record, .. } => self.held = Some(*record),
                Effect::Close(connection) => {
                    self.connected.retain(|other| *other != connection);
                    self.effects.push(effect);
                }
                effect => self.effects.push(effect),
            }
        }
        appended.into_iter().for_each(|record| self.append(record));
    }

    fn append(&mut self, record: LogRecord) {
        let event = match record.entry {
            LogEntry::Term { .. } => Event::Claimed(self.found.clone().map(Box::new)),
            _ => Event::LogAppended,
        };
        self.log.push(record);
        self.event(event);
    }

    /// The log answers again.
    pub fn release_the_log(&mut self) {
        self.log_answers = true;
        self.held
            .take()
            .into_iter()
            .for_each(|record| self.append(record));
    }

    // --- workers ------------------------------------------------------------------------------------

    pub fn greet(&mut self, worker: ConnectionId, hello: Hello) {
        self.connected.push(worker);
        self.event(Event::Connected(worker));
        self.say(worker, hello);
    }

    /// A new worker comes and is ready.
    pub fn join(&mut self, worker: ConnectionId) {
        self.greet(worker, hello(worker));
        self.say(worker, ready(worker));
        self.say(worker, unoccupied(0));
    }

    /// A process comes back on another connection, `connection`, and has yet to say where it stands.
    pub fn come_back(&mut self, process: u64, connection: ConnectionId) {
        let hello = Hello {
            worker: format!("w{process}"),
            incarnation: process,
            ..hello(connection)
        };
        self.greet(connection, hello);
        self.say(connection, ready(process));
    }

    pub fn lose(&mut self, worker: ConnectionId) {
        self.connected.retain(|other| *other != worker);
        self.event(Event::Disconnected(worker, "reset".into()));
    }

    pub fn say(&mut self, worker: ConnectionId, message: impl Into<WorkerMessage>) {
        let term = self.machine.term();
        self.say_in(term, worker, message);
    }

    pub fn say_in(&mut self, term: u64, worker: ConnectionId, message: impl Into<WorkerMessage>) {
        let message = WorkerMessage {
            term,
            ..message.into()
        };
        self.event(Event::Message(worker, message));
    }

    /// Time passes, in which all that are connected but `silent` give signs of life.
    pub fn pass(&mut self, seconds: f64, silent: &[ConnectionId]) {
        let until = self.now + Duration::from_secs_f64(seconds);
        while self.now < until {
            self.now = (self.now + Duration::from_millis(250)).min(until);
            for worker in self.connected.clone() {
                if !silent.contains(&worker) {
                    self.say(worker, v1::Heartbeat {});
                }
            }
            self.event(Event::Tick);
        }
    }

    /// The members of the newest generation take the step.
    pub fn step(&mut self, at: Cursor) {
        let generation = self.generation();
        for member in &generation.members {
            self.say(member.incarnation, step(generation.id, at));
        }
    }

    /// They take all steps of the epoch and evaluate it.
    pub fn epoch(&mut self, number: u32) {
        (0..STEPS).for_each(|number_of_step| self.step(cursor(number, number_of_step)));
        let generation = self.generation();
        let first = generation.members[0].incarnation;
        self.say(first, epoch(generation.id, number));
    }

    /// They write the parts of a checkpoint.
    pub fn parts(&mut self, global_step: u64) {
        let generation = self.generation();
        for (index, kind) in part_kinds(&spec()).iter().enumerate() {
            let writer = &generation.members[part_writer(index, generation.members.len())];
            self.say(writer.incarnation, part(generation.id, global_step, kind));
        }
    }

    /// A whole epoch with its checkpoint.
    pub fn epoch_with_checkpoint(&mut self, number: u32) {
        self.epoch(number);
        let global_step = u64::from((number + 1) * STEPS);
        self.parts(global_step);
        self.event(Event::CheckpointCommitted { global_step });
    }

    pub fn halt(&mut self, at: Cursor) {
        let generation = self.generation();
        for member in &generation.members {
            self.say(member.incarnation, halted(generation.id, at));
        }
    }

    pub fn finish(&mut self, at: Cursor) {
        let generation = self.generation();
        for member in &generation.members {
            self.say(member.incarnation, finished(generation.id, at));
        }
    }

    // --- what came of it ----------------------------------------------------------------------------

    /// The newest in the log.
    pub fn generation(&self) -> Generation {
        let newest = self
            .log
            .iter()
            .rev()
            .find_map(|record| match &record.entry {
                LogEntry::Generation { generation, .. } => Some(generation.clone()),
                _ => None,
            });
        newest.expect("the log has a generation")
    }

    /// The names of its members.
    pub fn members(&self) -> Vec<String> {
        let members = self.generation().members;
        members.into_iter().map(|member| member.worker).collect()
    }

    /// Steps in the log, the ones that count.
    pub fn logged(&self) -> usize {
        let steps = self.log.iter().map(|record| match &record.entry {
            LogEntry::Steps { steps } => steps.len(),
            _ => 0,
        });
        steps.sum()
    }

    pub fn warnings(&self) -> Vec<&str> {
        let warning = |effect| match effect {
            &Effect::Emit(JobEvent::Warning { ref message }) => Some(message.as_str()),
            _ => None,
        };
        self.effects.iter().filter_map(warning).collect()
    }

    pub fn waiting(&self) -> Vec<&str> {
        let reason = |effect| match effect {
            &Effect::Emit(JobEvent::Waiting { ref reason }) => Some(reason.as_str()),
            _ => None,
        };
        self.effects.iter().filter_map(reason).collect()
    }

    /// What was sent to a worker, without heartbeats and acknowledgements.
    pub fn sent(&self, worker: ConnectionId) -> Vec<Kind> {
        let sent = |effect: &Effect| match effect {
            Effect::Send(to, message) if *to == worker => message.kind.clone(),
            _ => None,
        };
        let told = |kind: &Kind| !matches!(kind, Kind::Heartbeat(_) | Kind::Ack(_));
        self.effects.iter().filter_map(sent).filter(told).collect()
    }

    pub fn last_sent(&self, worker: ConnectionId) -> Option<Kind> {
        self.sent(worker).pop()
    }

    pub fn refusal(&self, worker: ConnectionId) -> v1::Refused {
        match self.last_sent(worker) {
            Some(Kind::Refused(refused)) => refused,
            other => panic!("worker {worker} was not refused: {other:?}"),
        }
    }

    /// The start that a worker was told last.
    pub fn start(&self, worker: ConnectionId) -> Option<Start> {
        self.sent(worker)
            .into_iter()
            .rev()
            .find_map(|kind| match kind {
                Kind::Start(start) => Some(start),
                _ => None,
            })
    }

    pub fn is_told_to_halt(&self, worker: ConnectionId) -> bool {
        matches!(self.last_sent(worker), Some(Kind::Halt(_)))
    }

    pub fn is_let_go(&self, worker: ConnectionId) -> bool {
        let released = |kind: &Kind| matches!(kind, Kind::Release(_));
        self.sent(worker).iter().any(released)
    }

    pub fn commits(&self) -> Vec<u64> {
        let step = |effect: &Effect| match effect {
            Effect::CommitCheckpoint(commit) => Some(commit.global_step),
            _ => None,
        };
        self.effects.iter().filter_map(step).collect()
    }

    pub fn reports(&self) -> usize {
        let report = |effect: &&Effect| matches!(effect, Effect::WriteReport(_));
        self.effects.iter().filter(report).count()
    }

    pub fn outcome(&self) -> Option<&Outcome> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::End(outcome) => Some(outcome),
            _ => None,
        })
    }

    pub fn failure(&self) -> &str {
        match self.outcome() {
            Some(Outcome::Failed { message }) => message,
            other => panic!("the run has not failed: {other:?}"),
        }
    }
}
