//! What a person sees in a browser: one page, and what it asks for.
//!
//! The page is a few files within the program, so that it works without internet. It polls `/api/...`, which
//! answers from the coordinator's own services, asked as a command would ask them, and from the store, so that a
//! job is shown when it is over, too. Who may ask is [`admission`](super::admission)'s to say; errors are text.

mod actions;
mod assets;
mod events;
mod login;
mod overview;
mod record;
mod records;
mod reports;
mod view;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request as HttpRequest;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use perennial_plan::Spec;
use perennial_proto::v1::CoordinatorMessage;
use perennial_proto::v1::coordinator_server::Coordinator;
use perennial_proto::v1::queue_server::Queue;
use perennial_secure::Caller;
use perennial_store::{Store, StoreError};
use serde::Serialize;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request, Status};

use super::{QueueConfig, ServeConfig};
use records::Records;

/// Reads a job file: its name, for messages, and its text. Why it cannot be, in a sentence.
pub type ReadJob = fn(&str, &str) -> Result<Spec, String>;

type Session = UnboundedReceiverStream<Result<CoordinatorMessage, Status>>;

/// What everything is told from: the coordinator's services and the store.
#[derive(Clone)]
pub(super) struct Dashboard {
    coordinator: Arc<dyn Coordinator<SessionStream = Session>>,
    queue: Option<Served>,
    /// The one job of a coordinator that has no queue.
    job: Option<Arc<str>>,
    store_url: Arc<str>,
    records: Arc<Records>,
}

/// A queue, and how job files for it are read.
#[derive(Clone)]
struct Served {
    queue: Arc<dyn Queue>,
    read_job: ReadJob,
}

/// Nothing but what the page itself has: no script or style within it, nothing from elsewhere, in no frame.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; \
     frame-ancestors 'none'";
const HEADERS: [(&str, &str); 5] = [
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

// === impl Dashboard ===

impl Dashboard {
    /// Of a coordinator that has one job.
    pub fn of_job(
        service: impl Coordinator<SessionStream = Session>,
        config: &ServeConfig,
    ) -> Self {
        Self {
            coordinator: Arc::new(service),
            queue: None,
            job: Some(config.spec.name.as_str().into()),
            store_url: config.store_url.as_str().into(),
            records: Arc::new(Records::new(config.store.clone())),
        }
    }

    /// Of a coordinator that has a queue.
    pub fn of_queue(
        desk: impl Coordinator<SessionStream = Session> + Queue + Clone,
        config: &QueueConfig,
    ) -> Self {
        Self {
            coordinator: Arc::new(desk.clone()),
            queue: Some(Served {
                queue: Arc::new(desk),
                read_job: config.read_job,
            }),
            job: None,
            store_url: config.store_url.as_str().into(),
            records: Arc::new(Records::new(config.store.clone())),
        }
    }

    pub fn routes(self) -> Router {
        Router::new()
            .route("/", get(assets::page))
            .route("/assets/{name}", get(assets::asset))
            .route("/api/login", post(login::login))
            .route("/api/logout", post(login::logout))
            .route("/api/overview", get(overview::overview))
            .route("/api/jobs", post(actions::submit))
            .route("/api/jobs/{job}", get(view::job))
            .route(
                "/api/jobs/{job}/reports/{step}/{format}",
                get(reports::report),
            )
            .route("/api/jobs/{job}/scale", post(actions::scale))
            .route("/api/jobs/{job}/stop", post(actions::stop))
            .route("/api/jobs/{job}/resume", post(actions::resume))
            .route("/api/jobs/{job}/priority", post(actions::prioritize))
            .route("/api/jobs/{job}/drain", post(actions::drain))
            .route("/api/workers/{worker}/drain", post(actions::drain_anywhere))
            .layer(from_fn(with_headers))
            .with_state(self)
    }

    fn store(&self) -> &Store {
        self.records.store()
    }

    fn queue(&self) -> Result<&Served, Failure> {
        self.queue.as_ref().ok_or_else(|| {
            Failure::new(
                StatusCode::NOT_IMPLEMENTED,
                "this coordinator serves one job and no queue",
            )
        })
    }
}

/// What a browser may do with an answer. A report brings a stricter policy of its own.
async fn with_headers(request: HttpRequest, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(POLICY));
    response
}

/// Why nothing came of a request, as the page shows it.
#[derive(Debug)]
struct Failure {
    code: StatusCode,
    message: String,
}

// === impl Failure ===

impl Failure {
    fn new(code: StatusCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message }
    }

    fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let code = match status.code() {
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::AlreadyExists | Code::FailedPrecondition => StatusCode::CONFLICT,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(code, status.message())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::Malformed { .. } => StatusCode::BAD_REQUEST,
            StoreError::Missing { .. } => StatusCode::NOT_FOUND,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(code, error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.code, self.message).into_response()
    }
}

/// An answer as JSON. Numbers that are none are null.
fn json(value: &impl Serialize) -> Result<Response, Failure> {
    let text = serde_json::to_string(value).map_err(|error| {
        let code = StatusCode::INTERNAL_SERVER_ERROR;
        Failure::new(code, format!("the answer cannot be written: {error}"))
    })?;
    Ok(([(CONTENT_TYPE, "application/json")], text).into_response())
}

/// A call of the coordinator's own services, in the name of who asked.
fn asked<T>(message: T, who: Option<&Caller>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(caller) = who {
        request.extensions_mut().insert(caller.clone());
    }
    request
}

/// A token for one job opens no other, wherever that is stored.
fn may_touch(caller: Option<&Caller>, job: &str) -> Result<(), Failure> {
    match caller {
        Some(caller) if !caller.may_touch(job) => Err(Failure::new(
            StatusCode::FORBIDDEN,
            format!("the token of {caller} is for another job than `{job}`"),
        )),
        _ => Ok(()),
    }
}
