//! Why a run does not begin.

/// Why a coordinator cannot begin a run.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    #[error(
        "the address `{address}` is in use by another program; stop that one, or choose another address with `--listen`"
    )]
    AddressInUse { address: String },
    #[error(
        "cannot listen at `{address}`: {source}; give `--listen` an address of this machine, HOST:PORT"
    )]
    Listen {
        address: String,
        source: std::io::Error,
    },
    #[error(
        "job `{name}` has a checkpoint of step {global_step} in the store; go on from it with `--resume`, or give the job another name"
    )]
    JobExists { name: String, global_step: u64 },
    #[error("job `{name}` is finished: all {epochs} epochs are done; nothing is left to resume")]
    AlreadyFinished { name: String, epochs: u32 },
    #[error(
        "job `{name}` in the store is another job: {}; resume with the same values, or give the job another name",
        describe(.differences)
    )]
    OtherJob {
        name: String,
        /// Key, value in the store, value asked for.
        differences: Vec<(String, String, String)>,
    },
    #[error("the history in the manifest of checkpoint {global_step} cannot be read: {cause}")]
    Unreadable { global_step: u64, cause: String },
    /// Another coordinator rules; which, in words.
    #[error("{0}")]
    Deposed(String),
    #[error(transparent)]
    Security(#[from] perennial_secure::SecurityError),
    #[error(transparent)]
    Store(#[from] perennial_store::StoreError),
}

fn describe(differences: &[(String, String, String)]) -> String {
    let one = |(key, there, here): &(String, String, String)| {
        format!("`{key}` is {there} there and {here} here")
    };
    differences.iter().map(one).collect::<Vec<_>>().join(", ")
}
