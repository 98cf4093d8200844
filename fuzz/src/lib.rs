//! What the targets share: a job, a store in memory, a coordinator, and bytes cut into orders.

use std::future::Future;
use std::time::Duration;

use perennial_coordinator::log::LogRecord;
use perennial_coordinator::machine::{Config, Effect, Machine};
use perennial_plan::Spec;
use perennial_plan::invariants::Violation;
use perennial_store::{Job, Store};
use prost::Message;

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

/// A valid job.
pub fn spec() -> Spec {
    let mut spec = Spec::default();
    spec.data.dir = "seedlings".into();
    spec
}

/// A coordinator that goes on with this log.
pub fn machine(log: Vec<LogRecord>) -> Result<(Machine, Vec<Effect>), Violation> {
    let config = Config {
        spec: spec(),
        wanted: 2,
        version: "0.1.0".into(),
        store_url: "store".into(),
        address: "here:1".into(),
        resume: None,
        writer: "fuzz".into(),
        log,
        resume_command: "resume".into(),
        shared: false,
    };
    Machine::new(config, Duration::ZERO)
}

/// Cuts bytes into orders: what is to happen, to whom, and a message that may be none.
pub fn orders<M: Message + Default>(
    mut bytes: &[u8],
) -> impl Iterator<Item = (u8, u8, impl Fn() -> Option<M>)> {
    std::iter::from_fn(move || {
        let [what, who, len, rest @ ..] = bytes else {
            return None;
        };
        let (message, rest) = rest.split_at(rest.len().min(usize::from(*len)));
        bytes = rest;
        Some((*what, *who, move || M::decode(message).ok()))
    })
}
