//! From one generation to the next.

use std::time::Duration;

use perennial_plan::invariants::Invariant;
use perennial_plan::{Candidate, Cursor, Generation};
use perennial_proto::rules::{LEASE, checkpoint_due};
use perennial_proto::v1;

use super::worker::{Place, Standing};
use super::{Failure, Machine, Phase, Regroup};
use crate::JobEvent;
use crate::log::LogEntry;

/// How long members of an earlier coordinator's generation may take to come back when none has yet...
const FIRST_RETURN: Duration = Duration::from_secs(2);
/// ... and the others when one has that is not at work: they knock several times a second.
const RETURN_TOGETHER: Duration = Duration::from_secs(1);
/// With enough workers but fewer than wanted, this long after the last one came the job begins.
const LAST_CALL: Duration = Duration::from_secs(10);
/// A member that lives but does not halt is given up after this time.
const HALT_PATIENCE: Duration = Duration::from_secs(60);
/// A checkpoint under way keeps those that want to leave for so long from writing another one.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(60);
/// How long a newcomer that has caught up waits for others that are about to.
const JOIN_TOGETHER: Duration = Duration::from_secs(2);
/// A worker that copies a replica for longer begins anew.
const FOLLOW_PATIENCE: Duration = Duration::from_secs(300);
/// Slots are dealt anew when a step then takes less than this share of its time...
const WORTH_IT: f64 = 0.85;
/// ... and so much time has passed since they were dealt.
const DEAL_AGAIN: Duration = Duration::from_secs(15);
/// How often that is looked at: with a thousand members it takes milliseconds.
const WEIGH_AGAIN: Duration = Duration::from_secs(1);

/// A generation on its way into the log, and what its members do first.
#[derive(Debug, Clone)]
pub(super) struct Proposal {
    generation: Generation,
    reason: String,
    evaluate: bool,
    checkpoint: bool,
    finish: bool,
    source: Option<v1::Source>,
}

/// What comes next while no generation is at work, and in words why.
enum Decision {
    Wait(String),
    /// With these workers, the oldest first.
    Go(Vec<usize>),
}

impl Machine {
    /// The claim is in the log: this coordinator rules.
    pub(super) fn claimed(&mut self) {
        self.claimed_at = self.now;
        self.last_ready = self.now;
        if self.data.is_some() {
            self.emit_job();
        }
        self.phase = if self.generation.is_some() {
            Phase::Running
        } else {
            Phase::Assembling
        };
        self.assembling_since = self.now;
    }

    /// Sees what follows from what is known now.
    pub(super) fn settle(&mut self) -> Result<(), Failure> {
        self.advance()?;
        match self.phase {
            Phase::Running => self.look_after_the_generation()?,
            Phase::Finishing => self.finish_or_try_again()?,
            _ => {}
        }
        if self.phase == Phase::Assembling {
            self.assemble()?;
        }
        Ok(())
    }

    fn look_after_the_generation(&mut self) -> Result<(), Failure> {
        if let Some(why) = self.is_anybody_gone() {
            self.break_up(why);
            return Ok(());
        }
        if self
            .members()
            .iter()
            .any(|index| self.workers[*index].connection.is_none())
        {
            // Not all are back; no change before that.
            return Ok(());
        }
        self.finish_if_all_have()?;
        if self.phase != Phase::Running {
            return Ok(());
        }
        let standing = |index: &usize| self.workers[*index].standing().is_some();
        if self.members().iter().all(standing) {
            let why = match &self.regroup {
                Some(regroup) => regroup.reason.clone(),
                None => "all members halted".to_string(),
            };
            self.break_up(why);
            return Ok(());
        }
        if self.stop_requested {
            return Ok(());
        }
        self.call_followers();
        self.regroup_if_worth_it();
        Ok(())
    }

    /// Why the generation cannot go on, if so.
    fn is_anybody_gone(&self) -> Option<String> {
        let members = self.members();
        let nobody_back = members
            .iter()
            .all(|index| self.workers[*index].connection.is_none());
        let patience = if nobody_back { FIRST_RETURN } else { LEASE };
        let waited = self.now - self.claimed_at >= patience;
        let gone = members.into_iter().find(|index| {
            let worker = &self.workers[*index];
            worker.connection.is_none() && (waited || !worker.awaited)
        })?;
        let worker = &self.workers[gone];
        let why = if worker.awaited {
            "did not come back"
        } else {
            "is gone"
        };
        Some(format!("worker `{}` {why}", worker.name))
    }

    /// No generation is at work from now on; whoever still is halts.
    pub(super) fn break_up(&mut self, why: String) {
        self.phase = Phase::Assembling;
        self.assembling_since = self.now;
        self.assembling_why = why;
        self.waiting_for.clear();
        if self
            .members()
            .iter()
            .any(|index| self.workers[*index].standing().is_none())
        {
            // What was to happen at the boundary does not.
            self.regroup = None;
        }
        for index in self.members() {
            if self.workers[index].standing().is_none() {
                self.ask_to_halt(index);
            }
        }
    }

    pub(super) fn ask_to_halt(&mut self, index: usize) {
        let generation = self.generation_id();
        if self.workers[index].connection.is_some() {
            self.workers[index].halt_asked.get_or_insert(self.now);
            self.send_to(index, v1::Halt { generation });
        }
    }

    // --- the next generation ------------------------------------------------------------------------

    fn assemble(&mut self) -> Result<(), Failure> {
        self.give_up_the_stuck();
        if self.all_members_stand() {
            self.settle_the_ledger()?;
            self.shun_the_unreachable();
        }
        if self.phase != Phase::Assembling {
            return Ok(());
        }
        if self.stop_requested && self.all_members_stand() && self.furthest().is_none() {
            self.conclude(None);
            return Ok(());
        }
        match self.decide() {
            Decision::Wait(reason) => {
                self.let_go_while_waiting();
                if reason != self.waiting_for {
                    self.waiting_for.clone_from(&reason);
                    if self.last_generation > 0 && !self.is_halting() {
                        self.emit(JobEvent::Waiting { reason });
                    }
                }
                Ok(())
            }
            Decision::Go(members) => self.propose(&members),
        }
    }

    fn is_halting(&self) -> bool {
        self.members().iter().any(|index| {
            let worker = &self.workers[*index];
            worker.connection.is_some() && worker.standing().is_none()
        })
    }

    fn all_members_stand(&self) -> bool {
        !self.is_halting()
    }

    /// A member that lives and does not halt is as good as gone.
    fn give_up_the_stuck(&mut self) {
        let stuck = |index: &usize| {
            let asked = self.workers[*index].halt_asked;
            asked.is_some_and(|asked| self.now - asked > HALT_PATIENCE)
        };
        let stuck: Vec<usize> = self.members().into_iter().filter(stuck).collect();
        for index in stuck {
            let name = self.workers[index].name.clone();
            let seconds = HALT_PATIENCE.as_secs();
            self.warn(format!("worker `{name}` did not halt within {seconds} s"));
            self.workers[index].halt_asked = None;
            if let Some(connection) = self.workers[index].connection.take() {
                self.close(connection);
            }
        }
    }

    /// The furthest cursor at which a replica stands. One from before the ledger's end is none to go on
    /// from: what was applied after it would be applied a second time, and only a checkpoint may do that.
    fn furthest(&self) -> Option<Cursor> {
        let settled = self.ledger.as_ref().map(|ledger| ledger.cursor());
        let there = self.workers.iter().filter(|worker| worker.is_ready());
        there
            .filter(|worker| self.is_member(worker))
            .filter_map(|worker| worker.standing()?.cursor)
            .filter(|cursor| Some(*cursor) >= settled)
            .max()
    }

    /// Nobody takes a step: what was reported up to the furthest replica counts.
    fn settle_the_ledger(&mut self) -> Result<(), Failure> {
        let Some(furthest) = self.furthest() else {
            return Ok(());
        };
        if let Some(ledger) = &mut self.ledger {
            ledger.settle(furthest);
        }
        self.advance()?;
        if let Some(Regroup {
            checkpoint: true, ..
        }) = self.regroup.take()
        {
            self.expect_checkpoint_here();
        }
        Ok(())
    }

    /// A stop needs no more than one member, to write the last checkpoint.
    fn min_workers(&self) -> usize {
        if self.stop_requested {
            return 1;
        }
        self.config.spec.elastic.min_workers.max(1) as usize
    }

    /// How many members there should be: no more than there are slots.
    pub(super) fn target(&self) -> usize {
        let elastic = &self.config.spec.elastic;
        let most = elastic.max_workers.unwrap_or(u32::MAX);
        let slots = self.config.spec.train.slots;
        (self.wanted.min(most).min(slots) as usize).max(self.min_workers())
    }

    /// Whether the worker may be in the next generation.
    fn is_willing(&self, index: usize) -> bool {
        let worker = &self.workers[index];
        worker.is_ready()
            && !worker.draining
            && !worker.released
            && worker.place != Place::Stray
            && worker.shunned_until <= self.now
    }

    fn decide(&self) -> Decision {
        if let Some(index) = self.members().iter().find(|index| {
            let worker = &self.workers[**index];
            worker.connection.is_some() && (worker.standing().is_none() || worker.ready.is_none())
        }) {
            let name = &self.workers[*index].name;
            return Decision::Wait(format!("worker `{name}` has not halted yet"));
        }
        if let Some(name) = self.who_may_come_back() {
            return Decision::Wait(format!("worker `{name}` may come back"));
        }
        let min = self.min_workers();
        let survives = |index: &usize| {
            let worker = &self.workers[*index];
            worker.is_ready() && !worker.draining && !worker.released && worker.standing().is_some()
        };
        let mut members: Vec<usize> = self.members().into_iter().filter(survives).collect();
        members.sort_by_key(|index| self.rank(&self.workers[*index]));
        let reachable: Vec<usize> = members
            .iter()
            .copied()
            .filter(|index| self.is_willing(*index))
            .collect();
        // Whoever cannot be reached is better than nobody.
        if reachable.len() >= min {
            members = reachable;
        }
        let survivors = members.len();
        let has_replica = self.furthest().is_some();
        let newcomers = (0..self.workers.len())
            .filter(|index| self.is_willing(*index) && !self.is_member(&self.workers[*index]));
        let enough = has_replica && survivors >= min;
        members.extend(newcomers.filter(|index| {
            let caught_up = matches!(
                self.workers[*index].place,
                Place::Following {
                    caught_up: Some(_),
                    ..
                }
            );
            caught_up || !enough
        }));
        members.truncate(self.target());

        let count = members.len();
        if count < min {
            if let Some(members) = self.who_hands_over() {
                return Decision::Go(members);
            }
            return Decision::Wait(format!(
                "{count} of at least {min} workers are ready; waiting for more"
            ));
        }
        if enough {
            return Decision::Go(members);
        }
        let wanted = self.target();
        let called = self.now - self.last_ready.max(self.assembling_since) >= LAST_CALL;
        // Survivors hold the replica: there is no reason to wait for more than the least number.
        if count >= wanted || called || has_replica {
            return Decision::Go(members);
        }
        Decision::Wait(format!("{count} of {wanted} workers are ready"))
    }

    /// Whether the worker has the replica of this cursor and can give it away.
    fn holds(&self, index: usize, cursor: Cursor) -> bool {
        let worker = &self.workers[index];
        let stands = worker.standing().and_then(|standing| standing.cursor);
        worker.is_ready() && stands == Some(cursor)
    }

    /// The members that are there, if the furthest replica would be lost with those that want to leave:
    /// they go on for a step, at whose end a checkpoint is written, though they are too few.
    fn who_hands_over(&self) -> Option<Vec<usize>> {
        let furthest = self.furthest()?;
        let step = self.global_step(furthest);
        let members = self.members().into_iter();
        let mut members: Vec<usize> = members
            .filter(|index| {
                let worker = &self.workers[*index];
                worker.is_ready() && !worker.released && worker.standing().is_some()
            })
            .collect();
        members.sort_by_key(|index| self.rank(&self.workers[*index]));
        let holders = members.iter().filter(|index| self.holds(**index, furthest));
        let holders: Vec<&super::Worker> = holders.map(|index| &self.workers[*index]).collect();
        let kept = holders.iter().any(|holder| !holder.draining);
        if step == 0 || kept || holders.is_empty() || self.checkpoints.is_committed(step) {
            return None;
        }
        let names: Vec<&str> = holders.iter().map(|holder| holder.name.as_str()).collect();
        let writing = self.now - self.assembling_since < HAND_OVER_PATIENCE;
        if writing && self.checkpoints.is_under_way(step, &names) {
            return None;
        }
        members.truncate(self.config.spec.train.slots as usize);
        Some(members)
    }

    /// A member without a connection that is worth waiting for: after a change of coordinators all come
    /// back within a moment, and to go back to a checkpoint costs more than a moment.
    fn who_may_come_back(&self) -> Option<&str> {
        let members = self.members();
        let gone = |index: &&usize| self.workers[**index].connection.is_none();
        let gone = &self.workers[*members.iter().find(gone)?];
        let taken_over = gone.awaited && self.now - self.claimed_at < RETURN_TOGETHER;
        let started = self
            .ledger
            .as_ref()
            .is_some_and(|ledger| ledger.global_step() > 0);
        let lately = self.now - self.assembling_since < FIRST_RETURN;
        let costly = started && lately && self.furthest().is_none();
        (taken_over || costly).then_some(&gone.name)
    }

    /// Lets members leave that nobody depends on, while the job waits.
    fn let_go_while_waiting(&mut self) {
        if self.is_halting() {
            return;
        }
        // Nobody copies from them now.
        for index in 0..self.workers.len() {
            let worker = &self.workers[index];
            if worker.draining && !worker.let_go && !self.is_member(worker) {
                self.release(index, "it is not needed any more");
            }
        }
        // Where nobody has a replica nobody can lose it.
        let furthest = self.furthest();
        let holds = |index: &usize| furthest.is_some_and(|cursor| self.holds(*index, cursor));
        let step = furthest.map_or(0, |cursor| self.global_step(cursor));
        let written = step == 0 || self.checkpoints.is_committed(step);
        let keeps = |index: &usize| holds(index) && !self.workers[*index].draining;
        let kept = self.members().iter().any(keeps);
        let leaving: Vec<usize> = self
            .members()
            .into_iter()
            .filter(|index| {
                let worker = &self.workers[*index];
                worker.draining && !worker.released && (kept || written || !holds(index))
            })
            .collect();
        for index in leaving {
            self.release(index, "nothing is lost without it");
        }
    }

    pub(super) fn global_step(&self, cursor: Cursor) -> u64 {
        let steps = self
            .ledger
            .as_ref()
            .map_or(0, |ledger| ledger.steps_per_epoch());
        cursor.global_step(steps)
    }

    /// These workers make the next generation, which takes effect once the log has it.
    fn propose(&mut self, members: &[usize]) -> Result<(), Failure> {
        let furthest = self.furthest();
        let (start, checkpoint) = match furthest {
            Some(cursor) => (cursor, None),
            None => self.back_to_the_checkpoint(),
        };
        let source = match furthest {
            Some(start) => Some(self.source_of(start, members)?),
            None => None,
        };
        let Some(ledger) = &self.ledger else {
            return Ok(());
        };
        let at = ledger.cursor();
        Invariant::Ex2.check(at == start, || {
            format!("the next generation would begin at {start} where {at} is next")
        })?;
        let closed = ledger.evaluated().1;
        let step = ledger.global_step();
        let ends = start.epoch >= self.config.spec.train.epochs;
        let due = checkpoint_due(&self.config.spec, start, ledger.steps_per_epoch());
        let stops = self.stop_requested && furthest.is_some();
        let generation = self.deal(members, start, checkpoint);
        let proposal = Proposal {
            reason: std::mem::take(&mut self.assembling_why),
            evaluate: closed < start.epoch,
            checkpoint: step > 0 && (due || stops || ends) && !self.checkpoints.is_committed(step),
            finish: ends || stops,
            source,
            generation,
        };
        if let Some(data) = self.data.clone() {
            self.flush();
            self.log.push(LogEntry::Generation {
                generation: proposal.generation.clone(),
                reason: proposal.reason.clone(),
                data,
            });
        }
        self.last_generation = proposal.generation.id;
        self.proposal = Some(Box::new(proposal));
        self.phase = Phase::Starting;
        Ok(())
    }

    /// Nobody has a replica: the ledger goes back to the newest checkpoint, or to the beginning.
    fn back_to_the_checkpoint(&mut self) -> (Cursor, Option<u64>) {
        let newest = self.newest.clone();
        let snapshot = newest
            .as_ref()
            .map(|newest| newest.snapshot.clone())
            .unwrap_or_default();
        let start = snapshot.cursor;
        self.unlogged.clear();
        self.checkpoints.rewind();
        if let Some(ledger) = &mut self.ledger {
            ledger.rewind(snapshot);
        }
        (start, newest.map(|newest| newest.global_step))
    }

    /// A replica that stands at `start`: of the first of `members` that has one, else of anybody.
    fn source_of(&self, start: Cursor, members: &[usize]) -> Result<v1::Source, Failure> {
        let stands = |index: &usize| {
            let worker = &self.workers[*index];
            let at = worker.standing().filter(|at| at.cursor == Some(start))?;
            Some((worker, at))
        };
        let all: Vec<_> = self.members().iter().filter_map(stands).collect();
        for (worker, at) in &all {
            let (first, theirs) = (&all[0].0.name, all[0].1.hash);
            Invariant::Rep1.check(at.hash == theirs, || {
                format!(
                    "at {start} worker `{first}` has replica {theirs:016x}, worker `{}` {:016x}",
                    worker.name, at.hash
                )
            })?;
        }
        let known = self
            .ledger
            .as_ref()
            .and_then(|ledger| ledger.replica_hash());
        let chosen = members.iter().find_map(stands).or(all.first().copied());
        let Some((worker, Standing { hash, .. })) = chosen else {
            return Err(Failure::resumable(format!("nobody stands at {start}")));
        };
        if let Some(known) = known {
            Invariant::Rep1.check(hash == known, || {
                format!(
                    "at {start} worker `{}` has replica {hash:016x}, the ledger {known:016x}",
                    worker.name
                )
            })?;
        }
        let ready = worker.ready.clone().unwrap_or_default();
        Ok(v1::Source {
            worker: worker.name.clone(),
            address: ready.replica_address,
            global_step: self.global_step(start),
            replica_hash: hash,
        })
    }

    /// Whether the worker is in the generation that is on its way into the log.
    pub(super) fn is_proposed(&self, worker: &super::Worker) -> bool {
        let proposal = self.proposal.as_ref();
        proposal.is_some_and(|proposal| {
            let member = proposal.generation.member(&worker.name);
            member.is_some_and(|member| member.incarnation == worker.incarnation)
        })
    }

    fn deal(&self, members: &[usize], start: Cursor, checkpoint: Option<u64>) -> Generation {
        let candidates = self.candidates(members);
        let slots = self.config.spec.train.slots;
        Generation::deal(
            self.last_generation + 1,
            candidates,
            slots,
            start,
            checkpoint,
        )
    }

    /// The workers with their speeds; one that is not known yet counts as the others on average.
    fn candidates(&self, members: &[usize]) -> Vec<Candidate> {
        let speed = |index: &usize| Some(1.0 / self.workers[*index].slot_seconds?);
        let known: Vec<f64> = members.iter().filter_map(speed).collect();
        let average = if known.is_empty() {
            1.0
        } else {
            known.iter().sum::<f64>() / known.len() as f64
        };
        let candidate = |index: &usize| {
            let worker = &self.workers[*index];
            let ready = worker.ready.clone().unwrap_or_default();
            Candidate {
                worker: worker.name.clone(),
                incarnation: worker.incarnation,
                address: ready.collective_address,
                speed: speed(index).unwrap_or(average),
            }
        };
        members.iter().map(candidate).collect()
    }

    /// The log has the generation.
    pub(super) fn start(&mut self) -> Result<(), Failure> {
        let Some(proposal) = self.proposal.take() else {
            return Ok(());
        };
        let Proposal {
            generation,
            reason,
            evaluate,
            checkpoint,
            finish,
            source,
        } = *proposal;
        self.generation = Some(generation.clone());
        self.set_ranks();
        self.phase = Phase::Running;
        self.regroup = None;
        self.waiting_for.clear();
        self.last_dealt = self.now;
        let Some(ledger) = &mut self.ledger else {
            return Ok(());
        };
        ledger.begin(&generation);
        let event = JobEvent::Started {
            generation: generation.id,
            epoch: generation.start.epoch + 1,
            step: generation.start.step,
            global_step: ledger.global_step(),
            total_steps: ledger.total_steps(),
            resumed_from: generation.checkpoint,
            workers: generation.members.len() as u32,
            reason,
        };
        self.emit(event);
        if checkpoint && !evaluate {
            self.expect_checkpoint_here();
        }
        self.report_abandoned();
        let start = v1::Start {
            evaluate,
            checkpoint,
            finish,
            source,
            ..v1::Start::new(&generation)
        };
        for index in 0..self.workers.len() {
            let member = self.is_member(&self.workers[index]);
            let worker = &mut self.workers[index];
            worker.halt_asked = None;
            worker.accuses.clear();
            if member {
                worker.place = Place::AtWork;
                worker.told = generation.id;
                self.send_to(index, start.clone());
            } else if worker.standing().is_some() {
                worker.place = Place::Pool;
            } else if worker.place == Place::AtWork {
                worker.place = Place::Stray;
            }
        }
        self.workers_left_out();
        // Those that were gone before are no members any more.
        let generation = self.generation.clone();
        let in_it = |name: &str| {
            let members = generation.iter().flat_map(|generation| &generation.members);
            members.clone().any(|member| member.worker == name)
        };
        self.workers
            .retain(|worker| worker.connection.is_some() || in_it(&worker.name));
        Ok(())
    }

    /// Whoever was not taken because the job has more than it wants leaves; others wait.
    fn workers_left_out(&mut self) {
        for index in 0..self.workers.len() {
            let worker = &self.workers[index];
            if worker.draining && !worker.released && !self.is_member(worker) {
                self.workers[index].released = true;
            }
        }
    }

    /// Tells those to leave that are not needed any more, once the generation has taken a step without
    /// them: until then a member may need their replica.
    pub(super) fn let_the_released_go(&mut self) {
        for index in 0..self.workers.len() {
            let worker = &self.workers[index];
            if worker.released
                && worker.draining
                && !self.is_member(worker)
                && worker.place == Place::Pool
            {
                self.release(index, "it is not needed any more");
            }
        }
    }

    // --- planned changes ----------------------------------------------------------------------------

    /// Lets workers in the pool copy the replica as long as more members are wanted.
    fn call_followers(&mut self) {
        let members = self.members();
        let leaving = members
            .iter()
            .filter(|index| self.workers[**index].draining);
        let mut present = members.len() - leaving.count();
        present += self
            .workers
            .iter()
            .filter(|worker| matches!(worker.place, Place::Following { .. }))
            .count();
        for index in 0..self.workers.len() {
            let worker = &self.workers[index];
            if let Place::Following {
                since,
                caught_up: None,
            } = worker.place
                && self.now - since > FOLLOW_PATIENCE
            {
                self.workers[index].place = Place::Pool;
                continue;
            }
            let asked = self.is_member(worker) || worker.place != Place::Pool;
            if asked || !self.is_willing(index) || present >= self.target() {
                continue;
            }
            // The youngest member: the oldest one reports and writes the most.
            let source = members.iter().rev().find(|member| {
                let worker = &self.workers[**member];
                worker.is_ready() && !worker.draining
            });
            let Some(source) = source.map(|source| &self.workers[*source]) else {
                return;
            };
            let follow = v1::Follow {
                source: Some(v1::Source {
                    worker: source.name.clone(),
                    address: source
                        .ready
                        .as_ref()
                        .map(|ready| ready.replica_address.clone())
                        .unwrap_or_default(),
                    global_step: self
                        .ledger
                        .as_ref()
                        .map_or(0, |ledger| ledger.global_step()),
                    replica_hash: 0,
                }),
            };
            self.send_to(index, follow);
            self.workers[index].place = Place::Following {
                since: self.now,
                caught_up: None,
            };
            present += 1;
        }
    }

    fn regroup_if_worth_it(&mut self) {
        if self.regroup.is_some() {
            return;
        }
        let Some(reason) = self.why_regroup() else {
            return;
        };
        let staying = self.members().into_iter().filter(|index| {
            let worker = &self.workers[*index];
            !worker.draining
        });
        // Those that stay are too few to go on: what they know must not be lost with the others.
        let checkpoint = staying.count() < self.min_workers();
        let generation = self.generation_id();
        self.regroup = Some(Regroup { reason, checkpoint });
        for index in self.members() {
            self.send_to(
                index,
                v1::Regroup {
                    generation,
                    checkpoint,
                },
            );
        }
    }

    /// Why the membership should change at the next boundary.
    fn why_regroup(&mut self) -> Option<String> {
        let members = self.members();
        let leaving = members.iter().find(|index| self.workers[**index].draining);
        if let Some(index) = leaving {
            return Some(format!("worker `{}` leaves", self.workers[*index].name));
        }
        let target = self.target();
        if members.len() > target {
            for index in members.iter().skip(target) {
                self.start_draining(*index);
            }
            return Some(format!("{target} workers are wanted"));
        }
        let following = |worker: &super::Worker| match worker.place {
            Place::Following { since, caught_up } => Some((since, caught_up)),
            _ => None,
        };
        let followers: Vec<_> = self
            .workers
            .iter()
            .filter_map(|worker| Some((worker, following(worker)?)))
            .collect();
        let there = followers
            .iter()
            .filter(|(_, (_, caught_up))| caught_up.is_some());
        let names: Vec<&str> = there.map(|(worker, _)| worker.name.as_str()).collect();
        let others_soon = followers.iter().any(|(_, (since, caught_up))| {
            caught_up.is_none() && self.now - *since < JOIN_TOGETHER
        });
        if !names.is_empty() && !others_soon {
            return Some(format!("worker `{}` joins", names.join("`, `")));
        }
        self.why_deal_again(&members)
    }

    /// Whether dealing the slots anew by the speeds of late makes steps so much shorter that a halt is
    /// worth it.
    fn why_deal_again(&mut self, members: &[usize]) -> Option<String> {
        let recent = self.now - self.last_dealt < DEAL_AGAIN;
        let weighed = self.now - self.last_weighed < WEIGH_AGAIN;
        if recent || weighed || members.len() < 2 {
            return None;
        }
        self.last_weighed = self.now;
        let generation = self.generation.as_ref()?;
        let measured = members
            .iter()
            .all(|index| self.workers[*index].slot_seconds.is_some());
        if !measured {
            return None;
        }
        let seconds = |generation: &Generation| {
            let member = generation.members.iter().map(|member| {
                let index = self.find(&member.worker)?;
                let slot = self.workers[index].slot_seconds?;
                Some(slot * member.slots.len() as f64)
            });
            member.flatten().fold(0.0, f64::max)
        };
        let next = self.deal(members, generation.start, None);
        let (now, then) = (seconds(generation), seconds(&next));
        (then < WORTH_IT * now)
            .then(|| format!("slots are dealt by speed: {then:.2} s instead of {now:.2} s a step"))
    }
}
