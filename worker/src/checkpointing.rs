//! Checkpoints in the background.
//!
//! The replica is copied while the next step's slots are being computed: training waits only until the
//! copying thread holds the replica's read lock, and again before it changes the replica if the copy is
//! not done by then. Another thread encodes and writes.

use std::future::Future;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perennial_model::{ModelCard, Weights};
use perennial_plan::tensors::weights_sha256;
use perennial_proto::rules::{part_kinds, part_writer};
use perennial_proto::v1::{CheckpointFailed, PartWritten};
use perennial_session::{Assignment, Report, Reporter};
use perennial_store::{PartKind, tensors};
use perennial_train::{OptimizerState, Replica};

use crate::error::WorkerError;
use crate::prepare::JobContext;
use crate::shared::SharedReplica;

/// Runs one asynchronous piece of work to its end.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, WorkerError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| WorkerError::Thread(error.to_string()))?;
    Ok(runtime.block_on(work))
}

/// Whether a checkpoint can be left out when the one before it is still being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// The next one will do.
    Routine,
    /// It is the last one for now.
    Last,
}

/// Checkpoints that may be under way: one that is written and one that waits.
const UNDER_WAY: usize = 2;

/// Two threads that copy and write checkpoints, through all generations. They end with the process.
pub(crate) struct CheckpointWriter {
    job: Arc<JobContext>,
    reporter: Reporter,
    requests: Sender<Request>,
    desk: Arc<Mutex<Desk>>,
}

#[derive(Default)]
struct Desk {
    under_way: usize,
    /// Memory that is there already, for the next copy.
    spare: Option<Copied>,
}

/// The parts that a member writes of one checkpoint.
struct Parts {
    generation: u64,
    global_step: u64,
    kinds: Vec<&'static str>,
}

struct Request {
    parts: Parts,
    /// Told once the replica cannot change any more before it is copied.
    held: SyncSender<()>,
}

/// What a member's parts are made of.
#[derive(Default)]
struct Copied {
    model: Option<Weights>,
    ema: Option<Weights>,
    optimizer: Option<OptimizerState>,
}

// === impl CheckpointWriter ===

impl CheckpointWriter {
    pub fn new(
        job: &Arc<JobContext>,
        replica: &Arc<SharedReplica>,
        reporter: &Reporter,
    ) -> Result<Self, WorkerError> {
        let desk = Arc::new(Mutex::new(Desk::default()));
        let (requests, requested) = channel();
        let (copies, copied) = channel();
        let copying = {
            let (replica, reporter, desk) = (replica.clone(), reporter.clone(), desk.clone());
            move || copy_all(&requested, &replica, &copies, &reporter, &desk)
        };
        let writing = {
            let (job, reporter, desk) = (job.clone(), reporter.clone(), desk.clone());
            move || write_all(&copied, &job, &reporter, &desk)
        };
        spawn("checkpoint-copy", copying)?;
        spawn("checkpoint-write", writing)?;
        Ok(Self {
            job: job.clone(),
            reporter: reporter.clone(),
            requests,
            desk,
        })
    }

    /// Has this member's parts of the checkpoint of `global_step`, where the replica stands, written.
    /// Waits only until the replica may be read by the next step; it must not change before this returns.
    pub fn write(&self, assignment: &Assignment, global_step: u64, urgency: Urgency) {
        let world_size = assignment.generation.members.len();
        let parts = Parts {
            generation: assignment.generation.id,
            global_step,
            kinds: own_kinds(part_kinds(&self.job.spec), world_size, assignment.rank),
        };
        if parts.kinds.is_empty() {
            return;
        }
        let limit = match urgency {
            Urgency::Routine => 1,
            Urgency::Last => UNDER_WAY,
        };
        let mut desk = lock(&self.desk);
        if desk.under_way >= limit {
            drop(desk);
            return self.reporter.send(failed(
                &parts,
                "the checkpoint before it is still being written",
            ));
        }
        desk.under_way += 1;
        drop(desk);
        let (held, wait) = sync_channel(1);
        if self.requests.send(Request { parts, held }).is_ok() {
            // Without an answer nobody copies, and nothing is to be waited for.
            let _ = wait.recv();
        }
    }
}

/// The kinds of parts that the member of `rank` writes.
fn own_kinds(kinds: &[&'static str], world_size: usize, rank: usize) -> Vec<&'static str> {
    let kinds = kinds.iter().copied().enumerate();
    kinds
        .filter(|(index, _)| part_writer(*index, world_size) == rank)
        .map(|(_, kind)| kind)
        .collect()
}

fn copy_all(
    requests: &Receiver<Request>,
    replica: &SharedReplica,
    copies: &Sender<(Parts, Copied)>,
    reporter: &Reporter,
    desk: &Mutex<Desk>,
) {
    for Request { parts, held } in requests {
        let mut copied = lock(desk).spare.take().unwrap_or_default();
        let found = replica.read(|replica| {
            // Training goes on until it needs the write lock.
            let _ = held.send(());
            let replica = replica.filter(|held| held.global_step == parts.global_step)?;
            copied.take(&replica.replica, &parts.kinds);
            Some(())
        });
        if found.is_none() {
            lock(desk).under_way -= 1;
            reporter.send(failed(&parts, "the replica no longer stands there"));
        } else if copies.send((parts, copied)).is_err() {
            return;
        }
    }
}

fn write_all(
    copies: &Receiver<(Parts, Copied)>,
    job: &JobContext,
    reporter: &Reporter,
    desk: &Mutex<Desk>,
) {
    let classes = job.pipeline.data().classes.clone();
    let card = ModelCard::new(&job.spec, classes).to_json();
    for (parts, copied) in copies {
        for kind in &parts.kinds {
            let report = match write_part(job, &card, parts.global_step, kind, &copied) {
                Ok(written) => Report::PartWritten(PartWritten {
                    generation: parts.generation,
                    ..written
                }),
                Err(error) => failed(&parts, &error.to_string()),
            };
            reporter.send(report);
        }
        let mut desk = lock(desk);
        desk.under_way -= 1;
        desk.spare = Some(copied);
    }
}

fn write_part(
    job: &JobContext,
    card: &str,
    global_step: u64,
    kind: &str,
    copied: &Copied,
) -> Result<PartWritten, WorkerError> {
    let table = &job.network.table;
    let missing = || WorkerError::Inference(format!("part `{kind}` was not copied"));
    let (part, named) = match kind {
        "model" => (
            PartKind::Model,
            table.to_named(copied.model.as_ref().ok_or_else(missing)?),
        ),
        "ema" => (
            PartKind::Ema,
            table.to_named(copied.ema.as_ref().ok_or_else(missing)?),
        ),
        _ => (
            PartKind::Optimizer,
            copied
                .optimizer
                .as_ref()
                .ok_or_else(missing)?
                .to_named(table),
        ),
    };
    let bytes = match part {
        PartKind::Optimizer => tensors::encode(&named)?,
        PartKind::Model | PartKind::Ema => {
            tensors::encode_described(&named, ModelCard::KEY, card)?
        }
    };
    let stored = job.store.job(&job.spec.name)?;
    let written = block_on(stored.write_part(global_step, part, bytes))??;
    Ok(PartWritten {
        generation: 0,
        global_step,
        kind: kind.to_string(),
        path: written.path,
        bytes: written.bytes,
        sha256: written.sha256,
        tensors_sha256: weights_sha256(&named),
    })
}

fn failed(parts: &Parts, message: &str) -> Report {
    Report::CheckpointFailed(CheckpointFailed {
        generation: parts.generation,
        global_step: parts.global_step,
        message: message.to_string(),
    })
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), WorkerError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map_err(|error| WorkerError::Thread(error.to_string()))?;
    Ok(())
}

fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Copied ===

impl Copied {
    fn take(&mut self, replica: &Replica, kinds: &[&str]) {
        for kind in kinds {
            match *kind {
                "model" => copy_weights(&mut self.model, &replica.weights),
                "ema" => {
                    if let Some(ema) = &replica.ema {
                        copy_weights(&mut self.ema, ema);
                    }
                }
                _ => replica.copy_optimizer(self.optimizer.get_or_insert_default()),
            }
        }
    }
}

/// Copies into the memory that is there.
fn copy_weights(copy: &mut Option<Weights>, weights: &Weights) {
    match copy {
        None => *copy = Some(weights.clone()),
        Some(copy) => {
            copy.parameters.clone_from(&weights.parameters);
            copy.statistics.clone_from(&weights.statistics);
            copy.batches_tracked = weights.batches_tracked;
        }
    }
}
