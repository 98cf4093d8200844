use perennial_collective::CollectiveError;
use perennial_data::DataError;
use perennial_proto::v1::{Failed, Lost};
use perennial_session::{Report, SessionError};
use perennial_train::TrainError;

/// Why a worker ended, or a generation did.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// What the coordinator said, or that it is gone.
    #[error("{0}")]
    Ended(String),
    /// The generation is over before its time, and not by this worker's fault.
    #[error("the generation broke: {reason}")]
    Broken { reason: String, lost: Vec<Lost> },
    #[error(transparent)]
    Security(#[from] perennial_secure::SecurityError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Data(#[from] DataError),
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
    Collective(#[from] CollectiveError),
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error(transparent)]
    Invariant(#[from] perennial_plan::invariants::Violation),
    #[error(
        "job file: `train.reduction` is \"fast\", which only sums over NCCL between GPUs can be; \
         these workers sum over TCP, which is \"exact\": set it to that"
    )]
    Reduction,
    #[error(
        "sums over NCCL failed {failures} times in a row, at last so: {last}; `NCCL_DEBUG=WARN` tells more, and with \
         `PERENNIAL_NCCL=none` sums go over TCP"
    )]
    NcclFails { failures: u32, last: String },
    #[error(transparent)]
    Device(#[from] perennial_kernels::DeviceError),
    #[error("cannot start a thread: {0}")]
    Thread(String),
    #[error("{0}")]
    Inference(String),
}

// === impl WorkerError ===

impl WorkerError {
    /// What the generation or the copy ended with when the session told it to.
    pub(crate) fn told() -> Self {
        Self::Broken {
            reason: "the coordinator said so".into(),
            lost: Vec::new(),
        }
    }

    /// Whether every other worker would meet the same.
    pub(crate) fn is_fatal(&self) -> bool {
        match self {
            Self::Data(error) => !error.may_be_local(),
            Self::Collective(CollectiveError::Library(_) | CollectiveError::Device(_))
            | Self::Train(TrainError::Device(_)) => false,
            Self::Network(_)
            | Self::Weights { .. }
            | Self::Train(_)
            | Self::Invariant(_)
            | Self::Reduction
            | Self::Inference(_)
            | Self::Collective(_) => true,
            Self::Store(error) => matches!(
                error,
                perennial_store::StoreError::Violation(_)
                    | perennial_store::StoreError::Damaged { .. }
                    | perennial_store::StoreError::MissingPart { .. }
                    | perennial_store::StoreError::NoSuchPart { .. }
                    | perennial_store::StoreError::Truncated { .. }
                    | perennial_store::StoreError::Malformed { .. }
            ),
            Self::Ended(_)
            | Self::Broken { .. }
            | Self::Security(_)
            | Self::Session(_)
            | Self::NcclFails { .. }
            | Self::File(_)
            | Self::Device(_)
            | Self::Thread(_) => false,
        }
    }

    /// What the coordinator is told when the worker cannot go on.
    pub(crate) fn report(&self) -> Report {
        Report::Failed(Failed {
            message: self.to_string(),
            fatal: self.is_fatal(),
        })
    }
}
