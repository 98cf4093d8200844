//! Checkpoints in the background.
//!
//! The replica is copied while the next step's slots are being computed: training waits only until the
//! copying thread holds the replica's read lock, and again before it changes the replica if the copy is
//! not done by then. Another thread encodes and writes.

use std::future::Future;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perennial_model::{ModelCard, Table, Weights};
use perennial_plan::tensors::weights_sha256;
use perennial_proto::rules::{part_kinds, part_writer};
use perennial_proto::v1::{CheckpointFailed, PartWritten};
use perennial_session::{Report, Reporter};
use perennial_store::{Job, PartKind, tensors};
use perennial_train::{OptimizerState, Replica, Scores};

use crate::error::WorkerError;
use crate::prepare::JobContext;
use crate::shared::{SharedReplica, State};

/// Runs one asynchronous piece of work to its end.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, WorkerError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| WorkerError::Thread(error.to_string()))?;
    Ok(runtime.block_on(work))
}

/// A member's share of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub global_step: u64,
    pub generation: u64,
    pub rank: usize,
    pub world_size: usize,
    /// It waits for an earlier one that is being written; others are left out then.
    pub last: bool,
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

struct Request {
    part: Part,
    /// Told once the replica cannot change any more before it is copied.
    held: SyncSender<()>,
}

/// What a member's parts are made of.
#[derive(Default)]
pub(crate) struct Copied {
    model: Option<Weights>,
    ema: Option<Weights>,
    optimizer: Option<OptimizerState>,
    scores: Option<Scores>,
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
            let (job, replica) = (job.clone(), replica.clone());
            let (reporter, desk) = (reporter.clone(), desk.clone());
            move || copy_all(&requested, &job, &replica, &copies, &reporter, &desk)
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

    /// Returns as soon as the replica is held fast; it is copied and written meanwhile. Whoever steps next
    /// waits for the copy, never for the store.
    pub fn write(&self, part: Part) {
        if part.kinds(&self.job).next().is_none() {
            return;
        }
        if !lock(&self.desk).admit(part.last) {
            let message = "the one before is still being written";
            return self.reporter.send(part.failed(message));
        }
        let (held, wait) = sync_channel(1);
        if self.requests.send(Request { part, held }).is_ok() {
            // Without an answer nobody copies, and nothing is to be waited for.
            let _ = wait.recv();
        }
    }
}

// === impl Part ===

impl Part {
    /// The kinds of files that this member writes.
    fn kinds(self, job: &JobContext) -> impl Iterator<Item = &'static str> + use<> {
        let kinds = part_kinds(&job.spec).iter().copied().enumerate();
        kinds
            .filter(move |(index, _)| part_writer(*index, self.world_size) == self.rank)
            .map(|(_, kind)| kind)
    }

    fn failed(self, message: &str) -> Report {
        Report::CheckpointFailed(CheckpointFailed {
            generation: self.generation,
            global_step: self.global_step,
            message: message.to_string(),
        })
    }
}

// === impl Desk ===

impl Desk {
    /// Whether there is room for another checkpoint.
    fn admit(&mut self, last: bool) -> bool {
        let limit = if last { UNDER_WAY } else { 1 };
        let admitted = self.under_way < limit;
        self.under_way += usize::from(admitted);
        admitted
    }

    fn done(&mut self, copied: Copied) {
        self.under_way -= 1;
        self.spare = Some(copied);
    }
}

fn copy_all(
    requests: &Receiver<Request>,
    job: &JobContext,
    replica: &SharedReplica,
    copies: &Sender<(Part, Copied)>,
    reporter: &Reporter,
    desk: &Mutex<Desk>,
) {
    for Request { part, held } in requests {
        let mut copied = lock(desk).spare.take().unwrap_or_default();
        let found = replica.read(|replica| {
            // From here on the replica cannot change.
            let _ = held.send(());
            let replica = replica.filter(|held| held.global_step == part.global_step)?;
            for kind in part.kinds(job) {
                match &replica.state {
                    State::Training(replica) => copied.take(replica, kind),
                    State::Evaluating(scores) => copied.scores = Some(scores.clone()),
                }
            }
            Some(())
        });
        let why_not = match found {
            Ok(Some(())) => None,
            Ok(None) => Some("the replica no longer stands there".to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(why_not) = why_not {
            lock(desk).done(copied);
            reporter.send(part.failed(&why_not));
        } else if copies.send((part, copied)).is_err() {
            return;
        }
    }
}

fn write_all(
    copies: &Receiver<(Part, Copied)>,
    job: &JobContext,
    reporter: &Reporter,
    desk: &Mutex<Desk>,
) {
    let classes = job.pipeline.data().classes.clone();
    let card = ModelCard::new(&job.spec, classes).to_json();
    for (part, copied) in copies {
        for kind in part.kinds(job) {
            let stored = job.store.job(&job.spec.name).map_err(WorkerError::from);
            let (table, step) = (&job.network.table, part.global_step);
            let written =
                stored.and_then(|stored| write_part(table, &stored, &card, step, kind, &copied));
            let report = match written {
                Ok(written) => Report::PartWritten(PartWritten {
                    generation: part.generation,
                    global_step: step,
                    kind: kind.to_string(),
                    path: written.part.path,
                    bytes: written.part.bytes,
                    sha256: written.part.sha256,
                    tensors_sha256: written.tensors_sha256,
                }),
                Err(error) => part.failed(&error.to_string()),
            };
            reporter.send(report);
        }
        lock(desk).done(copied);
    }
}

/// A file of a checkpoint in the store.
pub(crate) struct Written {
    pub part: perennial_store::Part,
    pub tensors_sha256: String,
}

pub(crate) fn write_part(
    table: &Table,
    stored: &Job,
    card: &str,
    global_step: u64,
    kind: &str,
    copied: &Copied,
) -> Result<Written, WorkerError> {
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
        "scores" => (
            PartKind::Scores,
            copied.scores.as_ref().ok_or_else(missing)?.to_named(),
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
        PartKind::Optimizer | PartKind::Scores => tensors::encode(&named)?,
        PartKind::Model | PartKind::Ema => tensors::encode_described(&named, ModelCard::KEY, card)?,
    };
    Ok(Written {
        part: block_on(stored.write_part(global_step, part, bytes))??,
        tensors_sha256: weights_sha256(&named),
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
    pub fn take(&mut self, replica: &Replica, kind: &str) {
        match kind {
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

/// Copies into the memory that is there.
fn copy_weights(copy: &mut Option<Weights>, weights: &Weights) {
    match copy {
        None => *copy = Some(weights.clone()),
        Some(copy) => {
            Arc::make_mut(&mut copy.parameters).clone_from(&weights.parameters);
            copy.statistics.clone_from(&weights.statistics);
            copy.batches_tracked = weights.batches_tracked;
        }
    }
}

#[cfg(test)]
mod tests {
    use perennial_model::Network;
    use perennial_plan::Spec;
    use perennial_train::{StepDelta, statistics_len};

    use super::*;

    #[test]
    fn a_checkpoint_is_left_out_while_one_is_written_but_the_last_one_waits() {
        let mut desk = Desk::default();
        assert!(desk.admit(false));
        assert!(!desk.admit(false));
        assert!(desk.admit(true));
        assert!(!desk.admit(true), "no more than one waits");
        desk.done(Copied::default());
        assert!(!desk.admit(false), "the one that waited is written now");
        desk.done(Copied::default());
        assert!(desk.admit(false));
    }

    #[test]
    fn a_copy_into_memory_that_was_used_before_is_that_of_the_replica_as_it_stands() {
        let spec = Spec::default();
        let network = Network::new(&spec.model, 3).unwrap();
        let table = &network.table;
        let mut replica = Replica::new(&spec, table, table.initial_weights(1));
        let mut used = Copied::default();
        let kinds = part_kinds(&spec);
        kinds.iter().for_each(|kind| used.take(&replica, kind));
        let delta = StepDelta {
            gradient: vec![0.5; table.parameters_len()],
            statistics: vec![8.0; statistics_len(&network)],
            learning_rate: 1e-3,
        };
        let (gradient, statistics) = (&delta.gradient, &delta.statistics);
        replica.apply(table, gradient, statistics, 1e-3, 1).unwrap();
        kinds.iter().for_each(|kind| used.take(&replica, kind));
        assert_eq!(used.model.as_ref(), Some(&replica.weights));
        assert_eq!(used.ema, replica.ema);
        let optimizer = used.optimizer.unwrap();
        assert_eq!(optimizer.to_named(table), replica.optimizer_to_named(table));
    }
}
