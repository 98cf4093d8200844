//! What the training says, and what is kept of it until it is durable.

use std::time::Duration;

use perennial_proto::v1::{self, Drain, Standing};

use super::{Activity, Effect, Link, Report, Session};

impl Session {
    pub(super) fn report(&mut self, now: Duration, report: Report, effects: &mut Vec<Effect>) {
        match &report {
            Report::Ready(ready) => self.ready = Some(ready.clone()),
            Report::StepDone(_)
            | Report::EpochDone(_)
            | Report::PartWritten(_)
            | Report::CheckpointFailed(_) => {
                self.kept.push_back(report.clone());
                // The one of rank 0 says it.
                if self.rank > 0 && matches!(report, Report::EpochDone(_)) {
                    return;
                }
            }
            Report::Finished(finished) => {
                if !self.is_at_work(finished.generation) || self.go_on(effects) {
                    return;
                }
                self.activity = Activity::Finished(*finished);
                // The member that says them as a rule may be gone by now.
                self.say_kept_evaluations(now, effects);
            }
            Report::Halted(standing) => {
                if !self.is_at_work(standing.generation) || self.go_on(effects) {
                    return;
                }
                self.activity = Activity::Halted(standing.clone());
                self.say_kept_evaluations(now, effects);
            }
            Report::CaughtUp(caught_up) => {
                if !matches!(self.activity, Activity::Following(_)) {
                    return;
                }
                self.caught_up = Some(*caught_up);
            }
            Report::FollowFailed(failed) => match &self.activity {
                Activity::Following(source) if source.worker == failed.source => {
                    self.activity = Activity::Idle;
                    self.caught_up = None;
                }
                _ => return,
            },
            Report::Failed(failed) => {
                self.say(now, failed.clone(), effects);
                return self.part(Err(failed.message.clone()), effects);
            }
            Report::Drain => {
                if std::mem::replace(&mut self.draining, true) {
                    return;
                }
                if self.link != Link::Welcomed && self.activity != Activity::Training {
                    return self.exit(Ok(()), effects);
                }
            }
            Report::DeviceMemory(_) => {}
        }
        self.say(now, report, effects);
    }

    fn is_at_work(&self, generation: u64) -> bool {
        self.activity == Activity::Training && self.generation == generation
    }

    fn say_kept_evaluations(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if self.rank == 0 {
            return;
        }
        for report in self.kept.clone() {
            if matches!(report, Report::EpochDone(_)) {
                self.say(now, report, effects);
            }
        }
    }

    /// What a coordinator that may know nothing of this worker must hear, in this order.
    pub(super) fn say_everything(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let Some(ready) = self.ready.clone() else {
            return;
        };
        self.say(now, ready, effects);
        for report in self.kept.clone() {
            self.say(now, report, effects);
        }
        self.say_standing(now, effects);
        if let Some(caught_up) = self.caught_up {
            self.say(now, caught_up, effects);
        }
        if self.draining {
            self.say(now, Drain {}, effects);
        }
    }

    /// Where the replica stands, and since which generation.
    pub(super) fn say_standing(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let generation = self.generation;
        match self.activity.clone() {
            Activity::Idle | Activity::Following(_) => {
                let nowhere = Standing {
                    generation,
                    halted: true,
                    empty: true,
                    ..Standing::default()
                };
                self.say(now, nowhere, effects);
            }
            Activity::Training => {
                let at_work = Standing {
                    generation,
                    ..Standing::default()
                };
                self.say(now, at_work, effects);
            }
            Activity::Halted(standing) => self.say(now, standing, effects),
            Activity::Finished(finished) => self.say(now, finished, effects),
        }
    }

    /// Drops what is durable.
    pub(super) fn forget(&mut self, ack: &v1::Ack) {
        self.kept.retain(|report| match report {
            Report::StepDone(done) => done.global_step > ack.global_step,
            Report::EpochDone(done) => done.epoch >= ack.epochs,
            // The next coordinator learns from its parts that the newest checkpoint exists.
            Report::PartWritten(part) => part.global_step >= ack.checkpoint,
            Report::CheckpointFailed(failed) => failed.global_step > ack.checkpoint,
            _ => false,
        });
    }
}
