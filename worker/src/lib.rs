//! A worker process: it joins a job, holds a replica, and trains its slots with the other members.
//!
//! [`run`] is its whole life: it obeys the commands of its [session](perennial_session).
//! [`inference`] uses weights without a job.

pub mod bench;
mod checkpointing;
mod ears;
mod error;
mod evaluating;
mod evaluation;
pub mod inference;
mod member;
mod nccl;
mod numerics;
mod own_slots;
mod phases;
mod pictures;
mod prepare;
mod self_test;
mod shared;
mod signals;
mod slots;
mod starting;
mod training;
mod transport;

use std::net::SocketAddr;
use std::time::Duration;

use perennial_collective::MeshTls;
use perennial_proto::LOG_CONTEXT;
use perennial_secure::Security;
use perennial_session::{Reporter, connect};
use tracing::Span;
use tracing::field::Empty;

pub use error::WorkerError;
pub use numerics::numerics_class;
pub use perennial_kernels::device::{ComputeDevice, Cuda, DeviceError, is_gpu_class};
pub use self_test::{SumSpeed, test_sums};
pub use starting::refuse_weights;
pub use transport::refuse_reduction;

use crate::ears::{Ears, Over, Work};
use crate::prepare::Worker;
use crate::signals::{Health, Notice};

/// How a worker runs.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Where coordinators of the job may be: `http://HOST:PORT`, `https://HOST:PORT`, or `HOST:PORT`.
    pub coordinators: Vec<String>,
    /// How it speaks with coordinators and with the other members.
    pub security: Security,
    /// Where slots are computed.
    pub device: ComputeDevice,
    /// Slots computed side by side, each on one core; with a GPU, what prepares pictures.
    pub threads: usize,
    /// The address at which other members reach this one, without a port.
    pub host: String,
    /// Where it listens for the other members' sums, and for those that copy its replica.
    pub collective: Gate,
    pub replica: Gate,
    /// How long to go on without a coordinator, once there was one.
    pub patience: Duration,
    /// How long the job may take to let this process go after a SIGTERM. None: signals are not listened to.
    pub grace: Option<Duration>,
}

/// Where a worker listens, and where the others find that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gate {
    /// `HOST:PORT`; a free port of the worker's host where it is left out.
    pub listen: Option<String>,
    /// `HOST:PORT`, where it differs: behind a relay, or a network that translates addresses.
    pub announce: Option<String>,
}

// === impl Gate ===

impl Gate {
    /// Where to listen on a machine at `host`.
    fn listen(&self, host: &str) -> String {
        let free = || format!("{host}:0");
        self.listen.clone().unwrap_or_else(free)
    }

    /// What the others are told of a listener at `bound`.
    fn announce(&self, bound: SocketAddr) -> String {
        let announced = self.announce.clone();
        announced.unwrap_or_else(|| bound.to_string())
    }
}

/// Serves one job from joining to its end, or, in the pool of a queue, one after the other until it is let
/// go. The error is what ended it.
pub fn run(options: WorkerOptions) -> Result<(), WorkerError> {
    // What is wrong with the device or the security is better told before anybody counts on this worker.
    options.device.open()?;
    options.security.may_listen_at_host(&options.host)?;
    MeshTls::of(&options.security)?;
    let notice = options.grace.map(Notice::listen).transpose()?;
    let health = Health::watch(options.device);
    let mut name = String::new();
    loop {
        let session = connect(perennial_session::Options {
            coordinators: options.coordinators.clone(),
            security: options.security.clone(),
            numerics: numerics_class(options.device)?,
            threads: options.threads as u32,
            patience: options.patience,
            worker: name,
        })?;
        let reporter = session.reporter();
        if let Some(notice) = &notice {
            notice.pass_on_to(reporter.clone());
        }
        health.pass_on_to(reporter.clone());
        let ears = Ears::new(session)?;
        let over = obey(&options, &ears, &reporter);
        ears.close();
        health.check()?;
        match over {
            Over::Exit(end) => return end.map_err(WorkerError::Ended),
            Over::Return { worker, end } => {
                if let Err(why) = end {
                    tracing::warn!("back to the pool: {why}");
                }
                name = worker;
            }
        }
    }
}

/// Does as the session says until it says that all is over, and how.
fn obey(options: &WorkerOptions, ears: &Ears, reporter: &Reporter) -> Over {
    let mut worker: Option<Worker> = None;
    let mut context = Span::none().entered();
    loop {
        match (ears.next(), &worker) {
            (Work::Over(over), _) => return over,
            (Work::Prepare { spec, store_url }, _) => {
                let job = spec.name.as_str();
                context = tracing::error_span!(
                    target: LOG_CONTEXT,
                    parent: None,
                    "worker",
                    job,
                    generation = Empty,
                    member = Empty
                )
                .entered();
                match Worker::prepare(options, *spec, &store_url, reporter) {
                    Ok(prepared) => worker = Some(prepared),
                    Err(error) => reporter.send(error.report()),
                }
            }
            (Work::Train(assignment, turn), Some(worker)) => {
                let generation = &assignment.generation;
                context.record("generation", generation.id);
                context.record(
                    "member",
                    generation.members[assignment.rank].worker.as_str(),
                );
                worker.train(&assignment, &turn);
            }
            (Work::Follow(source, turn), Some(worker)) => worker.follow(&source, &turn),
            // A worker that could not be prepared has said so, and its end is on its way.
            (Work::Train(..) | Work::Follow(..), None) => {}
        }
    }
}
