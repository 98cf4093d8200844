//! A worker process: it joins a job, holds a replica, and trains its slots with the other members.
//!
//! [`session`] is its end of the conversation with the coordinator; [`run`] is its whole life.
//! [`inference`] uses weights without a job.

mod checkpointing;
mod ears;
mod error;
mod evaluation;
pub mod inference;
mod member;
mod numerics;
pub mod session;
mod slots;
mod training;

use std::sync::Arc;

use perennial_collective::TcpEndpoint;
use perennial_data::Pipeline;
use perennial_model::Network;
use perennial_plan::Spec;
use perennial_proto::v1::{Hello, Ready};
use perennial_store::Store;

pub use error::WorkerError;
pub use numerics::numerics_class;

use crate::ears::Ears;
use crate::member::Member;
use crate::session::{Report, SessionEvent};

/// The version that all parties of a job share.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How a worker runs.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// The coordinator's `http://HOST:PORT`.
    pub coordinator: String,
    /// Slots computed side by side, each on one core.
    pub threads: usize,
    /// The address at which other members reach this one's collective, without a port.
    pub host: String,
}

/// What a worker needs for its job, whatever the generation.
struct JobContext {
    spec: Spec,
    pipeline: Arc<Pipeline>,
    network: Network,
    store: Store,
}

/// Serves one job from joining to its end. The error is what ended it.
pub fn run(options: WorkerOptions) -> Result<(), WorkerError> {
    let hello = Hello {
        version: VERSION.to_string(),
        numerics: numerics_class(),
        threads: options.threads as u32,
    };
    let session = session::connect(&options.coordinator, hello)?;
    let (worker, spec, store_url) = match session.recv() {
        SessionEvent::Welcome {
            worker,
            spec,
            store_url,
        } => (worker, *spec, store_url),
        other => return Err(ended_by(other)),
    };
    let prepared = prepare(&options, spec, &store_url);
    let (context, endpoint, ready) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Err(give_up(&session, error)),
    };
    session.send(Report::Ready(ready));
    let generation = match session.recv() {
        SessionEvent::Start(generation) => generation,
        other => return Err(ended_by(other)),
    };
    let reporter = session.reporter();
    let ears = Ears::new(session);
    let trained = Member::join(&context, &endpoint, generation, &worker, &ears)
        .and_then(|mut member| member.train(options.threads, &reporter, &ears));
    if let Err(error) = trained {
        // What the coordinator knows of the end says more than what it looks like from here.
        if !ears.is_over() {
            reporter.send(error.report());
        }
        return Err(ears.wait_for_end().err().unwrap_or(error));
    }
    ears.wait_for_end()
}

/// Tells the coordinator and waits for its word, so that the run ends with one sentence everywhere.
fn give_up(session: &session::SessionHandle, error: WorkerError) -> WorkerError {
    session.send(error.report());
    loop {
        match session.recv() {
            SessionEvent::End { .. } | SessionEvent::Lost(_) => return error,
            _ => {}
        }
    }
}

fn ended_by(event: SessionEvent) -> WorkerError {
    match event {
        SessionEvent::Lost(reason) => WorkerError::Ended(reason),
        SessionEvent::End { error: Some(error) } => WorkerError::Ended(error),
        _ => WorkerError::Ended("the job ended before it began".to_string()),
    }
}

fn prepare(
    options: &WorkerOptions,
    spec: Spec,
    store_url: &str,
) -> Result<(JobContext, TcpEndpoint, Ready), WorkerError> {
    let store = Store::open(store_url)?;
    let (pipeline, _) = Pipeline::open(&spec)?;
    let data = pipeline.data();
    let network = Network::new(&spec.model, data.classes.len())?;
    let (endpoint, address) = TcpEndpoint::bind(&format!("{}:0", options.host))?;
    let ready = Ready {
        data_fingerprint: data.fingerprint(),
        train_samples: data.train.len() as u64,
        val_samples: data.val.len() as u64,
        classes: data.classes.clone(),
        skipped: data.skipped as u64,
        parameters: network.table.parameters_len() as u64,
        collective_address: address.to_string(),
    };
    Ok((
        JobContext {
            spec,
            pipeline: Arc::new(pipeline),
            network,
            store,
        },
        endpoint,
        ready,
    ))
}
