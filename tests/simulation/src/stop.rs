//! Stops that people ask for, and the rule that they come: END-1.

use std::collections::BTreeMap;

use perennial_coordinator::machine::Event;
use perennial_plan::invariants::Invariant;

use crate::queue::{CoordinatorId, Happening, SECOND, Time};
use crate::world::World;

/// A stop comes so long after it was asked for and the last thing that went wrong, at the latest. What remains to be done then
/// is a step or two, a checkpoint, a report and an entry of the log, or first a generation of those that are left.
const BOUND: Time = 60 * SECOND;

#[derive(Default)]
pub struct Stop {
    /// The job is so long that nothing else ends it. It is not gone on with.
    pub only: bool,
    /// When the coordinators that know of it were asked.
    asked: BTreeMap<CoordinatorId, Time>,
    /// It is asked for while the next generation goes into the log.
    pub with_next_generation: bool,
    /// Since then nothing went wrong, or got well again.
    pub disturbed: Time,
}

// === impl Stop ===

impl Stop {
    pub fn new(only: bool) -> Self {
        Self {
            only,
            ..Self::default()
        }
    }

    pub fn was_asked(&self) -> bool {
        !self.asked.is_empty()
    }
}

impl World {
    /// Whether nobody goes on with the job.
    pub fn is_over(&self) -> bool {
        match self.store.ended() {
            Some("finished") => true,
            Some(_) => self.stop.only,
            None => false,
        }
    }

    /// What a coordinator was asked is forgotten with its process.
    pub fn ask_to_stop(&mut self, id: CoordinatorId) {
        self.trace(|| format!("coordinator process {id} is asked to stop"));
        self.stop.asked.entry(id).or_insert(self.now);
        self.machine_event(id, Event::StopRequested);
    }

    pub fn a_generation_goes_into_the_log(&mut self, id: CoordinatorId) {
        if std::mem::take(&mut self.stop.with_next_generation) {
            self.queue.push(self.now, Happening::StopAsked(id));
        }
    }

    /// Who wants a job to stop asks whoever rules, until it does.
    pub fn ask_again(&mut self) {
        if !self.stop.only || !self.calm || self.is_over() {
            return;
        }
        let ruling = (0..self.coordinators.len()).find(|id| self.is_ruling(*id));
        if let Some(id) = ruling.filter(|id| !self.stop.asked.contains_key(id)) {
            self.ask_to_stop(id);
        }
    }

    /// END-1, for the coordinator at hand.
    pub fn check_stop(&mut self, id: CoordinatorId) {
        let Some(asked) = self.stop.asked.get(&id).copied() else {
            return;
        };
        if self.is_disturbed() {
            self.stop.disturbed = self.now;
        }
        let peaceful = self.now - asked.max(self.stop.disturbed);
        if self.is_ruling(id) && peaceful > BOUND {
            let status = self.what_the_ruler_says();
            let seconds = (self.now - asked) / SECOND;
            let message = format!("a stop was asked for {seconds} s ago: {status}");
            self.violated(Invariant::End1.describe().0, message);
        }
    }

    fn is_disturbed(&self) -> bool {
        let paused = self.workers.iter().any(|it| it.alive && it.paused)
            || self.coordinators.iter().any(|it| it.alive && it.paused);
        let away = self.now < self.store.outage_until || self.now < self.network.slow_until;
        paused || away || self.network.has_cuts()
    }
}
