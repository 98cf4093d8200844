//! A checkpoint copied, written and read back.

use std::time::{Duration, Instant};

use perennial_model::{ModelCard, Network};
use perennial_plan::Spec;
use perennial_proto::rules::part_kinds;
use perennial_store::{Part, Store, tensors};
use perennial_train::{Replica, StepDelta, statistics_len};

use crate::checkpointing::{Copied, block_on, write_part};
use crate::error::WorkerError;

/// What is timed: all parts of checkpoints of a job's network, written by one worker.
#[derive(Debug, Clone)]
pub struct CheckpointBench {
    /// Its name is that of a job which the store does not have.
    pub spec: Spec,
    pub classes: usize,
    pub store: Store,
    pub rounds: usize,
}

#[derive(Debug, Clone, Default)]
pub struct CheckpointTimes {
    pub bytes: u64,
    /// Into memory that is there: what training can wait for at most.
    pub copy: Vec<Duration>,
    /// Encoded, hashed and stored.
    pub write: Vec<Duration>,
    /// Read, hashed and decoded.
    pub load: Vec<Duration>,
}

// === impl CheckpointBench ===

impl CheckpointBench {
    /// What was written is removed again.
    pub fn run(&self) -> Result<CheckpointTimes, WorkerError> {
        let network = Network::new(&self.spec.model, self.classes)?;
        let table = &network.table;
        let mut replica = Replica::new(&self.spec, table, table.initial_weights(self.spec.seed));
        let step = StepDelta {
            gradient: vec![0.5; table.parameters_len()],
            statistics: vec![1.0; statistics_len(&network)],
            learning_rate: 1e-3,
        };
        let classes = (0..self.classes).map(|class| class.to_string()).collect();
        let card = ModelCard::new(&self.spec, classes).to_json();
        let stored = self.store.job(&self.spec.name)?;
        let kinds = part_kinds(&self.spec);
        let mut copied = Copied::default();
        let mut times = CheckpointTimes::default();
        for round in 0..=self.rounds as u64 {
            replica.apply(
                table,
                &step.gradient,
                &step.statistics,
                step.learning_rate,
                1,
            )?;
            let began = Instant::now();
            kinds.iter().for_each(|kind| copied.take(&replica, kind));
            let copy = began.elapsed();

            let began = Instant::now();
            let parts = kinds
                .iter()
                .map(|kind| write_part(table, &stored, &card, round, kind, &copied))
                .collect::<Result<Vec<_>, _>>()?;
            let write = began.elapsed();

            let parts = parts.into_iter().map(|written| written.part);
            let parts: Vec<Part> = parts.collect();
            let began = Instant::now();
            for part in &parts {
                tensors::decode(&block_on(stored.read_part(part))??)?;
            }
            let load = began.elapsed();
            for part in &parts {
                let path = format!("{}/{}", stored.name(), part.path);
                block_on(self.store.delete(&path))??;
            }
            times.bytes = parts.iter().map(|part| part.bytes).sum();
            // The first one is copied into memory that is not there yet.
            if round > 0 {
                times.copy.push(copy);
                times.write.push(write);
                times.load.push(load);
            }
        }
        Ok(times)
    }
}
