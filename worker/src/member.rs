//! A member of a generation: its place and its collective.

use std::time::Duration;

use perennial_collective::{
    Collective, CollectiveError, Contribution, DeviceSlots, MeshConfig, Reduced,
};
use perennial_plan::Generation;
use perennial_proto::rules::LEASE;
use perennial_proto::v1::{Lost, Standing};
use perennial_session::{Assignment, Report};

use crate::ears::Turn;
use crate::error::WorkerError;
use crate::prepare::Worker;
use crate::transport::Connected;

/// How long members wait for each other to connect.
const CONNECT: Duration = Duration::from_secs(60);
/// How long a member waits in a sum. Silence and the coordinator end it long before.
const SUM: Duration = Duration::from_secs(600);

/// A worker inside a generation.
pub(crate) struct Member<'a> {
    pub worker: &'a Worker,
    pub turn: &'a Turn,
    pub generation: Generation,
    pub rank: usize,
    connected: Connected,
}

// === impl Worker ===

impl Worker {
    /// A generation from its start to its end, and the answer to the session.
    pub fn train(&self, assignment: &Assignment, turn: &Turn) {
        let trained = self
            .take_up(assignment, turn)
            .and_then(|()| Member::join(self, assignment, turn))
            .and_then(|mut member| member.train(assignment));
        let report = match trained {
            Ok(report) => report,
            Err(WorkerError::Broken { reason, lost }) => {
                tracing::info!(generation = assignment.generation.id, "{reason}");
                self.halted(assignment.generation.id, lost)
            }
            Err(error) => error.report(),
        };
        self.reporter.send(report);
    }

    /// Where the replica stands between two generations.
    pub fn halted(&self, generation: u64, lost: Vec<Lost>) -> Report {
        let standing = self.replica.standing();
        let (global_step, replica_hash) = standing.unwrap_or_default();
        let cursor = self.job.cursor(global_step);
        Report::Halted(Standing {
            generation,
            epoch: cursor.epoch,
            step: cursor.step,
            replica_hash,
            halted: true,
            lost,
            empty: standing.is_none(),
        })
    }
}

// === impl Member ===

impl<'a> Member<'a> {
    /// Connects with the other members.
    fn join(
        worker: &'a Worker,
        assignment: &Assignment,
        turn: &'a Turn,
    ) -> Result<Self, WorkerError> {
        let generation = assignment.generation.clone();
        let addresses = generation.members.iter();
        let config = MeshConfig {
            job: worker.job.spec.name.clone(),
            generation: generation.id,
            rank: assignment.rank,
            addresses: addresses.map(|member| member.address.clone()).collect(),
            deadline: CONNECT,
            timeout: SUM,
            silence: LEASE,
        };
        let mesh = worker.endpoint.connect(config, turn.abort_handle());
        let connected = mesh.and_then(|mesh| worker.transport.connect(mesh));
        let connected = connected.map_err(|error| failure(worker, error, &generation))?;
        Ok(Self {
            worker,
            turn,
            generation,
            rank: assignment.rank,
            connected,
        })
    }

    /// Where the gradients of the own slots are summed, where that is not the host.
    pub fn device_slots(&mut self) -> Option<&mut dyn DeviceSlots> {
        self.connected.collective.device_slots()
    }

    /// Bytes of sums that went to other members over TCP in this generation.
    pub fn sent_bytes(&self) -> u64 {
        self.connected.collective.sent_bytes()
    }

    pub fn all_reduce(&mut self, contribution: Contribution) -> Result<Reduced, WorkerError> {
        self.turn.check()?;
        let worker = self.worker;
        let reduced = self.connected.collective.all_reduce(contribution);
        let reduced = reduced.map_err(|error| failure(worker, error, &self.generation))?;
        if self.connected.over_nccl {
            worker.transport.summed();
        }
        Ok(reduced)
    }
}

/// What an error of an own slot means, whose sum may have failed.
pub(crate) fn slot_failure(
    worker: &Worker,
    error: WorkerError,
    generation: &Generation,
) -> WorkerError {
    match error {
        WorkerError::Collective(error) => failure(worker, error, generation),
        error => error,
    }
}

/// What an error of the collective means for this worker, and for the generation.
fn failure(worker: &Worker, error: CollectiveError, generation: &Generation) -> WorkerError {
    match worker.transport.failed(&error) {
        Ok(()) => broken(error, generation),
        Err(last) => last,
    }
}

/// What an error of the collective means for the generation. A member that is answered by a stranger, or by
/// a member of another generation, has done nothing wrong itself.
fn broken(error: CollectiveError, generation: &Generation) -> WorkerError {
    let (rank, silent) = match &error {
        CollectiveError::Aborted | CollectiveError::Broken => return WorkerError::told(),
        CollectiveError::PeerLost { rank, .. }
        | CollectiveError::Stale { rank, .. }
        | CollectiveError::Refused { rank, .. }
        | CollectiveError::Protocol { rank, .. } => (*rank, false),
        CollectiveError::Silent { rank, .. }
        | CollectiveError::Timeout { rank, .. }
        | CollectiveError::Unreachable { rank, .. } => (*rank, true),
        // It broke for all of them, and nobody knows who is the cause.
        CollectiveError::Nccl { .. } | CollectiveError::Overdue { .. } => {
            return WorkerError::Broken {
                reason: error.to_string(),
                lost: Vec::new(),
            };
        }
        _ => return error.into(),
    };
    let peer = generation.members.get(rank);
    let lost = peer.map(|member| Lost {
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

    /// Who is lost and whether only silent; nothing for an error of the worker's own.
    fn lost(error: CollectiveError) -> Option<Vec<(String, bool)>> {
        let candidates = (0..2).map(|index| Candidate {
            worker: format!("w{index}"),
            incarnation: index,
            address: String::new(),
            speed: 1.0,
        });
        let generation = Generation::deal(3, candidates.collect(), 4, Cursor::default(), None);
        match broken(error, &generation) {
            WorkerError::Broken { lost, .. } => {
                let lost = lost.into_iter();
                Some(lost.map(|lost| (lost.worker, lost.silent)).collect())
            }
            _ => None,
        }
    }

    #[test]
    fn a_generation_that_breaks_names_who_is_gone_and_who_is_only_silent() {
        let gone = CollectiveError::PeerLost {
            rank: 1,
            reason: String::new(),
        };
        assert_eq!(lost(gone), Some(vec![("w1".into(), false)]));
        let silent = CollectiveError::Silent {
            rank: 0,
            silence: LEASE,
        };
        assert_eq!(lost(silent), Some(vec![("w0".into(), true)]));
        assert_eq!(lost(CollectiveError::Aborted), Some(vec![]));
        let overdue = CollectiveError::Overdue { limit: SUM };
        assert_eq!(lost(overdue), Some(vec![]));
        assert_eq!(lost(CollectiveError::MissingSlot(1)), None);
    }

    #[test]
    fn a_stranger_at_a_members_address_breaks_the_generation_and_not_the_job() {
        let stranger = CollectiveError::Refused {
            rank: 1,
            address: "127.0.0.1:9".into(),
            reason: "it is of another job".into(),
        };
        assert_eq!(lost(stranger), Some(vec![("w1".into(), false)]));
        let noise = CollectiveError::Protocol {
            rank: 0,
            reason: "no such frame".into(),
        };
        assert_eq!(lost(noise), Some(vec![("w0".into(), false)]));
    }
}
