//! The manifest: the object that makes a checkpoint exist.

use perennial_plan::{Cursor, Spec};
use serde::{Deserialize, Serialize};

/// The version of the manifest that this program writes, and the only one it reads.
pub const FORMAT_VERSION: u32 = 1;

/// What a checkpoint consists of and how it came about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format_version: u32,
    pub job: String,
    /// Steps applied since the start of the job; names the checkpoint.
    pub global_step: u64,
    /// The next step to apply.
    pub cursor: Cursor,
    /// When it was made, as RFC 3339.
    pub created: String,
    pub spec: Spec,
    /// [`Spec::identity_hash`].
    pub spec_identity: String,
    pub data_fingerprint: String,
    /// The numerics class: processor kind, kernel set, precision.
    pub numerics: String,
    /// The version of the program that made it.
    pub version: String,
    pub parts: Vec<Part>,
    /// [`weights_sha256`](crate::tensors::weights_sha256) of the model part, or of what is evaluated.
    pub weights_sha256: String,
    /// The same of the EMA part, where there is one.
    pub ema_sha256: Option<String>,
    /// The records of the epochs so far.
    pub history: serde_json::Value,
    /// What the epoch in progress has counted so far.
    pub progress: serde_json::Value,
    /// Validation top-1 between 0 and 1, by which the best are kept.
    pub metric: Option<f64>,
    /// The generation that made it.
    pub generation: u64,
    pub ledger_head: Option<String>,
}

/// A file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub kind: PartKind,
    /// Relative to the job's folder.
    pub path: String,
    pub bytes: u64,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
}

/// What a part holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartKind {
    Model,
    Ema,
    Optimizer,
    /// What an evaluation has found so far.
    Scores,
}

// === impl Manifest ===

impl Manifest {
    pub fn part(&self, kind: PartKind) -> Option<&Part> {
        self.parts.iter().find(|part| part.kind == kind)
    }
}

// === impl PartKind ===

impl PartKind {
    pub const ALL: [Self; 4] = [Self::Model, Self::Ema, Self::Optimizer, Self::Scores];

    /// The word in file names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Ema => "ema",
            Self::Optimizer => "optimizer",
            Self::Scores => "scores",
        }
    }
}
