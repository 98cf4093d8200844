//! What can go wrong with a store.

use perennial_plan::invariants::Violation;

use crate::faults::FAULTS_VARIABLE;

/// Why something could not be kept or found again.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("store `{url}`: {reason}")]
    Url { url: String, reason: String },
    #[error("`{FAULTS_VARIABLE}={text}`: {reason}")]
    Faults { text: String, reason: String },
    /// Create-if-absent found an object.
    #[error("`{path}` exists already and is not overwritten")]
    Exists { path: String },
    #[error("`{path}` does not exist in the store")]
    Missing { path: String },
    #[error("store `{place}` refuses access: {reason}; check the keys and their permissions")]
    Refused { place: String, reason: String },
    #[error("store `{place}` cannot be reached at `{endpoint}`: {reason}")]
    Unreachable {
        place: String,
        endpoint: String,
        reason: String,
    },
    #[error("bucket `{bucket}` does not exist at `{endpoint}`; create it first")]
    NoBucket { bucket: String, endpoint: String },
    #[error("no space is left in store `{place}` for `{path}`; free some and resume")]
    Full { place: String, path: String },
    #[error("store `{place}` failed at `{path}`: {reason}")]
    Failed {
        place: String,
        path: String,
        reason: String,
    },
    /// Another coordinator is at work: this one steps down.
    #[error("log position `{seq}` was taken by another coordinator; this one steps down")]
    LogRaceLost { seq: u64 },
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error("`{path}` is not what it should be: {reason}")]
    Malformed { path: String, reason: String },
    #[error("checkpoint part `{path}` has `{found}` bytes instead of `{expected}`; {ADVICE}")]
    Truncated {
        path: String,
        found: u64,
        expected: u64,
    },
    #[error("checkpoint part `{path}` has SHA-256 `{found}` instead of `{expected}`; {ADVICE}")]
    Damaged {
        path: String,
        found: String,
        expected: String,
    },
    #[error("checkpoint part `{path}` is missing; {ADVICE}")]
    MissingPart { path: String },
    #[error("checkpoint of step `{step}` has no {kind} part")]
    NoSuchPart { step: u64, kind: &'static str },
    #[error("not a usable safetensors file: {0}")]
    Tensors(String),
}

const ADVICE: &str = "verify the other checkpoints and resume from an older step";
