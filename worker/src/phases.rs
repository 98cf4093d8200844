//! Where the time of a step goes.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use perennial_proto::STEP_TRACE;
use perennial_proto::v1::StepPhases;
use tracing::Level;

use crate::member::Member;

/// The phases of a step, in the order in which they come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phases {
    pub began: Instant,
    /// Of the own slots, in which pictures were waited for.
    pub data: Duration,
    /// The own slots were done.
    pub computed: Instant,
    /// The sum was there.
    pub reduced: Instant,
    /// Waiting for a copy of the replica.
    pub stalled: Duration,
    /// The replica was changed.
    pub applied: Instant,
    pub sent_bytes: u64,
}

// === impl Phases ===

impl Phases {
    /// On the own slots, pictures included: what the coordinator deals slots by.
    pub fn own(&self) -> Duration {
        self.computed - self.began
    }

    /// An event from which a trace of the step can be made. Costs nothing where nobody makes one.
    pub fn trace(&self, member: &Member, global_step: u64) {
        if !tracing::enabled!(target: STEP_TRACE, Level::TRACE) {
            return;
        }
        let began = SystemTime::now() - self.began.elapsed();
        let nanoseconds = |duration: Duration| duration.as_nanos() as u64;
        let change = self.applied - self.reduced;
        tracing::trace!(
            target: STEP_TRACE,
            job = member.worker.job.spec.name.as_str(),
            generation = member.generation.id,
            member = member.generation.members[member.rank].worker.as_str(),
            rank = member.rank as u64,
            global_step,
            began = nanoseconds(began.duration_since(UNIX_EPOCH).unwrap_or_default()),
            data = nanoseconds(self.data),
            compute = nanoseconds(self.own().saturating_sub(self.data)),
            reduce = nanoseconds(self.reduced - self.computed),
            checkpoint = nanoseconds(self.stalled),
            optimizer = nanoseconds(change.saturating_sub(self.stalled)),
        );
    }

    pub fn told(&self) -> StepPhases {
        let seconds = |duration: Duration| duration.as_secs_f64();
        let change = self.applied - self.reduced;
        StepPhases {
            data: seconds(self.data),
            compute: seconds(self.own().saturating_sub(self.data)),
            reduce: seconds(self.reduced - self.computed),
            optimizer: seconds(change.saturating_sub(self.stalled)),
            checkpoint: seconds(self.stalled),
            sent_bytes: self.sent_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phases_of_a_step_are_its_time_from_the_first_picture_to_the_changed_replica() {
        let began = Instant::now();
        let at = |milliseconds| began + Duration::from_millis(milliseconds);
        let phases = Phases {
            began,
            data: Duration::from_millis(100),
            computed: at(400),
            reduced: at(650),
            stalled: Duration::from_millis(50),
            applied: at(800),
            sent_bytes: 7,
        };
        let told = phases.told();
        let all = told.data + told.compute + told.reduce + told.optimizer + told.checkpoint;
        assert!((all - 0.8).abs() < 1e-9, "{told:?}");
        let spent = [told.data, told.compute, told.reduce, told.optimizer];
        assert_eq!(
            spent.map(|it| (it * 1e3).round()),
            [100.0, 300.0, 250.0, 100.0]
        );
    }
}
