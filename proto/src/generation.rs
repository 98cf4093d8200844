//! Generations on the wire. One of a thousand members is a third of what it is in JSON, and goes out a
//! thousand times.

use perennial_plan as plan;
use prost::bytes::Bytes;
use prost::{DecodeError, Message};

use crate::v1::{Generation, Member, Start};

// === impl Start ===

impl Start {
    /// Of this generation, with nothing to be done first.
    pub fn new(generation: &plan::Generation) -> Self {
        let encoded = Generation::from(generation).encode_to_vec();
        Self {
            generation: Bytes::from(encoded),
            ..Self::default()
        }
    }

    /// The generation that begins.
    pub fn decode_generation(&self) -> Result<plan::Generation, DecodeError> {
        Generation::decode(self.generation.clone()).map(plan::Generation::from)
    }
}

// === impl Generation ===

impl From<&plan::Generation> for Generation {
    fn from(generation: &plan::Generation) -> Self {
        let member = |member: &plan::Member| Member {
            worker: member.worker.clone(),
            incarnation: member.incarnation,
            address: member.address.clone(),
            first_slot: member.slots.start,
            end_slot: member.slots.end,
        };
        Self {
            id: generation.id,
            members: generation.members.iter().map(member).collect(),
            epoch: generation.start.epoch,
            step: generation.start.step,
            checkpoint: generation.checkpoint,
        }
    }
}

impl From<Generation> for plan::Generation {
    fn from(generation: Generation) -> Self {
        let member = |member: Member| plan::Member {
            worker: member.worker,
            incarnation: member.incarnation,
            address: member.address,
            slots: member.first_slot..member.end_slot,
        };
        Self {
            id: generation.id,
            members: generation.members.into_iter().map(member).collect(),
            start: plan::Cursor {
                epoch: generation.epoch,
                step: generation.step,
            },
            checkpoint: generation.checkpoint,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_arrives_as_it_was_sent() {
        let candidate = |index: u64| plan::Candidate {
            worker: format!("w{index}"),
            incarnation: u64::MAX - index,
            address: format!("host:{index}"),
            speed: 1.0,
        };
        let start = plan::Cursor { epoch: 2, step: 7 };
        for checkpoint in [None, Some(0), Some(61)] {
            let candidates = (0..3).map(candidate).collect();
            let sent = plan::Generation::deal(9, candidates, 7, start, checkpoint);
            let arrived = Start::new(&sent).decode_generation().unwrap();
            assert_eq!(arrived, sent);
        }
        let torn = Start {
            generation: Bytes::from_static(b"\x12\xff"),
            ..Start::default()
        };
        assert!(torn.decode_generation().is_err());
    }
}
