//! Generations: who is a member, which slots are whose, and from which cursor on.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::order::slot_range;

/// A position in the training: the next step to apply is step `step` of epoch `epoch`, both from 0.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Cursor {
    pub epoch: u32,
    pub step: u32,
}

// === impl Cursor ===

impl Cursor {
    /// The cursor after this step of an epoch with `steps_per_epoch` steps.
    pub fn next(self, steps_per_epoch: u32) -> Self {
        if self.step + 1 < steps_per_epoch {
            Self {
                epoch: self.epoch,
                step: self.step + 1,
            }
        } else {
            Self {
                epoch: self.epoch + 1,
                step: 0,
            }
        }
    }

    /// Steps applied since the start of the job.
    pub fn global_step(self, steps_per_epoch: u32) -> u64 {
        u64::from(self.epoch) * u64::from(steps_per_epoch) + u64::from(self.step)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} step {}", self.epoch, self.step)
    }
}

/// A worker inside a generation. Its rank is its place in [`Generation::members`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The name the coordinator gave it, unique in the job.
    pub worker: String,
    /// Where its collective listens: `host:port`.
    pub address: String,
    /// The slots it computes.
    pub slots: Range<u32>,
}

/// A membership: who works on which slots from which cursor on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Rises by one with every change of membership; 1 is the first.
    pub id: u64,
    pub members: Vec<Member>,
    /// The first step of this generation.
    pub start: Cursor,
    /// The global step of the checkpoint that every member loads first; none: the initial weights.
    pub checkpoint: Option<u64>,
}

// === impl Generation ===

impl Generation {
    /// Deals `slots` slots to `workers` (name, address) in nearly equal contiguous ranges. A member
    /// past the number of slots gets none and still takes part in every collective.
    pub fn deal(
        id: u64,
        workers: Vec<(String, String)>,
        slots: u32,
        start: Cursor,
        checkpoint: Option<u64>,
    ) -> Self {
        let count = workers.len() as u32;
        let members = workers
            .into_iter()
            .enumerate()
            .map(|(rank, (worker, address))| {
                let slots = slot_range(0..slots as usize, count, rank as u32);
                Member {
                    worker,
                    address,
                    slots: slots.start as u32..slots.end as u32,
                }
            })
            .collect();
        Self {
            id,
            members,
            start,
            checkpoint,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_dealt_to_one_member() {
        for (slots, workers) in [(4, 1), (4, 3), (7, 2), (2, 5)] {
            let names = (0..workers)
                .map(|w| (format!("w{w}"), String::new()))
                .collect();
            let generation = Generation::deal(1, names, slots, Cursor::default(), None);
            let dealt: Vec<u32> = generation
                .members
                .iter()
                .flat_map(|m| m.slots.clone())
                .collect();
            assert_eq!(dealt, (0..slots).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_cursor_counts_steps_across_epochs() {
        let mut cursor = Cursor::default();
        for expected in 0..20 {
            assert_eq!(cursor.global_step(6), expected);
            cursor = cursor.next(6);
        }
        assert_eq!(cursor, Cursor { epoch: 3, step: 2 });
    }
}
