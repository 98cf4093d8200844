//! What a member does of a step by itself: the slots that it owns, as their pictures come from the prefetcher.

use std::time::{Duration, Instant};

use perennial_data::{DataError, Prefetcher, SlotBatch};
use perennial_plan::Cursor;

use crate::ears::Turn;
use crate::error::WorkerError;
use crate::member::Member;
use crate::slots::Cores;
use crate::training::occupied_slots;

/// The own slots of a step, in the order in which the prefetcher was asked for them.
pub(crate) struct OwnSlots<'a> {
    turn: &'a Turn,
    slots: std::vec::IntoIter<u32>,
    batches: &'a mut Prefetcher<Result<SlotBatch, DataError>>,
    clock: Clock,
}

/// Where a step's time went before its sum.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    pub began: Instant,
    /// For pictures.
    pub waited: Duration,
    /// Bytes of sums that were sent before the step.
    pub sent: u64,
}

// === impl OwnSlots ===

impl<'a> OwnSlots<'a> {
    /// Those of `member` in the step at `cursor`. The clock runs from here on.
    pub fn new(
        member: &Member<'a>,
        cursor: Cursor,
        batches: &'a mut Prefetcher<Result<SlotBatch, DataError>>,
    ) -> Self {
        let job = &member.worker.job;
        let owned = member.generation.members[member.rank].slots.clone();
        let occupied = occupied_slots(&job.spec, job.samples(), cursor, owned);
        let slots: Vec<u32> = occupied.into_iter().map(|(slot, _)| slot).collect();
        Self {
            turn: member.turn,
            slots: slots.into_iter(),
            batches,
            clock: Clock {
                began: Instant::now(),
                waited: Duration::ZERO,
                sent: member.sent_bytes(),
            },
        }
    }

    /// Runs `work` on each, on all cores, unless the turn is over. Results come in no particular order.
    pub fn compute<R: Send>(
        mut self,
        cores: &Cores,
        work: impl Fn((u32, SlotBatch)) -> Result<R, WorkerError> + Sync,
    ) -> Result<(Clock, Vec<R>), WorkerError> {
        let done = cores.for_each(|| self.next(), work)?;
        let done = done.into_iter().collect::<Result<_, WorkerError>>()?;
        Ok((self.clock, done))
    }

    fn next(&mut self) -> Option<Result<(u32, SlotBatch), WorkerError>> {
        if let Err(over) = self.turn.check() {
            return Some(Err(over));
        }
        let slot = self.slots.next()?;
        let asked = Instant::now();
        let batch = self.batches.next();
        self.clock.waited += asked.elapsed();
        let batch = batch?;
        Some(batch.map(|batch| (slot, batch)).map_err(WorkerError::from))
    }
}
