//! Wishes of an operator, told to the coordinator that rules a job. Its address stands in the log.

use std::time::Duration;

use perennial_proto::dial::{Address, Client, words_of};
use perennial_proto::v1::{
    DrainReply, DrainRequest, ScaleReply, ScaleRequest, StatusReply, StatusRequest, StopReply,
    StopRequest,
};
use perennial_secure::Security;
use perennial_store::{Job, StoreError};
use tonic::{Response, Status};

use crate::log::{LogEntry, LogRecord};

const PATIENCE: Duration = Duration::from_secs(10);

/// Why a wish could not be told or was refused.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    #[error("job `{0}` was never started; start it first")]
    NotStarted(String),
    #[error("no coordinator of job `{job}` answers at `{address}`: {cause}; is it running?")]
    Unreachable {
        job: String,
        address: String,
        cause: String,
    },
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Sets the wanted number of workers.
pub async fn scale(
    job: &Job,
    security: &Security,
    workers: u32,
) -> Result<ScaleReply, OperateError> {
    let mut client = connect(job, security).await?;
    answer(client.scale(ScaleRequest { workers }).await)
}

/// Lets a worker leave at the next step boundary.
pub async fn drain(job: &Job, security: &Security, worker: &str) -> Result<(), OperateError> {
    let mut client = connect(job, security).await?;
    let worker = worker.to_string();
    answer(client.drain(DrainRequest { worker }).await).map(|DrainReply {}| ())
}

/// Ends the run at the next step boundary, with a checkpoint.
pub async fn stop(job: &Job, security: &Security) -> Result<(), OperateError> {
    let mut client = connect(job, security).await?;
    answer(client.stop(StopRequest {}).await).map(|StopReply {}| ())
}

/// Where the coordinator at `address` says that the job stands.
pub async fn status_at(
    job: &Job,
    security: &Security,
    address: &str,
) -> Result<StatusReply, OperateError> {
    let mut client = connect_to(job, security, address).await?;
    answer(client.status(StatusRequest {}).await)
}

fn answer<T>(reply: Result<Response<T>, Status>) -> Result<T, OperateError> {
    reply
        .map(Response::into_inner)
        .map_err(|status| OperateError::Refused(words_of(&status)))
}

async fn connect(job: &Job, security: &Security) -> Result<Client, OperateError> {
    let log: Vec<LogRecord> = job.read_log(0).await?;
    let ruling = log.iter().rev().find_map(|record| match &record.entry {
        LogEntry::Term { address, .. } => Some(address.clone()),
        _ => None,
    });
    let address = ruling.ok_or_else(|| OperateError::NotStarted(job.name().to_string()))?;
    connect_to(job, security, &address).await
}

async fn connect_to(job: &Job, security: &Security, address: &str) -> Result<Client, OperateError> {
    let dialed = async {
        let address = Address::in_log(address)?;
        address.client(security, PATIENCE).await
    };
    dialed.await.map_err(|error| OperateError::Unreachable {
        job: job.name().to_string(),
        address: address.to_string(),
        cause: error.to_string(),
    })
}
