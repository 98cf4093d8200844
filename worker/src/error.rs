use crate::session::{Report, SessionError};

/// Why a worker ended.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// What the coordinator said, or that it is gone.
    #[error("{0}")]
    Ended(String),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Data(#[from] perennial_data::DataError),
    #[error(transparent)]
    Network(#[from] perennial_model::UnknownNetwork),
    #[error("{path}: {source}")]
    Weights {
        path: String,
        source: perennial_model::NameMismatch,
    },
    #[error(transparent)]
    File(#[from] perennial_model::files::ModelFileError),
    #[error(transparent)]
    Store(#[from] perennial_store::StoreError),
    #[error(transparent)]
    Collective(#[from] perennial_collective::CollectiveError),
    /// The member called `peer` is gone.
    #[error("worker {peer} is gone: {reason}")]
    PeerLost { peer: String, reason: String },
    #[error(transparent)]
    Train(#[from] perennial_train::TrainError),
    #[error(transparent)]
    Invariant(#[from] perennial_plan::invariants::Violation),
    #[error("cannot start a thread: {0}")]
    Thread(String),
    #[error("{0}")]
    Inference(String),
}

// === impl WorkerError ===

impl WorkerError {
    /// What the coordinator is told.
    pub(crate) fn report(&self) -> Report {
        match self {
            Self::PeerLost { peer, .. } => Report::lost_peer(peer, self.to_string()),
            _ => Report::failed(self.to_string()),
        }
    }
}
