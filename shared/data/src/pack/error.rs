use perennial_store::StoreError;

use super::HEADER;

/// Why a pack cannot be read or made. Each message names the pack, and the object and the sample at fault.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error(
        "no pack at `{pack}`: `{HEADER}` is not there; `perennial data pack DIR {pack}` makes one, or goes on \
         with one that was interrupted"
    )]
    Missing { pack: String },
    #[error("pack `{pack}`: {source}")]
    Store { pack: String, source: StoreError },
    #[error("`{object}` of pack `{pack}` is not what it should be: {reason}; {ADVICE}")]
    Malformed {
        pack: String,
        object: String,
        reason: String,
    },
    #[error("sample `{sample}` of pack `{pack}` cannot be read: {source}")]
    Sample {
        pack: Box<str>,
        sample: Box<str>,
        source: StoreError,
    },
    #[error(
        "sample `{sample}` of pack `{pack}` is damaged: its {bytes} bytes from byte {offset} of `{object}` on \
         have SHA-256 `{found}` instead of `{expected}`; {ADVICE}"
    )]
    Damaged {
        pack: String,
        sample: String,
        object: Box<str>,
        offset: u64,
        bytes: u64,
        found: Box<str>,
        expected: Box<str>,
    },
    #[error("picture `{sample}` of pack `{pack}` cannot be used: {reason}")]
    Broken {
        pack: String,
        sample: String,
        reason: String,
    },
    #[error(
        "`{object}` is in `{pack}` already and holds something else; pack to another place, or with the \
         flags and the pictures of the first time"
    )]
    Taken { pack: String, object: String },
    #[error(
        "`{pack}` holds a complete pack of other pictures, which is not overwritten; pack to another place"
    )]
    Complete { pack: String },
    #[error(
        "`{path}` changed while it was packed: it had {expected} bytes and has {found}; pack again"
    )]
    Changed {
        path: String,
        expected: u64,
        found: u64,
    },
    #[error("`{path}` has {bytes} bytes, more than a sample of a pack can have")]
    TooLong { path: String, bytes: u64 },
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

const ADVICE: &str = "pack its folder again, to another place";

// === impl PackError ===

impl PackError {
    /// Whether it may be due to this machine, its keys or its network, and not to the pack.
    pub fn may_be_local(&self) -> bool {
        match self {
            Self::Store { source, .. } | Self::Sample { source, .. } => !matches!(
                source,
                StoreError::Missing { .. } | StoreError::Malformed { .. }
            ),
            Self::Thread(_) => true,
            _ => false,
        }
    }
}
