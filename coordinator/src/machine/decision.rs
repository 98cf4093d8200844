//! Who makes the next generation, and why there is none yet.

use std::time::Duration;

use perennial_plan::Cursor;

use super::Machine;
use super::worker::{Place, Worker};

/// How long members of an earlier coordinator's generation may take to come back: while they are at work nobody
/// waits for that...
pub(super) const RETURN: Duration = Duration::from_secs(5);
/// ... when none has yet...
pub(super) const FIRST_RETURN: Duration = Duration::from_secs(2);
/// ... and the others when one has that is not at work: they knock several times a second.
const RETURN_TOGETHER: Duration = Duration::from_secs(1);
/// With enough workers but fewer than wanted, this long after the last one came the job begins.
const LAST_CALL: Duration = Duration::from_secs(10);
/// A checkpoint under way keeps those that want to leave for so long from writing another one.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(60);

/// What comes next while no generation is at work, and in words why.
pub(super) enum Decision {
    Wait(String),
    /// With these workers, the oldest first.
    Go(Vec<usize>),
}

impl Machine {
    /// A stop needs no more than one member, to write the last checkpoint.
    pub(super) fn min_workers(&self) -> usize {
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
    pub(super) fn is_willing(&self, index: usize) -> bool {
        let worker = &self.workers[index];
        worker.is_ready()
            && !worker.draining
            && !worker.released
            && worker.place != Place::Stray
            && worker.shunned_until <= self.now
    }

    pub(super) fn decide(&self) -> Decision {
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
        members.sort_by_key(|index| self.workers[*index].rank);
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
        members.sort_by_key(|index| self.workers[*index].rank);
        let holders = members.iter().filter(|index| self.holds(**index, furthest));
        let holders: Vec<&Worker> = holders.map(|index| &self.workers[*index]).collect();
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
    pub(super) fn let_go_while_waiting(&mut self) {
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
}
