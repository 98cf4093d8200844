//! Checkpoints in the background: a thread copies the replica while the next step is computed, then
//! writes this member's parts.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use perennial_model::{ModelCard, Table};
use perennial_plan::tensors::weights_sha256;
use perennial_proto::rules::{part_kinds, part_writer};
use perennial_proto::v1::{CheckpointFailed, PartWritten};
use perennial_session::{Report, Reporter};
use perennial_store::{PartKind, tensors};
use perennial_train::Replica;

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

/// A member's share of a checkpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub global_step: u64,
    pub generation: u64,
    pub rank: usize,
    pub world_size: usize,
    /// It waits for an earlier one that is being written; others are left out then.
    pub last: bool,
}

/// A thread that writes checkpoints, through all generations. Dropping it waits until everything handed
/// to it is written.
pub(crate) struct CheckpointWriter {
    queue: Option<Sender<(Part, SyncSender<()>)>>,
    thread: Option<JoinHandle<()>>,
    busy: Arc<AtomicBool>,
    reporter: Reporter,
    kinds: &'static [&'static str],
}

// === impl Part ===

impl Part {
    /// The kinds of files that this member writes.
    fn kinds(self, all: &'static [&'static str]) -> impl Iterator<Item = &'static str> {
        let kinds = all.iter().enumerate();
        kinds
            .filter(move |(index, _)| part_writer(*index, self.world_size) == self.rank)
            .map(|(_, kind)| *kind)
    }

    fn failed(self, message: String) -> Report {
        Report::CheckpointFailed(CheckpointFailed {
            generation: self.generation,
            global_step: self.global_step,
            message,
        })
    }
}

// === impl CheckpointWriter ===

impl CheckpointWriter {
    pub fn new(
        job: &Arc<JobContext>,
        replica: &Arc<SharedReplica>,
        reporter: &Reporter,
    ) -> Result<Self, WorkerError> {
        let busy = Arc::new(AtomicBool::new(false));
        let (queue, parts) = channel();
        let writing = Writing {
            job: job.clone(),
            replica: replica.clone(),
            store: job.store.job(&job.spec.name)?,
            card: ModelCard::new(&job.spec, job.pipeline.data().classes.clone()),
            reporter: reporter.clone(),
            busy: busy.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("checkpoints".into())
            .spawn(move || writing.run(&parts))
            .map_err(|error| WorkerError::Thread(error.to_string()))?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
            busy,
            reporter: reporter.clone(),
            kinds: part_kinds(&job.spec),
        })
    }

    /// Returns as soon as the replica is held fast; it is copied and written meanwhile. Whoever steps next
    /// waits for the copy, not for the writing.
    pub fn write(&self, part: Part) {
        if part.kinds(self.kinds).next().is_none() {
            return;
        }
        let busy = self.busy.swap(true, Ordering::SeqCst);
        if busy && !part.last {
            let message = "the one before is still being written".to_string();
            return self.reporter.send(part.failed(message));
        }
        let (holds, held) = sync_channel(1);
        if let Some(queue) = &self.queue {
            // The thread ends only with this handle.
            let _ = queue.send((part, holds));
            let _ = held.recv();
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

struct Writing {
    job: Arc<JobContext>,
    replica: Arc<SharedReplica>,
    store: perennial_store::Job,
    card: ModelCard,
    reporter: Reporter,
    busy: Arc<AtomicBool>,
}

// === impl Writing ===

impl Writing {
    fn run(&self, parts: &Receiver<(Part, SyncSender<()>)>) {
        for (part, holds) in parts {
            let copy = self.replica.read(|held| {
                // From here on the replica cannot change.
                let _ = holds.send(());
                let held = held.filter(|held| held.global_step == part.global_step)?;
                Some(held.replica.clone())
            });
            match copy {
                Some(replica) => self.write(part, &replica),
                None => self
                    .reporter
                    .send(part.failed("the replica has moved on".to_string())),
            }
            self.busy.store(false, Ordering::SeqCst);
        }
    }

    fn write(&self, part: Part, replica: &Replica) {
        let table = &self.job.network.table;
        for kind in part.kinds(part_kinds(&self.job.spec)) {
            let report = match self.write_kind(part.global_step, kind, replica, table) {
                Ok((written, tensors_sha256)) => Report::PartWritten(PartWritten {
                    generation: part.generation,
                    global_step: part.global_step,
                    kind: kind.to_string(),
                    path: written.path,
                    bytes: written.bytes,
                    sha256: written.sha256,
                    tensors_sha256,
                }),
                Err(error) => part.failed(error.to_string()),
            };
            self.reporter.send(report);
        }
    }

    fn write_kind(
        &self,
        global_step: u64,
        kind: &str,
        replica: &Replica,
        table: &Table,
    ) -> Result<(perennial_store::Part, String), WorkerError> {
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
                tensors::encode_described(&named, ModelCard::KEY, &self.card.to_json())?
            }
        };
        let part = block_on(self.store.write_part(global_step, kind, bytes))??;
        Ok((part, weights_sha256(&named)))
    }
}
