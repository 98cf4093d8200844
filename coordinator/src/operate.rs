//! Wishes of an operator, told to the coordinator that rules a job, or the queue that it is in. Its address
//! stands in their logs.

use std::time::Duration;

use perennial_proto::dial::{self, Client, ShowToken, words_of};
use perennial_proto::v1::queue_client::QueueClient;
use perennial_proto::v1::{
    DrainRequest, JobStatus, JobsReply, JobsRequest, PrioritizeRequest, ResumeRequest, ScaleReply,
    ScaleRequest, StatusReply, StatusRequest, StopRequest, SubmitRequest,
};
use perennial_secure::Security;
use perennial_store::{Job, Store, StoreError};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::log::{LogEntry, LogRecord};
use crate::queue::{self, QueueEntry, State};

const PATIENCE: Duration = Duration::from_secs(10);

/// Why a wish could not be told or was refused.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    #[error("job `{0}` was never started; start it first")]
    NotStarted(String),
    #[error(
        "store `{0}` has no queue; start one with `perennial coordinator --listen HOST:PORT --store {0}`"
    )]
    NoQueue(String),
    #[error("no coordinator of {of} answers at `{address}`: {cause}; is it running?")]
    Unreachable {
        /// A job or the queue.
        of: String,
        address: String,
        cause: String,
    },
    #[error(
        "job `{job}` is {how}: nothing of it runs; `perennial status {job}` tells where it stands"
    )]
    Over { job: String, how: String },
    #[error("the coordinator at `{0}` serves one job and no queue")]
    OneJob(String),
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the queue's log breaks a rule: {0}")]
    Log(#[from] perennial_plan::invariants::Violation),
}

/// A coordinator, of what, and how it is spoken with.
#[derive(Debug, Clone)]
pub struct Ruler {
    of: String,
    address: String,
    /// An address without a scheme stands in a log: it is in plain text.
    in_log: bool,
    security: Security,
}

// === impl Ruler ===

impl Ruler {
    /// Whoever is at this address, as a person gives it.
    pub fn given(address: &str, security: &Security) -> Self {
        Self {
            of: "a queue".into(),
            address: address.into(),
            in_log: false,
            security: security.clone(),
        }
    }

    /// Whoever wrote this address into a log, as the coordinator of that.
    pub fn logged(of: String, address: &str, security: &Security) -> Self {
        Self {
            of,
            address: address.into(),
            in_log: true,
            security: security.clone(),
        }
    }

    /// Of the queue in this store, as its log says.
    pub async fn of_queue(store: &Store, security: &Security) -> Result<Self, OperateError> {
        match read_queue(store).await? {
            Some(queue) => Ok(Self::of_replayed(&queue, security)),
            None => Err(OperateError::NoQueue(store.url().to_string())),
        }
    }

    fn of_replayed(queue: &queue::Replayed, security: &Security) -> Self {
        Self::logged("the queue".into(), &queue.address, security)
    }

    /// Of this job: the queue's where it runs or waits there, else its own last one.
    pub async fn of_job(job: &Job, security: &Security) -> Result<Self, OperateError> {
        let queue = read_queue(job.store()).await?;
        let queued = queue.as_ref().and_then(|queue| queue.job(job.name()));
        if let (Some(queue), Some(queued)) = (&queue, queued)
            && !matches!(queued.state, State::Over(_))
        {
            return Ok(Self::of_replayed(queue, security));
        }
        let log: Vec<LogRecord> = job.read_log(0).await?;
        if let Some(LogEntry::Ended { how, .. }) = log.last().map(|record| &record.entry)
            && queued.is_none()
        {
            let (job, how) = (job.name().to_string(), how.clone());
            return Err(OperateError::Over { job, how });
        }
        let ruling = log.iter().rev().find_map(|record| match &record.entry {
            LogEntry::Term { address, .. } => Some(address.clone()),
            _ => None,
        });
        match (ruling, &queue) {
            (Some(address), _) => {
                let of = format!("job `{}`", job.name());
                Ok(Self::logged(of, &address, security))
            }
            // It was stopped before it ran: the queue says so.
            (None, Some(queue)) if queued.is_some() => Ok(Self::of_replayed(queue, security)),
            _ => Err(OperateError::NotStarted(job.name().to_string())),
        }
    }

    fn address(&self) -> Result<dial::Address, dial::DialError> {
        match self.in_log {
            true => dial::Address::in_log(&self.address),
            false => dial::Address::parse(&self.address, &self.security),
        }
    }

    fn unreachable(&self, error: &dial::DialError) -> OperateError {
        OperateError::Unreachable {
            of: self.of.clone(),
            address: self.address.clone(),
            cause: error.to_string(),
        }
    }

    async fn coordinator(&self) -> Result<Client, OperateError> {
        let dialed = async { self.address()?.client(&self.security, PATIENCE).await };
        dialed.await.map_err(|error| self.unreachable(&error))
    }

    async fn queue(
        &self,
    ) -> Result<QueueClient<InterceptedService<Channel, ShowToken>>, OperateError> {
        let dialed = async { self.address()?.queue_client(&self.security, PATIENCE).await };
        dialed.await.map_err(|error| self.unreachable(&error))
    }

    fn answer<T>(&self, reply: Result<Response<T>, Status>) -> Result<T, OperateError> {
        reply.map(Response::into_inner).map_err(|status| {
            if status.code() == tonic::Code::Unimplemented {
                return OperateError::OneJob(self.address.clone());
            }
            OperateError::Refused(words_of(&status))
        })
    }

    /// Sets the wanted number of workers; in a queue, the most that the job may have.
    pub async fn scale(&self, job: &str, workers: u32) -> Result<ScaleReply, OperateError> {
        let job = job.to_string();
        let mut client = self.coordinator().await?;
        self.answer(client.scale(ScaleRequest { workers, job }).await)
    }

    /// Lets a worker leave at the next step boundary; with an empty job, a worker of the pool.
    pub async fn drain(&self, job: &str, worker: &str) -> Result<(), OperateError> {
        let (job, worker) = (job.to_string(), worker.to_string());
        let mut client = self.coordinator().await?;
        self.answer(client.drain(DrainRequest { worker, job }).await)?;
        Ok(())
    }

    /// Ends the run at the next step boundary, with a checkpoint, or at once without one.
    pub async fn stop(&self, job: &str, now: bool) -> Result<(), OperateError> {
        let job = job.to_string();
        let mut client = self.coordinator().await?;
        self.answer(client.stop(StopRequest { job, now }).await)?;
        Ok(())
    }

    /// Where the job stands.
    pub async fn status(&self, job: &str) -> Result<StatusReply, OperateError> {
        let job = job.to_string();
        let mut client = self.coordinator().await?;
        self.answer(client.status(StatusRequest { job }).await)
    }

    /// Puts a new job into the queue.
    pub async fn submit(&self, request: SubmitRequest) -> Result<JobStatus, OperateError> {
        let mut client = self.queue().await?;
        let reply = self.answer(client.submit(request).await)?;
        Ok(reply.job.unwrap_or_default())
    }

    /// Puts a job into the queue again.
    pub async fn resume(&self, request: ResumeRequest) -> Result<JobStatus, OperateError> {
        let mut client = self.queue().await?;
        let reply = self.answer(client.resume(request).await)?;
        Ok(reply.job.unwrap_or_default())
    }

    /// Changes a job's priority.
    pub async fn prioritize(&self, job: &str, priority: i32) -> Result<JobStatus, OperateError> {
        let job = job.to_string();
        let mut client = self.queue().await?;
        let reply = client.prioritize(PrioritizeRequest { job, priority }).await;
        Ok(self.answer(reply)?.job.unwrap_or_default())
    }

    /// All jobs and workers of the queue.
    pub async fn jobs(&self) -> Result<JobsReply, OperateError> {
        let mut client = self.queue().await?;
        self.answer(client.jobs(JobsRequest {}).await)
    }
}

/// What the log of the queue in this store says, if there is one.
pub async fn read_queue(store: &Store) -> Result<Option<queue::Replayed>, OperateError> {
    let log: Vec<LogRecord<QueueEntry>> = store.queue().read(0).await?;
    if log.is_empty() {
        return Ok(None);
    }
    Ok(Some(queue::Replayed::of(&log)?))
}
