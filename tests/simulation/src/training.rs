//! The training of a worker: it obeys the contract of [`Command`] and [`Report`], and computes hashes.

use perennial_plan::Cursor;
use perennial_proto::rules::{checkpoint_due, control, part_kinds, part_writer};
use perennial_proto::v1::{
    CaughtUp, CheckpointFailed, EpochDone, Finished, FollowFailed, Lost, PartWritten, Standing,
    StepDone,
};
use perennial_session::{Assignment, Command, Report, Source};
use std::ops::Range;

use crate::job::{Job, Replica};
use crate::mesh::{Contribution, Reduced, Subject};
use crate::queue::{Happening, MILLISECOND, Process, SECOND, Time, WorkerId};
use crate::world::World;

/// Silence after which a copy is given up.
const COPY_SILENCE: Time = 5 * SECOND;
const POLL: Time = 60 * MILLISECOND;

/// Something that takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    Prepare,
    Load,
    Copy,
    Poll,
    Compute,
    Evaluate,
}

/// A member of a generation that has not ended for it.
struct Member {
    assignment: Assignment,
    flags: u64,
    round: u64,
    /// Of the step at hand.
    began: Time,
    computed: Time,
    /// What the last sum's flags ask for once the evaluation is done.
    raised: u64,
    connected: bool,
}

// === impl Member ===

impl Member {
    fn slots(&self) -> Range<u32> {
        let Assignment {
            generation, rank, ..
        } = &self.assignment;
        generation.members[*rank].slots.clone()
    }
}

struct Follow {
    source: Source,
    /// What the source has sent and this worker has not taken in.
    under_way: Option<Replica>,
    caught_up: bool,
    heard: Time,
}

#[derive(Default)]
pub struct Training {
    /// None: it is that of no cursor.
    pub replica: Option<Replica>,
    /// Rises when what was begun is dropped.
    token: u64,
    member: Option<Member>,
    follow: Option<Follow>,
    copy_heard: Time,
}

impl Training {
    /// The generation in which it is at work.
    pub fn generation(&self) -> Option<u64> {
        self.member
            .as_ref()
            .map(|member| member.assignment.generation.id)
    }
}

impl World {
    fn training(&mut self, worker: WorkerId) -> &mut Training {
        &mut self.workers[worker].training
    }

    fn start_task(&mut self, worker: WorkerId, task: Task, takes: Time) {
        let token = self.training(worker).token;
        self.queue
            .push(self.now + takes, Happening::Done(worker, token, task));
    }

    fn drop_tasks(&mut self, worker: WorkerId) {
        let training = self.training(worker);
        training.token += 1;
        training.follow = None;
    }

    pub fn told(&mut self, worker: WorkerId, command: Command) {
        match command {
            Command::Prepare { .. } => {
                let takes = self.chance.seconds(0.1, 1.5);
                self.start_task(worker, Task::Prepare, takes);
            }
            Command::Train(assignment) => self.train(worker, *assignment),
            Command::Follow(source) => {
                self.drop_tasks(worker);
                self.training(worker).replica = None;
                let heard = self.now;
                self.training(worker).follow = Some(Follow {
                    source,
                    under_way: None,
                    caught_up: false,
                    heard,
                });
                let takes = self.chance.seconds(0.2, 2.0);
                self.start_task(worker, Task::Poll, takes);
            }
            Command::Break { generation } => {
                if self.workers[worker].training.generation() == Some(generation) {
                    self.halt(worker, Vec::new());
                }
            }
            Command::Raise { generation, flags } => {
                if let Some(member) = &mut self.training(worker).member
                    && member.assignment.generation.id == generation
                {
                    member.flags |= flags;
                }
            }
            // There is no pool here.
            Command::Exit(end) | Command::Return { end, .. } => self.worker_exits(worker, end),
        }
    }

    pub fn done(&mut self, worker: WorkerId, token: u64, task: Task) {
        if self.workers[worker].training.token != token {
            return;
        }
        match task {
            Task::Prepare => {
                let name = self.workers[worker].incarnation;
                let ready = self
                    .job
                    .ready(format!("sum-{name}"), format!("replica-{worker}"));
                self.report(worker, Report::Ready(ready));
            }
            Task::Load => self.load(worker),
            Task::Copy => self.copy(worker),
            Task::Poll => self.poll(worker),
            Task::Compute => self.contribute_step(worker),
            Task::Evaluate => self.contribute_evaluation(worker),
        }
    }

    // --- becoming a member --------------------------------------------------------------------------

    fn train(&mut self, worker: WorkerId, assignment: Assignment) {
        self.drop_tasks(worker);
        if self.workers[worker].training.member.is_some() {
            return self.violated(
                "contract",
                format!("worker process {worker} is told to train while it trains"),
            );
        }
        let start = assignment.generation.start;
        let checkpoint = assignment.generation.checkpoint;
        let source = assignment.source.clone();
        let began = self.now;
        self.training(worker).member = Some(Member {
            assignment,
            flags: 0,
            round: 0,
            began,
            computed: 0,
            raised: 0,
            connected: false,
        });
        match (source, checkpoint) {
            (None, None) => {
                if start != Cursor::default() {
                    return self.violated(
                        "EX-2",
                        format!("a generation begins at {start} without a replica"),
                    );
                }
                let initial = self.job.initial();
                self.training(worker).replica = Some(initial);
                self.connect(worker);
            }
            (None, Some(_)) => {
                self.training(worker).replica = None;
                let takes = self.chance.seconds(0.1, 1.5);
                self.start_task(worker, Task::Load, takes);
            }
            (Some(source), _) => {
                let own = self.workers[worker].training.replica.as_ref();
                if own.is_some_and(|own| own.cursor == start) {
                    if own.map(|own| own.hash) != Some(source.replica_hash) {
                        let message = format!("the replica at {start} is not that of its source");
                        return self.violated("REP-1", message);
                    }
                    return self.connect(worker);
                }
                let near = own.is_some_and(|own| own.cursor < start);
                // A few steps are taken over as they are; else everything is written over.
                if !(near && self.chance.happens(0.5)) {
                    self.training(worker).replica = None;
                }
                self.training(worker).copy_heard = self.now;
                let takes = if near {
                    self.chance.milliseconds(10, 200)
                } else {
                    self.chance.seconds(0.2, 2.0)
                };
                self.start_task(worker, Task::Copy, takes);
            }
        }
    }

    fn load(&mut self, worker: WorkerId) {
        let Some(member) = &self.workers[worker].training.member else {
            return;
        };
        let step = member.assignment.generation.checkpoint.unwrap_or(0);
        let start = member.assignment.generation.start;
        let generation = member.assignment.generation.id;
        if self.now < self.store.outage_until {
            return self.start_task(worker, Task::Load, SECOND);
        }
        match self.store.load(step) {
            Some(replica) => {
                if replica.cursor != start {
                    let message = format!("checkpoint {step} is not of {start}");
                    return self.violated("CK-1", message);
                }
                self.training(worker).replica = Some(replica);
                self.check_replica(worker);
                self.connect(worker);
            }
            // It slept through its generation.
            None if self.watch.is_over(generation) => self.halt(worker, Vec::new()),
            None => {
                let message =
                    format!("checkpoint {step} is gone though generation {generation} needs it");
                self.violated("CK-2", message);
            }
        }
    }

    /// The process behind an address at which replicas are handed out.
    fn at_address(&self, address: &str) -> Option<WorkerId> {
        address.strip_prefix("replica-")?.parse().ok()
    }

    fn copy(&mut self, worker: WorkerId) {
        let Some(member) = &self.workers[worker].training.member else {
            return;
        };
        let Some(source) = member.assignment.source.clone() else {
            return;
        };
        let start = member.assignment.generation.start;
        let lost = |silent| {
            vec![Lost {
                worker: source.worker.clone(),
                silent,
            }]
        };
        let from = self.at_address(&source.address);
        let Some(from) = from.filter(|from| self.workers[*from].alive) else {
            return self.halt(worker, lost(false));
        };
        let (there, here) = (Process::Worker(from), Process::Worker(worker));
        if !(self.reaches(there, here) && self.reaches(here, there)) {
            if self.now - self.workers[worker].training.copy_heard > COPY_SILENCE {
                return self.halt(worker, lost(true));
            }
            return self.start_task(worker, Task::Copy, 200 * MILLISECOND);
        }
        match self.workers[from].training.replica.clone() {
            Some(replica) if replica.cursor == start => {
                if replica.hash != source.replica_hash {
                    return self
                        .violated("REP-1", format!("the source at {start} has another hash"));
                }
                self.training(worker).replica = Some(replica);
                self.check_replica(worker);
                self.connect(worker);
            }
            // It will not have it again.
            _ => self.halt(worker, lost(false)),
        }
    }

    fn connect(&mut self, worker: WorkerId) {
        let Some(member) = &self.workers[worker].training.member else {
            return;
        };
        let (generation, rank) = (member.assignment.generation.clone(), member.assignment.rank);
        self.mesh_connect(&generation, rank);
    }

    pub fn mesh_connected(&mut self, worker: WorkerId, generation: u64) {
        let now = self.now;
        let Some(member) = &mut self.training(worker).member else {
            return;
        };
        if member.assignment.generation.id != generation || member.connected {
            return;
        }
        member.connected = true;
        member.began = now;
        if member.assignment.evaluate {
            let takes = self.chance.milliseconds(50, 600);
            return self.start_task(worker, Task::Evaluate, takes);
        }
        self.after_start(worker);
    }

    fn after_start(&mut self, worker: WorkerId) {
        let Some(member) = &self.workers[worker].training.member else {
            return;
        };
        let (checkpoint, finish) = (member.assignment.checkpoint, member.assignment.finish);
        let start = member.assignment.generation.start;
        if checkpoint {
            self.write_parts(worker);
        }
        let over = start.epoch >= self.job.spec.train.epochs;
        if finish || over {
            return self.finish(worker);
        }
        self.compute(worker);
    }

    // --- following ----------------------------------------------------------------------------------

    fn poll(&mut self, worker: WorkerId) {
        let now = self.now;
        let Some(follow) = &self.workers[worker].training.follow else {
            return;
        };
        let source = follow.source.clone();
        let heard = follow.heard;
        let failed = |message: &str| {
            Report::FollowFailed(FollowFailed {
                source: source.worker.clone(),
                message: message.into(),
            })
        };
        let from = self
            .at_address(&source.address)
            .filter(|from| self.workers[*from].alive);
        let (there, here) = (from.map(Process::Worker), Process::Worker(worker));
        let open =
            there.is_some_and(|there| self.reaches(there, here) && self.reaches(here, there));
        let theirs = from.and_then(|from| self.workers[from].training.replica.clone());
        let gone = from.is_none() || (open && theirs.is_none());
        if gone || (!open && now - heard > COPY_SILENCE) {
            self.drop_tasks(worker);
            let why = if gone { "it closed" } else { "it is silent" };
            return self.report(worker, failed(why));
        }
        if open && let Some(theirs) = theirs {
            let Some(follow) = &mut self.training(worker).follow else {
                return;
            };
            follow.heard = now;
            let arrived = follow.under_way.replace(theirs.clone());
            if let Some(arrived) = arrived {
                let same = arrived.cursor == theirs.cursor;
                let first = same && !follow.caught_up;
                follow.caught_up |= same;
                let (cursor, hash) = (arrived.cursor, arrived.hash);
                self.training(worker).replica = Some(arrived);
                self.check_replica(worker);
                if first {
                    let caught_up = CaughtUp {
                        global_step: self.job.global_step(cursor),
                        replica_hash: hash,
                    };
                    self.report(worker, Report::CaughtUp(caught_up));
                }
            }
        }
        self.start_task(worker, Task::Poll, POLL);
    }

    // --- steps --------------------------------------------------------------------------------------

    fn compute(&mut self, worker: WorkerId) {
        let now = self.now;
        let Some(member) = &mut self.training(worker).member else {
            return;
        };
        member.began = now;
        let slots = member.slots().len() as f64;
        let speed = self.workers[worker].speed;
        let takes = self.chance.seconds(0.2, 0.4);
        let takes = takes + (slots * self.chance.uniform(0.2, 0.3) / speed * SECOND as f64) as Time;
        if let Some(member) = &mut self.training(worker).member {
            member.computed = takes;
        }
        self.start_task(worker, Task::Compute, takes);
    }

    fn contribute_step(&mut self, worker: WorkerId) {
        let Some(cursor) = self.cursor(worker) else {
            return;
        };
        let Some(member) = &self.workers[worker].training.member else {
            return;
        };
        let slots = member.slots();
        let given = Contribution {
            subject: Subject::Step(cursor),
            flags: member.flags,
            gradients: slots.map(|slot| self.job.gradient(cursor, slot)).collect(),
            samples: 0,
        };
        self.contribute(worker, given);
    }

    fn contribute_evaluation(&mut self, worker: WorkerId) {
        let Some(cursor) = self.cursor(worker) else {
            return;
        };
        let Some(member) = &self.workers[worker].training.member else {
            return;
        };
        let slots = member.slots();
        let given = Contribution {
            subject: Subject::Evaluation(cursor),
            flags: 0,
            gradients: Vec::new(),
            samples: self.job.validation_samples(slots),
        };
        self.contribute(worker, given);
    }

    fn contribute(&mut self, worker: WorkerId, given: Contribution) {
        let Some(member) = &mut self.training(worker).member else {
            return;
        };
        let (id, rank, round) = (
            member.assignment.generation.id,
            member.assignment.rank,
            member.round,
        );
        self.mesh_contribute(id, rank, round, given);
    }

    pub fn cursor(&self, worker: WorkerId) -> Option<Cursor> {
        Some(self.workers[worker].training.replica.as_ref()?.cursor)
    }

    pub fn mesh_result(&mut self, worker: WorkerId, generation: u64, reduced: &Reduced) {
        let Some(member) = &mut self.training(worker).member else {
            return;
        };
        if member.assignment.generation.id != generation || member.round != reduced.round {
            return;
        }
        member.round += 1;
        if reduced.gradients.is_empty() {
            self.evaluated(worker, reduced.samples);
        } else {
            self.apply(worker, reduced);
        }
    }

    fn apply(&mut self, worker: WorkerId, reduced: &Reduced) {
        let now = self.now;
        let Some(before) = self.workers[worker].training.replica.clone() else {
            return;
        };
        let after = self.job.apply(&before, &reduced.gradients);
        let Some(member) = &mut self.training(worker).member else {
            return;
        };
        let generation = member.assignment.generation.id;
        let samples = reduced
            .gradients
            .iter()
            .map(|gradient| gradient.samples.len() as u64)
            .sum();
        let done = StepDone {
            generation,
            seconds: (now - member.began) as f64 / SECOND as f64,
            compute_seconds: member.computed as f64 / SECOND as f64,
            ..StepDone::default()
        };
        member.raised = reduced.flags;
        let cursor = after.cursor;
        let done = StepDone {
            generation: done.generation,
            seconds: done.seconds,
            compute_seconds: done.compute_seconds,
            ..self.job.step_done(before.cursor, samples, after.hash)
        };
        self.training(worker).replica = Some(after);
        self.check_replica(worker);
        self.saw_step(worker, generation, before.cursor);
        self.report(worker, Report::StepDone(done));
        if cursor.step == 0 {
            let takes = self.chance.milliseconds(50, 600);
            return self.start_task(worker, Task::Evaluate, takes);
        }
        self.boundary(worker);
    }

    fn evaluated(&mut self, worker: WorkerId, samples: u64) {
        let Some(replica) = &self.workers[worker].training.replica else {
            return;
        };
        let Some(member) = &self.workers[worker].training.member else {
            return;
        };
        let generation = &member.assignment.generation;
        let at_start = replica.cursor == generation.start;
        let done = EpochDone {
            generation: generation.id,
            epoch: replica.cursor.epoch - 1,
            evaluation_json: self.job.evaluation(replica.hash, samples),
        };
        self.report(worker, Report::EpochDone(done));
        if at_start {
            self.after_start(worker);
        } else {
            self.boundary(worker);
        }
    }

    /// Between two steps.
    fn boundary(&mut self, worker: WorkerId) {
        let Some(cursor) = self.cursor(worker) else {
            return;
        };
        let Some(member) = &self.workers[worker].training.member else {
            return;
        };
        let raised = member.raised;
        let due = checkpoint_due(&self.job.spec, cursor, self.job.steps_per_epoch);
        if due || raised & (control::STOP | control::CHECKPOINT) != 0 {
            self.write_parts(worker);
        }
        if cursor.epoch >= self.job.spec.train.epochs || raised & control::STOP != 0 {
            self.finish(worker);
        } else if raised & control::REGROUP != 0 {
            self.leave(worker, true);
            self.say_halted(worker, Vec::new());
        } else {
            self.compute(worker);
        }
    }

    // --- leaving ------------------------------------------------------------------------------------

    fn leave(&mut self, worker: WorkerId, done: bool) {
        self.drop_tasks(worker);
        if let Some(generation) = self.workers[worker].training.generation() {
            self.mesh_leave(worker, generation, done);
        }
    }

    fn finish(&mut self, worker: WorkerId) {
        self.leave(worker, true);
        let Some(replica) = self.workers[worker].training.replica.clone() else {
            return;
        };
        let Some(member) = self.training(worker).member.take() else {
            return;
        };
        let finished = Finished {
            generation: member.assignment.generation.id,
            epoch: replica.cursor.epoch,
            step: replica.cursor.step,
            stopped_early: replica.cursor.epoch < self.job.spec.train.epochs,
            replica_hash: replica.hash,
        };
        self.report(worker, Report::Finished(finished));
    }

    /// The generation broke for this member.
    fn halt(&mut self, worker: WorkerId, lost: Vec<Lost>) {
        self.leave(worker, false);
        self.say_halted(worker, lost);
    }

    fn say_halted(&mut self, worker: WorkerId, lost: Vec<Lost>) {
        let Some(member) = self.training(worker).member.take() else {
            return;
        };
        let generation = &member.assignment.generation;
        let (cursor, hash, empty) = match &self.workers[worker].training.replica {
            Some(replica) => (replica.cursor, replica.hash, false),
            None => (generation.start, 0, true),
        };
        let standing = Standing {
            generation: generation.id,
            epoch: cursor.epoch,
            step: cursor.step,
            replica_hash: hash,
            halted: true,
            lost,
            empty,
        };
        self.report(worker, Report::Halted(standing));
    }

    pub fn mesh_lost(&mut self, worker: WorkerId, generation: u64, rank: usize, silent: bool) {
        let Some(member) = &self.workers[worker].training.member else {
            return;
        };
        if member.assignment.generation.id != generation {
            return;
        }
        let lost = Lost {
            worker: member.assignment.generation.members[rank].worker.clone(),
            silent,
        };
        self.halt(worker, vec![lost]);
    }

    // --- checkpoints --------------------------------------------------------------------------------

    fn write_parts(&mut self, worker: WorkerId) {
        let Some(replica) = self.workers[worker].training.replica.clone() else {
            return;
        };
        let Some(member) = &self.workers[worker].training.member else {
            return;
        };
        let generation = member.assignment.generation.id;
        let (rank, size) = (
            member.assignment.rank,
            member.assignment.generation.members.len(),
        );
        for (index, kind) in part_kinds(&self.job.spec).iter().enumerate() {
            if part_writer(index, size) != rank {
                continue;
            }
            let at = self.now + self.chance.seconds(0.05, 1.2);
            let replica = Box::new(replica.clone());
            self.queue.push(
                at,
                Happening::PartTaken {
                    worker,
                    generation,
                    kind,
                    replica,
                },
            );
        }
    }

    /// A part comes to the store; the process that wrote it hears of it if it is there.
    pub fn part_taken(
        &mut self,
        worker: WorkerId,
        generation: u64,
        kind: &'static str,
        replica: &Replica,
    ) {
        let global_step = self.job.global_step(replica.cursor);
        let fails =
            self.now < self.store.outage_until || self.chance.happens(0.02 * self.roughness());
        if !self.workers[worker].alive && self.chance.happens(0.5) {
            return;
        }
        if fails {
            let failed = CheckpointFailed {
                generation,
                global_step,
                message: "503 slow down".into(),
            };
            return self.report(worker, Report::CheckpointFailed(failed));
        }
        let path = format!("checkpoints/{global_step:012}/{kind}-{generation}-{worker}");
        self.store.write_part(path.clone(), kind, replica.clone());
        let part = PartWritten {
            generation,
            global_step,
            kind: kind.into(),
            path,
            bytes: 1000,
            sha256: format!("file-{kind}-{:016x}", replica.hash),
            tensors_sha256: Job::tensors(kind, replica.hash),
        };
        self.report(worker, Report::PartWritten(part));
    }
}
