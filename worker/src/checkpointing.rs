//! Checkpoints in the background: a copy of the replica goes to a thread that writes this member's parts.

use std::future::Future;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use perennial_model::{ModelCard, Table};
use perennial_plan::tensors::weights_sha256;
use perennial_proto::rules::{part_kinds, part_writer};
use perennial_proto::v1::{CheckpointFailed, PartWritten};
use perennial_store::{Part, PartKind, tensors};
use perennial_train::Replica;

use crate::error::WorkerError;
use crate::member::Member;
use crate::session::{Report, Reporter};

/// Runs one asynchronous piece of work to its end.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, WorkerError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| WorkerError::Thread(error.to_string()))?;
    Ok(runtime.block_on(work))
}

/// A thread that writes checkpoints. Dropping it waits until everything handed to it is written.
pub(crate) struct CheckpointWriter {
    queue: Option<SyncSender<(u64, Replica)>>,
    thread: Option<JoinHandle<()>>,
}

// === impl CheckpointWriter ===

impl CheckpointWriter {
    pub fn new(member: &Member, reporter: Reporter) -> Result<Self, WorkerError> {
        let spec = member.context.spec.clone();
        let table = member.context.network.table.clone();
        let classes = member.context.pipeline.data().classes.clone();
        let card = ModelCard::new(&spec, classes);
        let job = member.context.store.job(&spec.name)?;
        let generation = member.generation.id;
        let (rank, world_size) = (member.rank, member.generation.members.len());
        let (queue, replicas) = sync_channel::<(u64, Replica)>(1);
        let write = move || {
            for (global_step, replica) in replicas {
                for (index, kind) in part_kinds(&spec).iter().enumerate() {
                    if part_writer(index, world_size) != rank {
                        continue;
                    }
                    let report = match write_part(&job, global_step, kind, &replica, &table, &card)
                    {
                        Ok((part, tensors_sha256)) => Report::PartWritten(PartWritten {
                            generation,
                            global_step,
                            kind: kind.to_string(),
                            path: part.path,
                            bytes: part.bytes,
                            sha256: part.sha256,
                            tensors_sha256,
                        }),
                        Err(error) => Report::CheckpointFailed(CheckpointFailed {
                            generation,
                            global_step,
                            message: error.to_string(),
                        }),
                    };
                    reporter.send(report);
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("checkpoints".into())
            .spawn(write)
            .map_err(|error| WorkerError::Thread(error.to_string()))?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    /// Takes a copy of the replica; waits only while two earlier ones are still being written.
    pub fn write(&self, global_step: u64, replica: &Replica) {
        if let Some(queue) = &self.queue {
            // The thread ends only with this handle.
            let _ = queue.send((global_step, replica.clone()));
        }
    }
}

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_part(
    job: &perennial_store::Job,
    global_step: u64,
    kind: &str,
    replica: &Replica,
    table: &Table,
    card: &ModelCard,
) -> Result<(Part, String), WorkerError> {
    let (kind, named) = match kind {
        "model" => (PartKind::Model, table.to_named(&replica.weights)),
        "ema" => (
            PartKind::Ema,
            table.to_named(replica.ema.as_ref().unwrap_or(&replica.weights)),
        ),
        _ => (PartKind::Optimizer, replica.optimizer_to_named(table)),
    };
    let bytes = match kind {
        PartKind::Optimizer => tensors::encode(&named)?,
        PartKind::Model | PartKind::Ema => {
            tensors::encode_described(&named, ModelCard::KEY, &card.to_json())?
        }
    };
    let part = block_on(job.write_part(global_step, kind, bytes))??;
    Ok((part, weights_sha256(&named)))
}
