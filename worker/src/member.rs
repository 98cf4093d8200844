//! A member of a generation: its place, and its connections with the others.

use std::time::Duration;

use perennial_collective::{
    Collective, CollectiveError, Contribution, MeshConfig, Reduced, Tcp,
};
use perennial_plan::Generation;
use perennial_proto::rules::LEASE;
use perennial_proto::v1::Lost;
use perennial_session::Assignment;

use crate::ears::Turn;
use crate::error::WorkerError;
use crate::prepare::Worker;

/// How long members wait for each other to connect: one may still load its replica.
const CONNECT: Duration = Duration::from_secs(60);
/// How long a member waits in a sum for one that is alive.
const SUM: Duration = Duration::from_secs(600);

/// A worker inside a generation, its replica at the start cursor or beyond.
pub(crate) struct Member<'a> {
    pub worker: &'a Worker,
    pub generation: &'a Generation,
    pub rank: usize,
    pub turn: &'a Turn,
    collective: Tcp,
}

// === impl Member ===

impl<'a> Member<'a> {
    /// Connects with the other members.
    pub fn connect(
        worker: &'a Worker,
        assignment: &'a Assignment,
        turn: &'a Turn,
    ) -> Result<Self, WorkerError> {
        let generation = &assignment.generation;
        let members = generation.members.iter();
        let config = MeshConfig {
            job: worker.job.spec.name.clone(),
            generation: generation.id,
            rank: assignment.rank,
            addresses: members.map(|member| member.address.clone()).collect(),
            deadline: CONNECT,
            timeout: SUM,
            silence: LEASE,
        };
        let collective = worker
            .endpoint
            .connect(config, turn.abort_handle())
            .map_err(|error| broken_or(error, generation, Phase::Connecting))?;
        Ok(Self {
            worker,
            generation,
            rank: assignment.rank,
            turn,
            collective,
        })
    }

    /// The slots that this member computes.
    pub fn slots(&self) -> std::ops::Range<u32> {
        self.generation.members[self.rank].slots.clone()
    }

    pub fn all_reduce(&mut self, contribution: Contribution) -> Result<Reduced, WorkerError> {
        self.collective
            .all_reduce(contribution)
            .map_err(|error| broken_or(error, self.generation, Phase::Summing))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    Summing,
}

/// Tells a generation that broke, and on whose account, from an error of this worker's own.
fn broken_or(error: CollectiveError, generation: &Generation, phase: Phase) -> WorkerError {
    let (rank, silent) = match &error {
        CollectiveError::PeerLost { rank, .. } | CollectiveError::Protocol { rank, .. } => {
            (Some(*rank), false)
        }
        CollectiveError::Silent { rank, .. } | CollectiveError::Unreachable { rank, .. } => {
            (Some(*rank), true)
        }
        CollectiveError::Timeout { rank, .. } => (Some(*rank), phase == Phase::Connecting),
        CollectiveError::Aborted
        | CollectiveError::Broken
        | CollectiveError::Stale { .. }
        | CollectiveError::Refused { .. } => (None, false),
        _ => return error.into(),
    };
    let member = rank.and_then(|rank| generation.members.get(rank));
    let lost = member.map(|member| Lost {
        worker: member.worker.clone(),
        silent,
    });
    WorkerError::Broken {
        reason: error.to_string(),
        lost: lost.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use perennial_plan::{Candidate, Cursor};

    use super::*;

    fn lost(error: CollectiveError, phase: Phase) -> Option<Vec<(String, bool)>> {
        let candidates = (0..2).map(|index| Candidate {
            worker: format!("w{index}"),
            incarnation: index,
            address: String::new(),
            speed: 1.0,
        });
        let generation = Generation::deal(3, candidates.collect(), 4, Cursor::default(), None);
        match broken_or(error, &generation, phase) {
            WorkerError::Broken { lost, .. } => {
                let lost = lost.into_iter();
                Some(lost.map(|lost| (lost.worker, lost.silent)).collect())
            }
            _ => None,
        }
    }

    #[test]
    fn a_generation_that_breaks_names_who_is_gone_and_who_was_only_silent() {
        let gone = CollectiveError::PeerLost {
            rank: 1,
            reason: String::new(),
        };
        assert_eq!(lost(gone, Phase::Summing), Some(vec![("w1".into(), false)]));
        let silent = CollectiveError::Silent {
            rank: 0,
            seconds: 5,
        };
        assert_eq!(lost(silent, Phase::Summing), Some(vec![("w0".into(), true)]));
        let late = CollectiveError::Timeout {
            rank: 0,
            seconds: 5,
        };
        let answer = lost(late.clone(), Phase::Connecting);
        assert_eq!(answer, Some(vec![("w0".into(), true)]));
        assert_eq!(lost(late, Phase::Summing), Some(vec![("w0".into(), false)]));
        assert_eq!(lost(CollectiveError::Aborted, Phase::Summing), Some(vec![]));
        assert_eq!(
            lost(CollectiveError::MissingSlot(1), Phase::Summing),
            None,
            "it is this worker's own"
        );
    }
}
