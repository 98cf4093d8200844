//! The replica of a generation's start cursor, from where it is to be had.

use perennial_collective::{CollectiveError, ReplicaFollower, Update};
use perennial_model::files;
use perennial_plan::invariants::Invariant;
use perennial_proto::v1::{CaughtUp, FollowFailed, Lost};
use perennial_session::{Assignment, Report, Source};
use perennial_store::PartKind;
use perennial_train::{Replica, StepDelta};

use crate::checkpointing::block_on;
use crate::ears::Turn;
use crate::error::WorkerError;
use crate::prepare::{JobContext, Worker};
use crate::shared::{Held, Offered};

/// A follower that is no further behind than this has caught up.
const CLOSE: u64 = 2;

impl Worker {
    /// Brings the replica to the start of the generation.
    pub fn take_up(&self, assignment: &Assignment, turn: &Turn) -> Result<(), WorkerError> {
        let start = assignment.generation.start;
        let step = start.global_step(self.job.steps_per_epoch);
        let Some(source) = &assignment.source else {
            let replica = starting_replica(&self.job, assignment.generation.checkpoint)?;
            turn.check()?;
            self.replica.replace(Some(Held::new(replica)));
            return Ok(());
        };
        if self.replica.standing().map(|(at, _)| at) != Some(step) {
            self.copy(source, turn, Some(step))?;
        }
        let (_, hash) = self.replica.standing().unwrap_or_default();
        Invariant::Rep1.check(hash == source.replica_hash, || {
            let (worker, theirs) = (&source.worker, source.replica_hash);
            format!("at {start} worker `{worker}` has replica {theirs:016x}, this one {hash:016x}")
        })?;
        Ok(())
    }

    /// Copies a replica and keeps up with it until the turn is over.
    pub fn follow(&self, source: &Source, turn: &Turn) {
        let Err(error) = self.copy(source, turn, None) else {
            return;
        };
        if !turn.is_over() {
            self.reporter.send(Report::FollowFailed(FollowFailed {
                source: source.worker.clone(),
                message: error.to_string(),
            }));
        }
    }

    /// Follows the source up to the step `until`, or for as long as the turn goes on.
    fn copy(&self, source: &Source, turn: &Turn, until: Option<u64>) -> Result<(), WorkerError> {
        let lost = |error: CollectiveError| match error {
            CollectiveError::Aborted => WorkerError::told(),
            error => WorkerError::Broken {
                reason: format!(
                    "the replica of worker `{}` cannot be copied: {error}",
                    source.worker
                ),
                lost: vec![Lost {
                    worker: source.worker.clone(),
                    silent: false,
                }],
            },
        };
        let have = self.replica.standing().map(|(at, _)| at);
        // What lies beyond the start is of no use.
        let have = have.filter(|at| until.is_none_or(|until| *at <= until));
        let job = &self.job;
        let mut follower =
            ReplicaFollower::connect(&source.address, &job.spec.name, have, turn.abort_handle())
                .map_err(lost)?;
        let table = &job.network.table;
        let mut told = until.is_some();
        loop {
            let behind = match follower.next_update().map_err(lost)? {
                Update::Idle => 0,
                Update::Snapshot(snapshot) => {
                    let replica = Replica::from_bytes(&job.spec, table, &snapshot.bytes)?;
                    let held = Held::new(replica);
                    self.same(source, held.hash, snapshot.hash)?;
                    self.replica.replace(Some(held));
                    // How far the source has gone meanwhile shows with the next step.
                    CLOSE + 1
                }
                Update::Delta {
                    global_step,
                    hash,
                    bytes,
                } => {
                    let Offered { stands_at, delta }: Offered<StepDelta> =
                        Offered::from_bytes(table, &bytes)?;
                    let (outcome, _) = self.replica.apply(table, delta)?;
                    self.same(source, outcome.hash, hash)?;
                    stands_at.saturating_sub(global_step)
                }
            };
            let Some((at, hash)) = self.replica.standing() else {
                continue;
            };
            if until == Some(at) {
                return Ok(());
            }
            if behind <= CLOSE && !told {
                told = true;
                self.reporter.send(Report::CaughtUp(CaughtUp {
                    global_step: at,
                    replica_hash: hash,
                }));
            }
        }
    }

    fn same(&self, source: &Source, ours: u64, theirs: u64) -> Result<(), WorkerError> {
        Invariant::Rep1.check(ours == theirs, || {
            let worker = &source.worker;
            format!(
                "a copy of worker `{worker}`'s replica is {ours:016x} where that is {theirs:016x}"
            )
        })?;
        Ok(())
    }
}

/// The replica of a checkpoint, or the one before the first step.
fn starting_replica(job: &JobContext, checkpoint: Option<u64>) -> Result<Replica, WorkerError> {
    let JobContext {
        spec,
        network,
        store,
        ..
    } = job;
    let table = &network.table;
    let initial = table.initial_weights(spec.seed);
    if let Some(step) = checkpoint {
        let stored = store.job(&spec.name)?;
        let (model, ema, optimizer) = block_on(async {
            let manifest = stored.load_manifest(step).await?;
            let model = stored.load_part(&manifest, PartKind::Model).await?;
            let ema = match manifest.part(PartKind::Ema) {
                Some(_) => Some(stored.load_part(&manifest, PartKind::Ema).await?),
                None => None,
            };
            Ok::<_, perennial_store::StoreError>((
                model,
                ema,
                stored.load_part(&manifest, PartKind::Optimizer).await?,
            ))
        })??;
        let mut replica = Replica::new(spec, table, initial);
        let path = || format!("checkpoint {step} of job `{}`", spec.name);
        replica
            .load_weights(table, &model, ema.as_ref())
            .map_err(|source| WorkerError::Weights {
                path: path(),
                source,
            })?;
        replica.load_optimizer(table, &optimizer)?;
        return Ok(replica);
    }
    let Some(path) = &spec.model.weights else {
        return Ok(Replica::new(spec, table, initial));
    };
    let named = files::read(path.as_ref(), files::Weights::Raw)?;
    let (weights, replaced) =
        table
            .from_pretrained(named, &initial)
            .map_err(|source| WorkerError::Weights {
                path: format!("weights file `{path}`"),
                source,
            })?;
    if !replaced.is_empty() {
        tracing::info!(
            path,
            ?replaced,
            "the head is drawn anew for the classes of this data set"
        );
    }
    Ok(Replica::new(spec, table, weights))
}
