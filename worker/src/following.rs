//! Copying the replica from another worker and keeping up with it.

use perennial_collective::{CollectiveError, ReplicaFollower, Update};
use perennial_plan::invariants::Invariant;
use perennial_proto::v1::{CaughtUp, FollowFailed, Lost};
use perennial_session::{Report, Source};
use perennial_train::{Replica, TrainError};

use crate::ears::Turn;
use crate::error::WorkerError;
use crate::prepare::Worker;
use crate::shared::{Held, Offered};

/// What an update did.
enum Progress {
    /// All of the replica came: the source has gone on meanwhile.
    Copied,
    /// So many steps behind the source when it answered.
    Behind(u64),
}

impl Worker {
    /// Follows the source until the session wants something else; says once that it has caught up.
    pub fn follow(&self, source: &Source, turn: &Turn) {
        let mut told = false;
        let failed = self.keep_up(source, turn, |progress, (global_step, replica_hash)| {
            // At its next step boundary the source is at most one step further.
            let close = matches!(progress, Progress::Behind(0 | 1));
            if close && !told {
                told = true;
                self.reporter.send(Report::CaughtUp(CaughtUp {
                    global_step,
                    replica_hash,
                }));
            }
            Ok(false)
        });
        match failed {
            // Nobody asks for it any more.
            _ if turn.is_over() => {}
            Ok(()) => {}
            Err(WorkerError::Broken { reason, .. }) => {
                self.reporter.send(Report::FollowFailed(FollowFailed {
                    source: source.worker.clone(),
                    message: reason,
                }));
            }
            Err(error) => self.reporter.send(error.report()),
        }
    }

    /// Copies and follows until the replica stands exactly at `target`.
    pub fn copy_up_to(
        &self,
        source: &Source,
        target: u64,
        turn: &Turn,
    ) -> Result<(), WorkerError> {
        self.keep_up(source, turn, |_, (global_step, _)| {
            if global_step > target {
                let worker = &source.worker;
                return Err(WorkerError::Broken {
                    reason: format!(
                        "worker {worker} hands out step {global_step} where step {target} is wanted"
                    ),
                    lost: Vec::new(),
                });
            }
            Ok(global_step == target)
        })
    }

    /// Takes up what the source hands out until `done`, which hears of each update and where the replica
    /// stands after it.
    fn keep_up(
        &self,
        source: &Source,
        turn: &Turn,
        mut done: impl FnMut(Progress, (u64, u64)) -> Result<bool, WorkerError>,
    ) -> Result<(), WorkerError> {
        let have = self.replica.standing().map(|(global_step, _)| global_step);
        let job = &self.job.spec.name;
        let broken = |error| broken_or(error, source);
        let mut follower =
            ReplicaFollower::connect(&source.address, job, have, turn.abort_handle())
                .map_err(broken)?;
        loop {
            let update = follower.next().map_err(broken)?;
            turn.check()?;
            let progress = match self.take_up(update, source) {
                Err(WorkerError::Train(TrainError::Encoding(reason))) => {
                    // The source is of the same version and job: it was damaged on its way.
                    return Err(WorkerError::Broken {
                        reason,
                        lost: Vec::new(),
                    });
                }
                progress => progress?,
            };
            if let Some(standing) = self.replica.standing()
                && done(progress, standing)?
            {
                return Ok(());
            }
        }
    }

    fn take_up(&self, update: Update, source: &Source) -> Result<Progress, WorkerError> {
        let table = &self.job.network.table;
        let check = |global_step: u64, ours: u64, theirs: u64| {
            Invariant::Rep1.check(ours == theirs, || {
                let worker = &source.worker;
                format!(
                    "the copy of worker {worker}'s replica at step {global_step} has the hash {ours:016x} instead of {theirs:016x}"
                )
            })
        };
        match update {
            Update::Snapshot(snapshot) => {
                let replica = Replica::from_bytes(&self.job.spec, table, &snapshot.bytes)?;
                let held = Held::new(replica);
                check(snapshot.global_step, held.hash, snapshot.hash)?;
                if held.global_step != snapshot.global_step {
                    let (found, named) = (held.global_step, snapshot.global_step);
                    return Err(TrainError::Encoding(format!(
                        "they are of step `{found}` instead of {named}"
                    ))
                    .into());
                }
                self.replica.replace(Some(held));
                Ok(Progress::Copied)
            }
            Update::Delta {
                global_step,
                hash,
                bytes,
            } => {
                let offered = Offered::from_bytes(table, &bytes)?;
                let standing = self.replica.standing().map(|(global_step, _)| global_step);
                if standing.map(|at| at + 1) != Some(global_step) {
                    return Err(TrainError::Encoding(format!(
                        "a step to `{global_step}` came where the replica is at {standing:?}"
                    ))
                    .into());
                }
                let (outcome, _) = self.replica.apply(table, offered.delta)?;
                check(global_step, outcome.hash, hash)?;
                Ok(Progress::Behind(offered.stands_at.saturating_sub(global_step)))
            }
            Update::Idle => Ok(Progress::Behind(0)),
        }
    }
}

fn broken_or(error: CollectiveError, source: &Source) -> WorkerError {
    let silent = match &error {
        CollectiveError::SourceUnreachable { .. } | CollectiveError::SourceSilent { .. } => {
            Some(true)
        }
        CollectiveError::SourceLost { .. } | CollectiveError::SourceRefused { .. } => Some(false),
        CollectiveError::Aborted | CollectiveError::SourceCorrupt { .. } => None,
        _ => return error.into(),
    };
    let lost = silent.map(|silent| Lost {
        worker: source.worker.clone(),
        silent,
    });
    WorkerError::Broken {
        reason: error.to_string(),
        lost: lost.into_iter().collect(),
    }
}
