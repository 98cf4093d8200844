//! What an operator does through the page: the calls of the commands of the same names.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use perennial_proto::v1::{
    DrainRequest, PrioritizeRequest, QueuedReply, ResumeRequest, ScaleRequest, StopRequest,
    SubmitRequest,
};
use perennial_secure::Caller;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Dashboard, Failure, asked, json as answer, may_touch};

type Who = Option<Extension<Caller>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Submit {
    /// The job file's name, for messages, and its text.
    name: String,
    file: String,
    #[serde(default)]
    priority: i32,
    workers: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scale {
    workers: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stop {
    /// At once and without a checkpoint.
    now: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resume {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Prioritize {
    priority: i32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Drain {
    worker: String,
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::bad(format!("the request cannot be read: {error}")))
}

/// A request of `who` about `job`: what its body says, which may be nothing, and who calls.
fn open<T: DeserializeOwned>(
    who: Who,
    job: &str,
    body: &Bytes,
) -> Result<(T, Option<Caller>), Failure> {
    let caller = who.map(|Extension(caller)| caller);
    may_touch(caller.as_ref(), job)?;
    let read = match body.is_empty() {
        true => read(&Bytes::from_static(b"{}")),
        false => read(body),
    };
    Ok((read?, caller))
}

fn queued(reply: tonic::Response<QueuedReply>) -> Result<Response, Failure> {
    let job = reply.into_inner().job.unwrap_or_default();
    answer(&json!({ "job": job.job, "state": job.state, "priority": job.priority }))
}

pub async fn submit(
    State(dashboard): State<Dashboard>,
    who: Who,
    body: Bytes,
) -> Result<Response, Failure> {
    let served = dashboard.queue()?;
    let Submit {
        name,
        file,
        priority,
        workers,
    } = read(&body)?;
    // It reads files that may be on a disk of another machine.
    let read_job = served.read_job;
    let spec = tokio::task::spawn_blocking(move || read_job(&name, &file)).await;
    let spec = spec
        .map_err(|_| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the job cannot be read"))?
        .map_err(Failure::bad)?;
    let spec_json = serde_json::to_string(&spec)
        .map_err(|error| Failure::bad(format!("the job cannot be written: {error}")))?;
    let request = SubmitRequest {
        spec_json,
        priority,
        workers,
        command: String::new(),
    };
    let who = who.map(|Extension(caller)| caller);
    queued(served.queue.submit(asked(request, who.as_ref())).await?)
}

pub async fn scale(
    State(dashboard): State<Dashboard>,
    Path(job): Path<String>,
    who: Who,
    body: Bytes,
) -> Result<Response, Failure> {
    let (Scale { workers }, who) = open(who, &job, &body)?;
    let request = asked(ScaleRequest { workers, job }, who.as_ref());
    let reply = dashboard.coordinator.scale(request).await?.into_inner();
    answer(&json!({ "wanted": reply.wanted, "present": reply.present }))
}

pub async fn stop(
    State(dashboard): State<Dashboard>,
    Path(job): Path<String>,
    who: Who,
    body: Bytes,
) -> Result<Response, Failure> {
    let (Stop { now }, who) = open(who, &job, &body)?;
    let request = StopRequest {
        job: job.clone(),
        now,
    };
    dashboard
        .coordinator
        .stop(asked(request, who.as_ref()))
        .await?;
    answer(&json!({ "stopping": job }))
}

pub async fn resume(
    State(dashboard): State<Dashboard>,
    Path(job): Path<String>,
    who: Who,
    body: Bytes,
) -> Result<Response, Failure> {
    let (Resume {}, who) = open(who, &job, &body)?;
    let request = ResumeRequest {
        job,
        priority: None,
        workers: None,
    };
    queued(
        dashboard
            .queue()?
            .queue
            .resume(asked(request, who.as_ref()))
            .await?,
    )
}

pub async fn prioritize(
    State(dashboard): State<Dashboard>,
    Path(job): Path<String>,
    who: Who,
    body: Bytes,
) -> Result<Response, Failure> {
    let (Prioritize { priority }, who) = open(who, &job, &body)?;
    let request = asked(PrioritizeRequest { job, priority }, who.as_ref());
    queued(dashboard.queue()?.queue.prioritize(request).await?)
}

pub async fn drain(
    State(dashboard): State<Dashboard>,
    Path(job): Path<String>,
    who: Who,
    body: Bytes,
) -> Result<Response, Failure> {
    let (Drain { worker }, who) = open(who, &job, &body)?;
    tell_to_leave(&dashboard, worker, job, who).await
}

/// Of a queue, whatever the worker does.
pub async fn drain_anywhere(
    State(dashboard): State<Dashboard>,
    Path(worker): Path<String>,
    who: Who,
) -> Result<Response, Failure> {
    let who = who.map(|Extension(caller)| caller);
    tell_to_leave(&dashboard, worker, String::new(), who).await
}

async fn tell_to_leave(
    dashboard: &Dashboard,
    worker: String,
    job: String,
    who: Option<Caller>,
) -> Result<Response, Failure> {
    let request = DrainRequest {
        worker: worker.clone(),
        job,
    };
    dashboard
        .coordinator
        .drain(asked(request, who.as_ref()))
        .await?;
    answer(&json!({ "draining": worker }))
}
