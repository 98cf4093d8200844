//! Wishes of an operator, told to the coordinator that rules a job. Its address stands in the log.

use std::time::Duration;

use perennial_proto::v1::coordinator_client::CoordinatorClient;
use perennial_proto::v1::{
    DrainReply, DrainRequest, ScaleReply, ScaleRequest, StatusReply, StatusRequest, StopReply,
    StopRequest,
};
use perennial_store::{Job, StoreError};
use tonic::transport::{Channel, Endpoint};
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
pub async fn scale(job: &Job, workers: u32) -> Result<ScaleReply, OperateError> {
    let mut client = connect(job).await?;
    answer(client.scale(ScaleRequest { workers }).await)
}

/// Lets a worker leave at the next step boundary.
pub async fn drain(job: &Job, worker: &str) -> Result<(), OperateError> {
    let mut client = connect(job).await?;
    let worker = worker.to_string();
    answer(client.drain(DrainRequest { worker }).await).map(|DrainReply {}| ())
}

/// Ends the run at the next step boundary, with a checkpoint.
pub async fn stop(job: &Job) -> Result<(), OperateError> {
    let mut client = connect(job).await?;
    answer(client.stop(StopRequest {}).await).map(|StopReply {}| ())
}

/// Where the coordinator at `address` says that the job stands.
pub async fn status_at(job: &Job, address: &str) -> Result<StatusReply, OperateError> {
    let mut client = connect_to(job, address).await?;
    answer(client.status(StatusRequest {}).await)
}

fn answer<T>(reply: Result<Response<T>, Status>) -> Result<T, OperateError> {
    reply
        .map(Response::into_inner)
        .map_err(|status| OperateError::Refused(status.message().to_string()))
}

async fn connect(job: &Job) -> Result<CoordinatorClient<Channel>, OperateError> {
    let log: Vec<LogRecord> = job.read_log(0).await?;
    let ruling = log.iter().rev().find_map(|record| match &record.entry {
        LogEntry::Term { address, .. } => Some(address.clone()),
        _ => None,
    });
    let address = ruling.ok_or_else(|| OperateError::NotStarted(job.name().to_string()))?;
    connect_to(job, &address).await
}

async fn connect_to(job: &Job, address: &str) -> Result<CoordinatorClient<Channel>, OperateError> {
    let unreachable = |error: tonic::transport::Error| OperateError::Unreachable {
        job: job.name().to_string(),
        address: address.to_string(),
        cause: std::error::Error::source(&error)
            .map_or_else(|| error.to_string(), ToString::to_string),
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(unreachable)?;
    let endpoint = endpoint.connect_timeout(PATIENCE).timeout(PATIENCE);
    let channel = endpoint.connect().await.map_err(unreachable)?;
    Ok(CoordinatorClient::new(channel))
}
