//! What the targets share: a job in a store in memory.

use std::future::Future;

use perennial_store::{Job, Store};

/// The job `seedlings` with one object in its folder.
pub fn job_with(path: &str, bytes: &[u8]) -> Job {
    let store = Store::in_memory();
    let path = format!("seedlings/{path}");
    run(store.create(&path, bytes.to_vec())).expect("memory takes everything");
    store.job("seedlings").expect("the name is a plain one")
}

/// Runs one asynchronous piece of work to its end.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.expect("a runtime of this thread").block_on(work)
}
