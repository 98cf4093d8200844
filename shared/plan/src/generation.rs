//! Generations: who is a member, which slots are whose, and from which cursor on.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

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
    /// Drawn by its process: another process of this name is another worker.
    pub incarnation: u64,
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
    /// Deals `slots` slots to `members` in contiguous ranges, to each in proportion to its speed (any
    /// unit above 0; equal speeds give nearly equal ranges). While there are enough slots nobody goes
    /// without; a member past their number gets none and still takes part in every collective.
    pub fn deal(
        id: u64,
        members: Vec<Candidate>,
        slots: u32,
        start: Cursor,
        checkpoint: Option<u64>,
    ) -> Self {
        let speeds: Vec<f64> = members.iter().map(|member| member.speed).collect();
        let mut next = 0;
        let members = members
            .into_iter()
            .zip(shares(&speeds, slots))
            .map(|(member, share)| {
                let first = next;
                next += share;
                Member {
                    worker: member.worker,
                    incarnation: member.incarnation,
                    address: member.address,
                    slots: first..next,
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

    /// The member of this name.
    pub fn member(&self, worker: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.worker == worker)
    }
}

/// A worker that is to become a member.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub worker: String,
    pub incarnation: u64,
    /// Where its collective listens: `host:port`.
    pub address: String,
    /// Slots a second, or any other measure that is the same for all.
    pub speed: f64,
}

/// How many of `slots` each gets: each slot in turn goes to whoever would be done with it first; ties
/// go to the earlier one. With equal speeds the first `slots % count` get one more.
fn shares(speeds: &[f64], slots: u32) -> Vec<u32> {
    let mut shares = vec![0u32; speeds.len()];
    for dealt in 0..slots as usize {
        // Everybody gets one first.
        let first_round = dealt < speeds.len();
        let done = |index: usize| {
            if first_round {
                f64::from(shares[index])
            } else {
                f64::from(shares[index] + 1) / speeds[index]
            }
        };
        let next = (0..speeds.len()).min_by(|a, b| done(*a).total_cmp(&done(*b)));
        if let Some(next) = next {
            shares[next] += 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_dealt_to_one_member() {
        for (slots, workers) in [(4, 1), (4, 3), (7, 2), (2, 5)] {
            let candidates = candidates(&vec![1.0; workers]);
            let generation = Generation::deal(1, candidates, slots, Cursor::default(), None);
            let dealt: Vec<u32> = generation
                .members
                .iter()
                .flat_map(|m| m.slots.clone())
                .collect();
            assert_eq!(dealt, (0..slots).collect::<Vec<_>>());
        }
    }

    fn candidates(speeds: &[f64]) -> Vec<Candidate> {
        let candidate = |(index, speed): (usize, &f64)| Candidate {
            worker: format!("w{index}"),
            incarnation: index as u64,
            address: String::new(),
            speed: *speed,
        };
        speeds.iter().enumerate().map(candidate).collect()
    }

    #[test]
    fn a_worker_twice_as_fast_holds_about_twice_the_slots_and_nobody_goes_without() {
        assert_eq!(shares(&[2.0, 1.0, 1.0], 8), [4, 2, 2]);
        assert_eq!(shares(&[1.0, 100.0], 3), [1, 2]);
        assert_eq!(shares(&[1.0, 1.0, 1.0], 8), [3, 3, 2]);
        assert_eq!(shares(&[9.0, 1.0, 1.0], 2), [1, 1, 0]);
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
