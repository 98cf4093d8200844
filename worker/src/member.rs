//! A member of a generation: its place and its collective.

use std::time::Duration;

use perennial_collective::{Collective, CollectiveError, Contribution, MeshConfig, Reduced, Tcp};
use perennial_plan::Generation;
use perennial_proto::v1::{Lost, Standing};
use perennial_session::{Assignment, Report};

use crate::ears::Turn;
use crate::error::WorkerError;
use crate::prepare::Worker;

/// How long members wait for each other to connect.
const CONNECT: Duration = Duration::from_secs(60);
/// How long a member waits in a sum. Silence and the coordinator end it long before.
const SUM: Duration = Duration::from_secs(600);
/// A link on which nothing comes for so long is given up.
const SILENCE: Duration = Duration::from_secs(5);

/// A worker inside a generation.
pub(crate) struct Member<'a> {
    pub worker: &'a Worker,
    pub turn: &'a Turn,
    pub generation: Generation,
    pub rank: usize,
    collective: Tcp,
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
            silence: SILENCE,
        };
        let collective = worker
            .endpoint
            .connect(config, turn.abort_handle())
            .map_err(|error| broken(error, &generation))?;
        Ok(Self {
            worker,
            turn,
            generation,
            rank: assignment.rank,
            collective,
        })
    }

    pub fn all_reduce(&mut self, contribution: Contribution) -> Result<Reduced, WorkerError> {
        self.turn.check()?;
        self.collective
            .all_reduce(contribution)
            .map_err(|error| broken(error, &self.generation))
    }
}

/// What an error of the collective means for the generation.
fn broken(error: CollectiveError, generation: &Generation) -> WorkerError {
    let (rank, silent) = match &error {
        CollectiveError::Aborted | CollectiveError::Broken => return WorkerError::told(),
        CollectiveError::PeerLost { rank, .. } | CollectiveError::Stale { rank, .. } => {
            (*rank, false)
        }
        CollectiveError::Silent { rank, .. }
        | CollectiveError::Timeout { rank, .. }
        | CollectiveError::Unreachable { rank, .. } => (*rank, true),
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
