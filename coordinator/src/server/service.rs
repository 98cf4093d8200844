//! The gRPC service: it passes on what comes and knows nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response as HttpResponse};
use perennial_proto::v1::coordinator_server::Coordinator;
use perennial_proto::v1::{
    CoordinatorMessage, DrainReply, DrainRequest, ScaleReply, ScaleRequest, StatusReply,
    StatusRequest, StopReply, StopRequest, WorkerMessage,
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::metrics;
use super::pace::Pace;
use crate::machine::{ConnectionId, Event};

/// The way to one worker. Dropping it ends the stream.
pub(super) type Outgoing = UnboundedSender<Result<CoordinatorMessage, Status>>;

/// What comes to the task that owns the machine.
pub(super) enum Incoming {
    Connected(ConnectionId, Outgoing),
    Event(Event),
    Status(oneshot::Sender<StatusReply>),
    /// For a Prometheus server.
    Metrics(oneshot::Sender<String>),
    /// A wish of an operator; the error says why it cannot be.
    Wish(Event, Answer),
}

/// The way back to an operator.
pub(super) type Answer = oneshot::Sender<Result<StatusReply, Status>>;

#[derive(Clone)]
pub(super) struct Service {
    inbox: UnboundedSender<Incoming>,
    connections: Arc<AtomicU64>,
    job: Arc<str>,
}

// === impl Service ===

impl Service {
    pub fn new(inbox: UnboundedSender<Incoming>, job: &str) -> Self {
        Self {
            inbox,
            connections: Arc::default(),
            job: job.into(),
        }
    }

    /// A request for another job came to the wrong place.
    fn check_job(&self, job: &str) -> Result<(), Status> {
        if job.is_empty() || *job == *self.job {
            return Ok(());
        }
        let ours = &self.job;
        Err(Status::not_found(format!(
            "this coordinator rules job `{ours}`, not `{job}`"
        )))
    }

    /// The answer to `GET /metrics`.
    pub async fn metrics(self) -> HttpResponse {
        let (answer, text) = oneshot::channel();
        let _ = self.inbox.send(Incoming::Metrics(answer));
        match text.await {
            Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
            Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        }
    }

    async fn wish(&self, event: Event) -> Result<StatusReply, Status> {
        let (answer, reply) = oneshot::channel();
        self.inbox
            .send(Incoming::Wish(event, answer))
            .map_err(|_| run_is_over())?;
        reply.await.map_err(|_| run_is_over())?
    }
}

#[tonic::async_trait]
impl Coordinator for Service {
    type SessionStream = UnboundedReceiverStream<Result<CoordinatorMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<WorkerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        let (outgoing, messages) = unbounded_channel();
        self.inbox
            .send(Incoming::Connected(connection, outgoing))
            .map_err(|_| run_is_over())?;
        let inbox = self.inbox.clone();
        let mut incoming = request.into_inner();
        let mut pace = Pace::new(Instant::now());
        tokio::spawn(async move {
            let cause = loop {
                match incoming.message().await {
                    Ok(Some(message)) => {
                        let wait = pace.wait(Instant::now());
                        if !wait.is_zero() {
                            tokio::time::sleep(wait).await;
                        }
                        let event = Event::Message(connection, message);
                        if inbox.send(Incoming::Event(event)).is_err() {
                            return;
                        }
                    }
                    Ok(None) => break String::new(),
                    Err(status) => break status.message().to_string(),
                }
            };
            let _ = inbox.send(Incoming::Event(Event::Disconnected(connection, cause)));
        });
        Ok(Response::new(UnboundedReceiverStream::new(messages)))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusReply>, Status> {
        self.check_job(&request.into_inner().job)?;
        let (answer, reply) = oneshot::channel();
        self.inbox
            .send(Incoming::Status(answer))
            .map_err(|_| run_is_over())?;
        let reply = reply.await.map_err(|_| run_is_over())?;
        Ok(Response::new(reply))
    }

    async fn scale(&self, request: Request<ScaleRequest>) -> Result<Response<ScaleReply>, Status> {
        let ScaleRequest { workers, job } = request.into_inner();
        self.check_job(&job)?;
        if workers == 0 {
            return Err(Status::invalid_argument(
                "0 workers cannot train; stop the job instead",
            ));
        }
        let status = self.wish(Event::ScaleRequested(workers)).await?;
        let present = status
            .workers
            .iter()
            .filter(|worker| worker.state != "gone");
        Ok(Response::new(ScaleReply {
            wanted: status.wanted,
            present: present.count() as u32,
        }))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainReply>, Status> {
        let DrainRequest { worker, job } = request.into_inner();
        self.check_job(&job)?;
        self.wish(Event::DrainRequested(worker)).await?;
        Ok(Response::new(DrainReply {}))
    }

    async fn stop(&self, request: Request<StopRequest>) -> Result<Response<StopReply>, Status> {
        let StopRequest { job, now } = request.into_inner();
        self.check_job(&job)?;
        let event = match now {
            true => Event::BreakOffRequested,
            false => Event::StopRequested,
        };
        self.wish(event).await?;
        Ok(Response::new(StopReply {}))
    }
}

pub(super) fn run_is_over() -> Status {
    Status::unavailable("the run is over")
}
