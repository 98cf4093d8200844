//! A coordinator with made-up workers: 25 samples in batches of 10, so three steps an epoch.

use std::time::Duration;

use perennial_plan::{Cursor, Generation, Spec};
use perennial_proto::rules::{part_kinds, part_writer};
use perennial_proto::v1::{
    CoordinatorMessage, EpochDone, Finished, Hello, PartWritten, Ready, StepDone, WorkerMessage,
    coordinator_message,
};
use perennial_report::Evaluation;

use crate::JobEvent;
use crate::machine::{Config, ConnectionId, Effect, Evaluations, Event, Machine, Outcome};

pub const STEPS: u32 = 3;
pub const EPOCHS: u32 = 2;
pub const GENERATION: u64 = 1;

pub struct Bench {
    pub machine: Machine,
    pub now: Duration,
    pub effects: Vec<Effect>,
    workers: u32,
}

pub fn spec() -> Spec {
    let mut spec = Spec {
        name: "seedlings".into(),
        ..Spec::default()
    };
    spec.data.dir = "seedlings".into();
    spec.train.epochs = EPOCHS;
    spec.train.batch_size = 10;
    spec
}

pub fn config(workers: u32) -> Config {
    Config {
        spec: spec(),
        expected_workers: workers,
        version: "1.0.0".into(),
        store_url: "store".into(),
        resume: None,
        generation: GENERATION,
        writer: "coordinator".into(),
        log_position: 0,
        resume_command: "perennial train --resume".into(),
    }
}

pub fn hello() -> Hello {
    Hello {
        version: "1.0.0".into(),
        numerics: "cpu".into(),
        threads: 2,
    }
}

pub fn ready() -> Ready {
    Ready {
        data_fingerprint: "abc".into(),
        train_samples: 25,
        val_samples: 8,
        classes: vec!["a".into(), "b".into()],
        skipped: 1,
        parameters: 100,
        collective_address: "host:1".into(),
    }
}

pub fn step(cursor: Cursor) -> StepDone {
    let samples = if cursor.step == STEPS - 1 { 5 } else { 10 };
    StepDone {
        generation: GENERATION,
        epoch: cursor.epoch,
        step: cursor.step,
        samples,
        loss_sum: samples as f64 * 0.5,
        top1: samples / 5,
        top5: samples,
        learning_rate: 0.1,
        grad_norm: 1.0,
        replica_hash: 1000 + cursor.global_step(STEPS),
        seconds: 0.5,
    }
}

pub fn evaluations(samples: u64) -> Evaluations {
    let raw = Evaluation {
        samples,
        loss: 0.7,
        top1: 0.5,
        top5: 1.0,
        k: 2,
        confusion: vec![vec![samples / 2, 0], vec![samples - samples / 2, 0]],
        mistakes: Vec::new(),
    };
    Evaluations {
        ema: Some(Evaluation {
            top1: 0.75,
            ..raw.clone()
        }),
        raw,
    }
}

pub fn epoch(epoch: u32) -> EpochDone {
    EpochDone {
        generation: GENERATION,
        epoch,
        evaluation_json: serde_json::to_vec(&evaluations(8)).unwrap(),
    }
}

pub fn part(global_step: u64, kind: &str) -> PartWritten {
    PartWritten {
        generation: GENERATION,
        global_step,
        kind: kind.into(),
        path: format!("checkpoints/{global_step}/{kind}.safetensors"),
        bytes: 10,
        sha256: format!("file {kind} {global_step}"),
        tensors_sha256: format!("{kind} {global_step}"),
    }
}

pub fn finished(cursor: Cursor, stopped_early: bool) -> Finished {
    Finished {
        generation: GENERATION,
        epoch: cursor.epoch,
        step: cursor.step,
        stopped_early,
    }
}

pub fn cursor(epoch: u32, step: u32) -> Cursor {
    Cursor { epoch, step }
}

// === impl Bench ===

impl Bench {
    pub fn new(config: Config) -> Self {
        Self {
            workers: config.expected_workers,
            machine: Machine::new(config, Duration::ZERO),
            now: Duration::ZERO,
            effects: Vec::new(),
        }
    }

    /// All workers are welcomed, ready, and the generation has started.
    pub fn running(config: Config) -> Self {
        let mut bench = Self::starting(config);
        bench.event(Event::LogAppended);
        bench
    }

    /// The generation's log entry is being written.
    pub fn starting(config: Config) -> Self {
        let mut bench = Self::welcomed(config);
        for worker in bench.all() {
            bench.say(worker, ready());
        }
        bench
    }

    pub fn welcomed(config: Config) -> Self {
        let mut bench = Self::new(config);
        for worker in bench.all() {
            bench.greet(worker, hello());
        }
        bench
    }

    pub fn all(&self) -> std::ops::RangeInclusive<ConnectionId> {
        1..=u64::from(self.workers)
    }

    pub fn greet(&mut self, worker: ConnectionId, hello: Hello) {
        self.event(Event::Connected(worker));
        self.say(worker, hello);
    }

    pub fn event(&mut self, event: Event) {
        let effects = self.machine.handle(self.now, event);
        self.effects.extend(effects);
    }

    pub fn say(&mut self, worker: ConnectionId, message: impl Into<WorkerMessage>) {
        self.event(Event::Message(worker, message.into()));
    }

    /// Lets time pass until `now`, in which all but `silent` workers give signs of life.
    pub fn pass_until(&mut self, seconds: f64, silent: &[ConnectionId]) {
        let until = Duration::from_secs_f64(seconds);
        while self.now < until {
            self.now = (self.now + Duration::from_millis(500)).min(until);
            for worker in self.all() {
                if !silent.contains(&worker) {
                    self.say(worker, perennial_proto::v1::Heartbeat {});
                }
            }
            self.event(Event::Tick);
        }
    }

    /// Every worker takes the step.
    pub fn step(&mut self, at: Cursor) {
        for worker in self.all() {
            self.say(worker, step(at));
        }
    }

    /// Every worker takes part in a whole epoch, its evaluation and its checkpoint.
    pub fn epoch(&mut self, number: u32) {
        for s in 0..STEPS {
            self.step(cursor(number, s));
        }
        self.say(1, epoch(number));
        self.parts(u64::from((number + 1) * STEPS));
    }

    /// Every part of a checkpoint is written.
    pub fn parts(&mut self, global_step: u64) {
        for (index, kind) in part_kinds(&spec()).iter().enumerate() {
            let writer = part_writer(index, self.workers as usize) as u64 + 1;
            self.say(writer, part(global_step, kind));
        }
    }

    pub fn commit(&mut self, global_step: u64) {
        self.event(Event::CheckpointCommitted { global_step });
    }

    pub fn finish(&mut self, at: Cursor, stopped_early: bool) {
        for worker in self.all() {
            self.say(worker, finished(at, stopped_early));
        }
    }

    pub fn events(&self) -> Vec<&JobEvent> {
        fn event(effect: &Effect) -> Option<&JobEvent> {
            match effect {
                Effect::Emit(event) => Some(event),
                _ => None,
            }
        }
        self.effects.iter().filter_map(event).collect()
    }

    pub fn warnings(&self) -> Vec<&str> {
        fn warning(event: &JobEvent) -> Option<&str> {
            match event {
                JobEvent::Warning { message } => Some(message),
                _ => None,
            }
        }
        self.events().into_iter().filter_map(warning).collect()
    }

    /// What was sent to a worker, without heartbeats.
    pub fn sent(&self, worker: ConnectionId) -> Vec<coordinator_message::Kind> {
        let sent = |effect: &Effect| match effect {
            Effect::Send(to, CoordinatorMessage { kind: Some(kind) }) if *to == worker => {
                Some(kind.clone())
            }
            _ => None,
        };
        let heartbeat = |kind: &coordinator_message::Kind| {
            matches!(kind, coordinator_message::Kind::Heartbeat(_))
        };
        self.effects
            .iter()
            .filter_map(sent)
            .filter(|kind| !heartbeat(kind))
            .collect()
    }

    pub fn refusal(&self, worker: ConnectionId) -> String {
        match self.sent(worker).last() {
            Some(coordinator_message::Kind::Refused(refused)) => refused.reason.clone(),
            other => panic!("worker {worker} was not refused: {other:?}"),
        }
    }

    /// The generation that a worker was told to start.
    pub fn started(&self, worker: ConnectionId) -> Option<Generation> {
        self.sent(worker).iter().find_map(|kind| match kind {
            coordinator_message::Kind::Start(start) => {
                Some(serde_json::from_str(&start.generation_json).unwrap())
            }
            _ => None,
        })
    }

    /// The error with which a worker was sent away; empty if all was well.
    pub fn end_of(&self, worker: ConnectionId) -> Option<String> {
        self.sent(worker).iter().find_map(|kind| match kind {
            coordinator_message::Kind::End(end) => Some(end.error.clone()),
            _ => None,
        })
    }

    pub fn commits(&self) -> Vec<u64> {
        let step = |effect: &Effect| match effect {
            Effect::CommitCheckpoint(commit) => Some(commit.global_step),
            _ => None,
        };
        self.effects.iter().filter_map(step).collect()
    }

    pub fn outcome(&self) -> Option<&Outcome> {
        self.effects.iter().find_map(|effect| match effect {
            Effect::End(outcome) => Some(outcome),
            _ => None,
        })
    }

    /// The sentence with which the run failed. All others were told the same at that moment.
    pub fn failure(&self) -> &str {
        match self.outcome() {
            Some(Outcome::Failed { message }) => {
                let last = self.events().pop().cloned();
                assert_eq!(
                    last,
                    Some(JobEvent::Error {
                        message: message.clone()
                    })
                );
                message
            }
            other => panic!("the run has not failed: {other:?}"),
        }
    }
}
