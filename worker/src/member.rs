//! A member of a generation: its replica, its collective, its place.

use std::time::Duration;

use perennial_collective::{
    Collective, CollectiveError, Contribution, MeshConfig, Reduced, Tcp, TcpEndpoint,
};
use perennial_model::files;
use perennial_plan::Generation;
use perennial_store::PartKind;
use perennial_train::Replica;

use crate::JobContext;
use crate::checkpointing::block_on;
use crate::ears::Ears;
use crate::error::WorkerError;

/// How long members wait for each other to connect.
const CONNECT: Duration = Duration::from_secs(60);
/// How long a member waits in a sum. The coordinator sees a dead member long before.
const SUM: Duration = Duration::from_secs(600);

/// How long a member may say nothing before the others give it up. One that computes is not silent.
const SILENCE: Duration = Duration::from_secs(5);

/// A worker inside a generation.
pub(crate) struct Member<'a> {
    pub context: &'a JobContext,
    pub generation: Generation,
    pub rank: usize,
    pub replica: Replica,
    collective: Tcp,
}

// === impl Member ===

impl<'a> Member<'a> {
    /// Takes up the generation's replica and connects with the other members.
    pub fn join(
        context: &'a JobContext,
        endpoint: &TcpEndpoint,
        generation: Generation,
        worker: &str,
        ears: &Ears,
    ) -> Result<Self, WorkerError> {
        let rank = generation
            .members
            .iter()
            .position(|member| member.worker == worker)
            .ok_or_else(|| {
                WorkerError::Ended(format!(
                    "generation {} has no member {worker}",
                    generation.id
                ))
            })?;
        let replica = starting_replica(context, generation.checkpoint)?;
        let config = MeshConfig {
            job: context.spec.name.clone(),
            generation: generation.id,
            rank,
            addresses: generation
                .members
                .iter()
                .map(|member| member.address.clone())
                .collect(),
            deadline: CONNECT,
            timeout: SUM,
            silence: SILENCE,
        };
        let collective = endpoint
            .connect(config, ears.abort_handle())
            .map_err(|error| lost_or(error, &generation))?;
        Ok(Self {
            context,
            generation,
            rank,
            replica,
            collective,
        })
    }

    pub fn all_reduce(&mut self, contribution: Contribution) -> Result<Reduced, WorkerError> {
        self.collective
            .all_reduce(contribution)
            .map_err(|error| lost_or(error, &self.generation))
    }
}

/// An error that names the member that is gone, where one is.
fn lost_or(error: CollectiveError, generation: &Generation) -> WorkerError {
    let peer = match &error {
        CollectiveError::PeerLost { rank, .. }
        | CollectiveError::Silent { rank, .. }
        | CollectiveError::Timeout { rank, .. } => *rank,
        _ => return error.into(),
    };
    match generation.members.get(peer) {
        Some(member) => WorkerError::PeerLost {
            peer: member.worker.clone(),
            reason: error.to_string(),
        },
        None => error.into(),
    }
}

/// The replica of a checkpoint, or the one before the first step.
fn starting_replica(context: &JobContext, checkpoint: Option<u64>) -> Result<Replica, WorkerError> {
    let JobContext {
        spec,
        network,
        store,
        ..
    } = context;
    let table = &network.table;
    let initial = table.initial_weights(spec.seed);
    if let Some(step) = checkpoint {
        let job = store.job(&spec.name)?;
        let (model, ema, optimizer) = block_on(async {
            let manifest = job.load_manifest(step).await?;
            let model = job.load_part(&manifest, PartKind::Model).await?;
            let ema = match manifest.part(PartKind::Ema) {
                Some(_) => Some(job.load_part(&manifest, PartKind::Ema).await?),
                None => None,
            };
            Ok::<_, perennial_store::StoreError>((
                model,
                ema,
                job.load_part(&manifest, PartKind::Optimizer).await?,
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
