//! What happens to a job, for people and programs: the lines of `--json`. Names are stable.

use chrono::{SecondsFormat, Utc};
use perennial_report::null_is_nan;
use serde::{Deserialize, Serialize};

/// An event with its time: a line of a job's journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// RFC 3339 in UTC, to the millisecond.
    pub time: String,
    #[serde(flatten)]
    pub event: JobEvent,
}

/// Something that happened. Epochs are counted from 1, accuracies are shares (0..1), and a step is
/// the number of steps applied in its epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum JobEvent {
    /// The data is known.
    Job {
        name: String,
        store: String,
        workers: u32,
        train_samples: u64,
        val_samples: u64,
        classes: Vec<String>,
        /// Pictures left out because they could not be decoded.
        skipped: u64,
        parameters: u64,
        epochs: u32,
        steps_per_epoch: u32,
    },
    /// A worker has read its data and is ready.
    WorkerJoined {
        worker: String,
        address: String,
        threads: u32,
        /// How many are ready now, of `workers`.
        ready: u32,
        workers: u32,
    },
    /// A generation begins, after `step` steps of `epoch`.
    Started {
        generation: u64,
        epoch: u32,
        step: u32,
        global_step: u64,
        total_steps: u64,
        /// The checkpoint from which it goes on; none: from what its members have, or the beginning.
        resumed_from: Option<u64>,
        /// Members.
        workers: u32,
        /// Why the membership changed; empty for the first one.
        reason: String,
    },
    /// No generation is at work; what is waited for.
    Waiting {
        reason: String,
    },
    /// A worker is gone, and the job goes on without it.
    WorkerLost {
        worker: String,
        reason: String,
    },
    /// A worker leaves at the next boundary.
    WorkerLeaving {
        worker: String,
    },
    /// The wanted number of workers has changed.
    Scaled {
        wanted: u32,
    },
    /// Every member has applied the step.
    Step {
        epoch: u32,
        step: u32,
        global_step: u64,
        total_steps: u64,
        #[serde(deserialize_with = "null_is_nan")]
        loss: f64,
        top1: f64,
        learning_rate: f64,
        /// Infinite, which JSON has as null, where the step was skipped.
        #[serde(deserialize_with = "null_is_nan")]
        grad_norm: f64,
        /// What the loss was multiplied by, and whether the step was skipped for its gradient: where the job scales
        /// the loss.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        loss_scale: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        skipped: Option<bool>,
        images_per_second: f64,
        /// Seconds until the last step, at the speed of late.
        eta_seconds: f64,
    },
    Epoch {
        epoch: u32,
        train_loss: f64,
        val_loss: f64,
        val_top1: f64,
        val_top5: f64,
        ema_loss: Option<f64>,
        ema_top1: Option<f64>,
        ema_top5: Option<f64>,
        images_per_second: f64,
        seconds: f64,
    },
    /// A checkpoint is complete in the store.
    Checkpoint {
        global_step: u64,
        weights_sha256: String,
    },
    Warning {
        message: String,
    },
    /// All epochs are done.
    Finished {
        weights_sha256: String,
        ema_sha256: Option<String>,
        /// Where the HTML report lies.
        report: String,
    },
    /// Stopped on request.
    Stopped {
        global_step: u64,
        /// How to go on.
        resume: String,
        /// Where the HTML report lies, if an epoch was evaluated.
        report: Option<String>,
    },
    Error {
        message: String,
    },
}

// === impl Told ===

impl Told {
    /// Whether a run ends with it.
    pub fn may_be_the_last(&self) -> bool {
        use JobEvent::{Error, Finished, Stopped};
        matches!(self.event, Finished { .. } | Stopped { .. } | Error { .. })
    }

    pub fn now(event: JobEvent) -> Self {
        Self {
            time: Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
            event,
        }
    }
}

// === impl JobEvent ===

impl JobEvent {
    /// Whether it is about this worker.
    pub fn concerns(&self, worker: &str) -> bool {
        let named = |sentence: &str| sentence.contains(&format!("`{worker}`"));
        match self {
            Self::WorkerJoined { worker: name, .. }
            | Self::WorkerLost { worker: name, .. }
            | Self::WorkerLeaving { worker: name } => name == worker,
            Self::Started { reason, .. } | Self::Waiting { reason } => named(reason),
            Self::Warning { message } | Self::Error { message } => named(message),
            _ => false,
        }
    }
}
