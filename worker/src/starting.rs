//! Bringing the replica to the cursor at which a generation starts.

use std::time::Duration;

use perennial_model::files;
use perennial_plan::invariants::Invariant;
use perennial_session::Assignment;
use perennial_store::{PartKind, StoreError};
use perennial_train::Replica;

use crate::checkpointing::block_on;
use crate::ears::Turn;
use crate::error::WorkerError;
use crate::prepare::{JobContext, Worker};
use crate::shared::Held;

/// How often a load looks whether it is still wanted.
const POLL: Duration = Duration::from_millis(20);

impl Worker {
    /// Brings the replica to the generation's start: it is there already, or is copied from the source, or
    /// loaded from the generation's checkpoint, or begins with the initial weights.
    pub fn bring_to_start(&self, assignment: &Assignment, turn: &Turn) -> Result<(), WorkerError> {
        let generation = &assignment.generation;
        let start = generation.start.global_step(self.job.steps_per_epoch);
        let standing = self.replica.standing();
        if standing.is_some_and(|(global_step, _)| global_step > start) {
            // It never goes back by itself: what it holds is of no use any more.
            self.replica.replace(None);
        }
        match &assignment.source {
            Some(source) => {
                Invariant::Ex2.check(source.global_step == start, || {
                    let (id, at) = (generation.id, source.global_step);
                    format!("generation {id} starts at step {start}, its source stands at {at}")
                })?;
                if standing.map(|(global_step, _)| global_step) != Some(start) {
                    self.copy_up_to(source, start, turn)?;
                }
                let hash = self.replica.standing().map(|(_, hash)| hash);
                Invariant::Rep1.check(hash == Some(source.replica_hash), || {
                    let (worker, theirs) = (&source.worker, source.replica_hash);
                    let ours = hash.unwrap_or_default();
                    format!(
                        "at step {start} this replica's hash is {ours:016x}, that of worker {worker} is {theirs:016x}"
                    )
                })?;
            }
            None if standing.map(|(global_step, _)| global_step) == Some(start) => {}
            None => {
                self.replica.replace(None);
                let held = Held::new(starting_replica(&self.job, generation.checkpoint, turn)?);
                Invariant::Ex2.check(held.global_step == start, || {
                    let (id, at) = (generation.id, held.global_step);
                    format!("generation {id} starts at step {start}, its checkpoint is of step {at}")
                })?;
                self.replica.replace(Some(held));
            }
        }
        Ok(())
    }
}

/// The replica of a checkpoint, or the one before the first step.
fn starting_replica(
    job: &JobContext,
    checkpoint: Option<u64>,
    turn: &Turn,
) -> Result<Replica, WorkerError> {
    let JobContext { spec, network, .. } = job;
    let table = &network.table;
    let initial = table.initial_weights(spec.seed);
    if let Some(step) = checkpoint {
        let (model, ema, optimizer) = load_parts(job, step, turn)?;
        let mut replica = Replica::new(spec, table, initial);
        replica
            .load_weights(table, &model, ema.as_ref())
            .map_err(|source| WorkerError::Weights {
                path: format!("checkpoint {step} of job `{}`", spec.name),
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

type Parts = (
    perennial_store::NamedTensors,
    Option<perennial_store::NamedTensors>,
    perennial_store::NamedTensors,
);

/// Model, average and optimizer of a checkpoint, unless the generation is broken off before.
fn load_parts(job: &JobContext, step: u64, turn: &Turn) -> Result<Parts, WorkerError> {
    let stored = job.store.job(&job.spec.name)?;
    let load = async {
        let manifest = stored.load_manifest(step).await?;
        let model = stored.load_part(&manifest, PartKind::Model).await?;
        let ema = match manifest.part(PartKind::Ema) {
            Some(_) => Some(stored.load_part(&manifest, PartKind::Ema).await?),
            None => None,
        };
        let optimizer = stored.load_part(&manifest, PartKind::Optimizer).await?;
        Ok::<_, StoreError>((model, ema, optimizer))
    };
    let unwanted = async {
        while !turn.is_over() {
            tokio::time::sleep(POLL).await;
        }
    };
    block_on(async {
        tokio::select! {
            loaded = load => Ok(loaded?),
            () = unwanted => Err(WorkerError::told()),
        }
    })?
}
