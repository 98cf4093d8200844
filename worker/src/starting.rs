//! The replica of a generation's start cursor, from where it is to be had.

use std::time::Duration;

use perennial_collective::{CollectiveError, ReplicaFollower, Update};
use perennial_model::{Network, Table, Weights, files};
use perennial_plan::Spec;
use perennial_plan::invariants::Invariant;
use perennial_proto::v1::{CaughtUp, FollowFailed, Lost};
use perennial_session::{Assignment, Report, Source};
use perennial_store::{NamedTensors, PartKind, StoreError};
use perennial_train::{Replica, Scores, StepDelta, TrainError, scores};

use crate::checkpointing::block_on;
use crate::ears::Turn;
use crate::error::WorkerError;
use crate::evaluating::Evaluated;
use crate::prepare::{JobContext, Worker};
use crate::shared::{Held, Offered, State};

/// How often a load looks whether it is still wanted.
const POLL: Duration = Duration::from_millis(20);
/// A follower that is no further behind than this has caught up.
const CLOSE: u64 = 2;

impl Worker {
    /// Brings the replica to the start of the generation.
    pub fn take_up(&self, assignment: &Assignment, turn: &Turn) -> Result<(), WorkerError> {
        let start = assignment.generation.start;
        let step = start.global_step(self.job.steps_per_epoch);
        let Some(source) = &assignment.source else {
            let checkpoint = assignment.generation.checkpoint;
            let state = match &self.job.evaluated {
                None => State::Training(starting_replica(&self.job, checkpoint, turn)?),
                Some(evaluated) => {
                    State::Evaluating(starting_scores(&self.job, evaluated, checkpoint, turn)?)
                }
            };
            self.replica.replace(Some(self.held(state)?));
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

    /// `state` where it is trained.
    fn held(&self, state: State) -> Result<Held, TrainError> {
        Held::of(state, self.resides.then_some(&self.device))
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
        let lost = |error| no_copy(error, source);
        let have = self.replica.standing().map(|(at, _)| at);
        // What lies beyond the start is of no use.
        let have = have.filter(|at| until.is_none_or(|until| *at <= until));
        let job = &self.job;
        let mut follower = ReplicaFollower::connect_encrypted(
            &source.address,
            &job.spec.name,
            have,
            self.tls.as_ref(),
            turn.abort_handle(),
        )
        .map_err(lost)?;
        let table = &job.network.table;
        let mut told = until.is_some();
        loop {
            let behind = match follower.next_update().map_err(lost)? {
                Update::Idle => 0,
                Update::Snapshot(snapshot) => {
                    let state = job.state_of(&snapshot.bytes);
                    let held = self.held(state.map_err(|error| damaged(&error, source))?)?;
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
                    let step = |bytes: &[u8]| job.step_of(global_step, bytes);
                    let Offered { stands_at, delta }: Offered<StepDelta> =
                        Offered::from_bytes(&bytes, step)
                            .map_err(|error| damaged(&error, source))?;
                    let at = self.replica.standing().map(|(at, _)| at + 1);
                    if at != Some(global_step) {
                        let reason = format!("the step to {global_step} came out of turn");
                        return Err(damaged(&TrainError::Encoding(reason), source));
                    }
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

// === impl JobContext ===

impl JobContext {
    /// The state that another member sent.
    fn state_of(&self, bytes: &[u8]) -> Result<State, TrainError> {
        match &self.evaluated {
            None => {
                Replica::from_bytes(&self.spec, &self.network.table, bytes).map(State::Training)
            }
            Some(evaluated) => {
                let labels = evaluated.labels.clone();
                Scores::from_bytes(&self.spec, labels, bytes).map(State::Evaluating)
            }
        }
    }

    /// The step that another member sent, after which `global_step` are done.
    fn step_of(&self, global_step: u64, bytes: &[u8]) -> Result<StepDelta, TrainError> {
        match &self.evaluated {
            None => StepDelta::from_bytes(&self.network.table, bytes),
            Some(evaluated) => {
                let (pictures, before) = (evaluated.labels.len(), global_step.saturating_sub(1));
                let numbers = scores::numbers_of(&self.spec, pictures, before);
                StepDelta::of_scores(numbers, bytes)
            }
        }
    }
}

/// What an error of the copying means. Only a source that is gone is lost: what was damaged on its way is
/// copied again.
fn no_copy(error: CollectiveError, source: &Source) -> WorkerError {
    let silent = match &error {
        CollectiveError::Aborted => return WorkerError::told(),
        CollectiveError::SourceCorrupt { .. } => None,
        CollectiveError::SourceSilent { .. } | CollectiveError::SourceUnreachable { .. } => {
            Some(true)
        }
        _ => Some(false),
    };
    let lost = silent.map(|silent| Lost {
        worker: source.worker.clone(),
        silent,
    });
    WorkerError::Broken {
        reason: format!(
            "the replica of worker `{}` cannot be copied: {error}",
            source.worker
        ),
        lost: lost.into_iter().collect(),
    }
}

fn damaged(error: &TrainError, source: &Source) -> WorkerError {
    no_copy(
        CollectiveError::SourceCorrupt {
            address: source.address.clone(),
            reason: error.to_string(),
        },
        source,
    )
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
    let (weights, replaced) = pretrained(path, table, &initial)?;
    if !replaced.is_empty() {
        tracing::info!(
            path,
            ?replaced,
            "the head is drawn anew for the classes of this data set"
        );
    }
    Ok(Replica::new(spec, table, weights))
}

/// The weights of a file, and which of them are drawn anew.
fn pretrained(
    path: &str,
    table: &Table,
    initial: &Weights,
) -> Result<(Weights, Vec<String>), WorkerError> {
    let named = files::read(path.as_ref(), files::Weights::Raw)?;
    let taken = table.from_pretrained(named, initial);
    taken.map_err(|source| WorkerError::Weights {
        path: format!("weights file `{path}`"),
        source,
    })
}

/// Refuses a file of weights that a job with so many classes cannot start from.
pub fn refuse_weights(spec: &Spec, classes: usize) -> Result<(), WorkerError> {
    let Some(path) = &spec.model.weights else {
        return Ok(());
    };
    let network = Network::new(&spec.model, classes)?;
    let initial = network.table.initial_weights(spec.seed);
    pretrained(path, &network.table, &initial)?;
    Ok(())
}

/// The scores of a checkpoint, or those of no picture.
fn starting_scores(
    job: &JobContext,
    evaluated: &Evaluated,
    checkpoint: Option<u64>,
    turn: &Turn,
) -> Result<Scores, WorkerError> {
    let Some(step) = checkpoint else {
        return Ok(evaluated.none(&job.spec));
    };
    let stored = job.store.job(&job.spec.name)?;
    let load = async {
        let manifest = stored.load_manifest(step).await?;
        stored.load_part(&manifest, PartKind::Scores).await
    };
    let named = unless_unwanted(load, turn)?;
    let labels = evaluated.labels.clone();
    Ok(Scores::from_named(&job.spec, labels, &named)?)
}

/// Model, average and optimizer of a checkpoint, unless the generation is broken off before.
fn load_parts(
    job: &JobContext,
    step: u64,
    turn: &Turn,
) -> Result<(NamedTensors, Option<NamedTensors>, NamedTensors), WorkerError> {
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
    unless_unwanted(load, turn)
}

/// What is loaded, unless the generation is broken off before.
fn unless_unwanted<T>(
    load: impl Future<Output = Result<T, StoreError>>,
    turn: &Turn,
) -> Result<T, WorkerError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(error: impl Fn(String) -> CollectiveError) -> Vec<(String, bool)> {
        let source = Source {
            worker: "w2".into(),
            address: "127.0.0.1:9".into(),
            global_step: 7,
            replica_hash: 1,
        };
        let error = no_copy(error(source.address.clone()), &source);
        assert!(!error.is_fatal(), "the job goes on without this copy");
        let WorkerError::Broken { lost, .. } = error else {
            panic!("a copy that fails breaks the generation: {error}");
        };
        let lost = lost.into_iter();
        lost.map(|lost| (lost.worker, lost.silent)).collect()
    }

    #[test]
    fn a_source_is_lost_when_it_is_gone_and_not_when_a_copy_was_damaged() {
        let reason = String::new;
        let gone = lost(|address| CollectiveError::SourceLost {
            address,
            reason: reason(),
        });
        assert_eq!(gone, [("w2".into(), false)]);
        let silent = lost(|address| CollectiveError::SourceSilent {
            address,
            seconds: 5,
        });
        assert_eq!(silent, [("w2".into(), true)]);
        let unreachable = lost(|address| CollectiveError::SourceUnreachable {
            address,
            reason: reason(),
        });
        assert_eq!(unreachable, [("w2".into(), true)]);
        let corrupt = lost(|address| CollectiveError::SourceCorrupt {
            address,
            reason: reason(),
        });
        assert_eq!(corrupt, []);
    }
}
