//! The gRPC services of a queue: they check what can be checked without it, pass on what comes, and know
//! nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response as HttpResponse};
use perennial_plan::Spec;
use perennial_proto::rules::worker_kind_of_job;
use perennial_proto::v1::coordinator_server::Coordinator;
use perennial_proto::v1::queue_server::Queue;
use perennial_proto::v1::{
    DrainReply, DrainRequest, JobsReply, JobsRequest, PrioritizeRequest, QueuedReply,
    ResumeRequest, ScaleReply, ScaleRequest, StatusReply, StatusRequest, StopReply, StopRequest,
    SubmitRequest, WorkerMessage,
};
use perennial_secure::Caller;
use perennial_store::{Job, Store, StoreError};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{Came, refuse, views};
use crate::log::LogRecord;
use crate::queue::{JobView, Submission, Wish};
use crate::replay::Replayed;
use crate::server::admission::held;
use crate::server::metrics;
use crate::server::pace::Pace;
use crate::server::service::run_is_over;
use crate::storage::now;

/// How long a worker may take to greet.
const GREETING: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(super) struct Desk {
    inbox: UnboundedSender<Came>,
    store: Store,
    connections: Arc<AtomicU64>,
}

/// The job that a wish is about.
pub(super) fn job_of(wish: &Wish) -> Option<&str> {
    match wish {
        Wish::Submit(submission) => Some(&submission.job),
        Wish::Resume { job, .. }
        | Wish::Prioritize { job, .. }
        | Wish::Scale { job, .. }
        | Wish::Stop { job, .. } => Some(job),
        Wish::Drain { job, .. } => job.as_deref(),
    }
}

// === impl Desk ===

impl Desk {
    pub fn new(inbox: UnboundedSender<Came>, store: Store) -> Self {
        Self {
            inbox,
            store,
            connections: Arc::default(),
        }
    }

    /// The answer to `GET /metrics`.
    pub async fn metrics(self) -> HttpResponse {
        let (answer, text) = oneshot::channel();
        let _ = self.inbox.send(Came::Metrics(answer));
        match text.await {
            Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
            Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        }
    }

    async fn wish(&self, wish: Wish) -> Result<Option<JobView>, Status> {
        let (answer, reply) = oneshot::channel();
        self.inbox
            .send(Came::Wish(wish, answer))
            .map_err(|_| run_is_over())?;
        reply.await.map_err(|_| run_is_over())?
    }

    async fn queued(&self, wish: Wish) -> Result<Response<QueuedReply>, Status> {
        let job = self.wish(wish).await?;
        Ok(Response::new(QueuedReply {
            job: job.map(views::job),
        }))
    }

    /// A job that is in the store and that the queue does not know.
    async fn adopt(&self, request: &ResumeRequest) -> Result<Wish, Status> {
        let name = &request.job;
        let job = self.store.job(name).map_err(unusable)?;
        let spec = job.spec().await.map_err(unusable)?;
        let spec = spec.ok_or_else(|| {
            Status::not_found(format!("job `{name}` is not there; submit it first"))
        })?;
        let log: Vec<LogRecord> = job.read_log(0).await.map_err(unusable)?;
        let replayed = Replayed::of(&spec, &log)
            .map_err(|violation| Status::failed_precondition(violation.to_string()))?;
        if replayed.ended.as_deref() == Some("finished") {
            return Err(Status::failed_precondition(format!(
                "job `{name}` is finished: all its epochs are done; nothing is left to resume"
            )));
        }
        Ok(Wish::Submit(Submission {
            priority: request.priority.unwrap_or_default(),
            workers: request.workers,
            numerics: (replayed.data)
                .map(|data| worker_kind_of_job(&spec, &data.numerics).to_string()),
            ..submission(&spec)
        }))
    }
}

fn submission(spec: &Spec) -> Submission {
    let min = spec.elastic.min_workers.max(1);
    let most = spec.elastic.max_workers.unwrap_or(u32::MAX);
    Submission {
        job: spec.name.clone(),
        submitted: now(),
        min_workers: min,
        max_workers: most.min(spec.train.slots).max(min),
        ..Submission::default()
    }
}

/// Writes the spec of a new job, which must not be there.
async fn create(job: &Job, spec: &Spec) -> Result<(), Status> {
    let name = job.name();
    let exists = || {
        Status::already_exists(format!(
            "job `{name}` exists in the store; `perennial resume {name}` goes on with it, or give the new one another name with `--set name=...`"
        ))
    };
    if job.spec().await.map_err(unusable)?.is_some() {
        return Err(exists());
    }
    match job.create_spec(spec).await {
        Ok(()) => Ok(()),
        Err(StoreError::Exists { .. }) => Err(exists()),
        Err(error) => Err(unusable(error)),
    }
}

fn unusable(error: StoreError) -> Status {
    match error {
        StoreError::Malformed { .. } => Status::invalid_argument(error.to_string()),
        error => Status::unavailable(error.to_string()),
    }
}

#[tonic::async_trait]
impl Coordinator for Desk {
    type SessionStream =
        UnboundedReceiverStream<Result<perennial_proto::v1::CoordinatorMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<WorkerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        let (outgoing, messages) = unbounded_channel();
        let inbox = self.inbox.clone();
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            let Ok(Ok(Some(greeting))) = timeout(GREETING, incoming.message()).await else {
                return refuse(&outgoing, "it did not greet", true);
            };
            let greeted = Came::Greeted(connection, Box::new(greeting), outgoing);
            if inbox.send(greeted).is_err() {
                return;
            }
            let mut pace = Pace::new(Instant::now());
            let cause = loop {
                match incoming.message().await {
                    Ok(Some(message)) => {
                        let wait = pace.wait(Instant::now());
                        if !wait.is_zero() {
                            tokio::time::sleep(wait).await;
                        }
                        if inbox.send(Came::Message(connection, message)).is_err() {
                            return;
                        }
                    }
                    Ok(None) => break String::new(),
                    Err(status) => break status.message().to_string(),
                }
            };
            let _ = inbox.send(Came::Gone(connection, cause));
        });
        Ok(Response::new(UnboundedReceiverStream::new(messages)))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusReply>, Status> {
        let (answer, reply) = oneshot::channel();
        if !request.get_ref().job.is_empty() {
            held(&request, &request.get_ref().job)?;
        }
        let job = request.into_inner().job;
        self.inbox
            .send(Came::Status(job, answer))
            .map_err(|_| run_is_over())?;
        reply.await.map_err(|_| run_is_over())?.map(Response::new)
    }

    async fn scale(&self, request: Request<ScaleRequest>) -> Result<Response<ScaleReply>, Status> {
        held(&request, &request.get_ref().job)?;
        let ScaleRequest { workers, job } = request.into_inner();
        let job = self.wish(Wish::Scale { job, workers }).await?;
        Ok(Response::new(ScaleReply {
            wanted: workers,
            present: job.map_or(0, |job| job.workers),
        }))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainReply>, Status> {
        held(&request, &request.get_ref().job)?;
        let DrainRequest { worker, job } = request.into_inner();
        let job = (!job.is_empty()).then_some(job);
        self.wish(Wish::Drain { job, worker }).await?;
        Ok(Response::new(DrainReply {}))
    }

    async fn stop(&self, request: Request<StopRequest>) -> Result<Response<StopReply>, Status> {
        held(&request, &request.get_ref().job)?;
        let StopRequest { job, now } = request.into_inner();
        self.wish(Wish::Stop { job, now }).await?;
        Ok(Response::new(StopReply {}))
    }
}

#[tonic::async_trait]
impl Queue for Desk {
    async fn submit(
        &self,
        request: Request<SubmitRequest>,
    ) -> Result<Response<QueuedReply>, Status> {
        let spec: Spec = serde_json::from_str(&request.get_ref().spec_json).map_err(|error| {
            Status::invalid_argument(format!("the job cannot be read: {error}"))
        })?;
        held(&request, &spec.name)?;
        let request = request.into_inner();
        spec.validate()
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Some(workers) = request.workers
            && workers < spec.elastic.min_workers
        {
            // Told before anything is written.
            return Err(Status::invalid_argument(format!(
                "{workers} workers are fewer than `elastic.min_workers`, which is {}",
                spec.elastic.min_workers
            )));
        }
        let job = self.store.job(&spec.name).map_err(unusable)?;
        create(&job, &spec).await?;
        self.queued(Wish::Submit(Submission {
            priority: request.priority,
            // More than the job can use is as much as it can use.
            workers: request
                .workers
                .map(|it| it.min(submission(&spec).max_workers)),
            command: (!request.command.is_empty()).then_some(request.command),
            ..submission(&spec)
        }))
        .await
    }

    async fn resume(
        &self,
        request: Request<ResumeRequest>,
    ) -> Result<Response<QueuedReply>, Status> {
        held(&request, &request.get_ref().job)?;
        let request = request.into_inner();
        let wish = Wish::Resume {
            job: request.job.clone(),
            priority: request.priority,
            workers: request.workers,
        };
        match self.queued(wish).await {
            Err(status) if status.code() == Code::NotFound => {
                self.queued(self.adopt(&request).await?).await
            }
            reply => reply,
        }
    }

    async fn prioritize(
        &self,
        request: Request<PrioritizeRequest>,
    ) -> Result<Response<QueuedReply>, Status> {
        held(&request, &request.get_ref().job)?;
        let PrioritizeRequest { job, priority } = request.into_inner();
        self.queued(Wish::Prioritize { job, priority }).await
    }

    async fn jobs(&self, request: Request<JobsRequest>) -> Result<Response<JobsReply>, Status> {
        let (answer, reply) = oneshot::channel();
        self.inbox
            .send(Came::Jobs(answer))
            .map_err(|_| run_is_over())?;
        let mut reply = reply
            .await
            .map_err(|_| Status::unavailable("this coordinator does not rule the queue"))?;
        if let Some(caller) = request.extensions().get::<Caller>() {
            // Who may touch one job sees that one, and the workers that it has.
            reply.jobs.retain(|job| caller.may_touch(&job.job));
            reply.workers.retain(|worker| caller.may_touch(&worker.job));
        }
        Ok(Response::new(reply))
    }
}
