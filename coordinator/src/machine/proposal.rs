//! The next generation: where it begins, who holds which slots, and how it comes into force.

use perennial_plan::invariants::Invariant;
use perennial_plan::{Candidate, Cursor, Generation};
use perennial_proto::rules::checkpoint_due;
use perennial_proto::v1;

use super::worker::{Place, Standing, Worker};
use super::{Failure, Machine, Phase};
use crate::JobEvent;
use crate::log::LogEntry;

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

impl Machine {
    /// These workers make the next generation, which takes effect once the log has it.
    pub(super) fn propose(&mut self, members: &[usize]) -> Result<(), Failure> {
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
    pub(super) fn is_proposed(&self, worker: &Worker) -> bool {
        let proposal = self.proposal.as_ref();
        proposal.is_some_and(|proposal| {
            let member = proposal.generation.member(&worker.name);
            member.is_some_and(|member| member.incarnation == worker.incarnation)
        })
    }

    pub(super) fn deal(
        &self,
        members: &[usize],
        start: Cursor,
        checkpoint: Option<u64>,
    ) -> Generation {
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
        self.first_generation_at.get_or_insert(self.now);
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
                worker.told_to_stop = finish;
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
}
