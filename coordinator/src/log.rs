//! The job's log: the whole state of a coordinator, as entries that are only ever appended.

use perennial_plan::Generation;
use perennial_plan::ledger::StepRecord;
use perennial_proto::v1::Ready;
use perennial_report::EpochRecord;
use serde::{Deserialize, Serialize};

use crate::machine::Evaluations;

/// What stands at one position of a log: that of a job, or that of the queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogRecord<E = LogEntry> {
    /// The term in which it was written.
    pub term: u64,
    /// The coordinator that wrote it, told from every other one.
    pub writer: String,
    #[serde(flatten)]
    pub entry: E,
}

/// What the log keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum LogEntry {
    /// The writer rules from here on, until a higher term begins.
    Term {
        /// Where it listens: `host:port`.
        address: String,
        version: String,
    },
    /// A membership, in force from the moment this entry exists.
    Generation {
        generation: Generation,
        /// Why the membership changed.
        reason: String,
        data: DataFacts,
    },
    /// Steps that were applied, in their order. They follow on the ones before, or on the start of the
    /// last generation.
    Steps { steps: Vec<StepRecord> },
    /// An epoch is done and evaluated.
    Epoch {
        record: Box<EpochRecord>,
        evaluations: Box<Evaluations>,
    },
    /// The wanted number of workers.
    Scale { wanted: u32 },
    /// The run is over; a later one goes on from the newest checkpoint.
    Ended {
        /// `finished` or `stopped`.
        how: String,
        global_step: u64,
    },
}

/// What all members know of the data and of themselves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DataFacts {
    pub fingerprint: String,
    pub numerics: String,
    pub train_samples: u64,
    pub val_samples: u64,
    pub classes: Vec<String>,
    /// Pictures left out because they could not be decoded.
    pub skipped: u64,
    /// Numbers in the network's parameters.
    pub parameters: u64,
}

// === impl DataFacts ===

impl DataFacts {
    /// What a worker of this numerics class says of the data.
    pub fn new(ready: &Ready, numerics: &str) -> Self {
        Self {
            fingerprint: ready.data_fingerprint.clone(),
            numerics: numerics.to_string(),
            train_samples: ready.train_samples,
            val_samples: ready.val_samples,
            classes: ready.classes.clone(),
            skipped: ready.skipped,
            parameters: ready.parameters,
        }
    }
}
