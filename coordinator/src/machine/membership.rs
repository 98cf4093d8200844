//! A generation's life: it is looked after while it is at work, and when it breaks its members halt.

use std::time::Duration;

use perennial_plan::Cursor;
use perennial_proto::v1;

use super::decision::{Decision, FIRST_RETURN, RETURN};
use super::{Failure, Machine, Phase, Regroup};
use crate::JobEvent;

/// A member that lives but does not halt is given up after this time.
const HALT_PATIENCE: Duration = Duration::from_secs(60);

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
        if self.config.shared && matches!(self.phase, Phase::Assembling | Phase::Running) {
            self.let_surplus_go();
        }
        Ok(())
    }

    fn look_after_the_generation(&mut self) -> Result<(), Failure> {
        if let Some(why) = self.is_anybody_gone() {
            self.break_up(why);
            return Ok(());
        }
        if self.stop_requested {
            self.tell_to_stop();
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
        let patience = if nobody_back { FIRST_RETURN } else { RETURN };
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
        if !self.is_halting() {
            self.settle_the_ledger()?;
            self.shun_the_unreachable();
        }
        if self.phase != Phase::Assembling {
            return Ok(());
        }
        if self.stop_requested && !self.is_halting() && self.furthest().is_none() {
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

    pub(super) fn is_halting(&self) -> bool {
        self.members().iter().any(|index| {
            let worker = &self.workers[*index];
            worker.connection.is_some() && worker.standing().is_none()
        })
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
    pub(super) fn furthest(&self) -> Option<Cursor> {
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
}
