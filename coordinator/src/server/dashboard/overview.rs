//! All jobs and workers, and who asks.

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use perennial_proto::VERSION;
use perennial_proto::v1::{
    DeviceMemory, JobStatus, JobsRequest, PoolWorker, StatusReply, StatusRequest,
};
use perennial_secure::{Caller, Role};
use serde::Serialize;
use tonic::Request;

use super::super::admission::cookie;
use super::{Dashboard, Failure, asked, json};

#[derive(Serialize)]
struct Overview {
    /// `queue` or `job`.
    serves: &'static str,
    version: &'static str,
    store: String,
    term: u64,
    me: Me,
    jobs: Vec<Job>,
    workers: Vec<Worker>,
    /// Jobs that are in the store and not in the queue.
    stored: Vec<String>,
}

/// Who asks.
#[derive(Serialize)]
struct Me {
    /// None in plain text, where everybody may do everything.
    name: Option<String>,
    role: Option<Role>,
    may_operate: bool,
    /// By a token in a cookie, which can be forgotten.
    signed_in: bool,
}

/// A job in the list of all.
#[derive(Serialize)]
pub struct Job {
    pub job: String,
    pub state: String,
    pub reason: String,
    /// Of a job in a queue.
    pub queue: Option<InQueue>,
    pub running: Option<Progress>,
}

#[derive(Serialize)]
pub struct InQueue {
    priority: i32,
    submitted: String,
    min_workers: u32,
    max_workers: u32,
    /// How many it has been given, and is to have.
    workers: u32,
    share: u32,
}

/// How far a job is that runs.
#[derive(Serialize)]
pub struct Progress {
    phase: String,
    term: u64,
    generation: u64,
    global_step: u64,
    total_steps: u64,
    epoch: u32,
    wanted: u32,
    images_per_second: f64,
    seconds_left: Option<f64>,
    goodput: Option<f64>,
    val_top1: Option<f64>,
    ema_top1: Option<f64>,
    members: Vec<Member>,
}

#[derive(Serialize)]
struct Member {
    worker: String,
    state: String,
    slots: u32,
    slots_per_second: f64,
    /// Only of a worker with a GPU.
    device_memory: Option<DeviceMemory>,
}

#[derive(Serialize)]
struct Worker {
    worker: String,
    job: Option<String>,
    threads: Option<u32>,
    numerics: Option<String>,
    draining: bool,
}

pub async fn overview(
    State(dashboard): State<Dashboard>,
    caller: Option<Extension<Caller>>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let caller = caller.map(|Extension(caller)| caller);
    let mut stored = Vec::new();
    if caller.as_ref().is_none_or(|caller| caller.job.is_none()) {
        stored = dashboard.records.stored().await?;
    }
    let who = caller.clone();
    let me = Me {
        may_operate: caller.as_ref().is_none_or(|it| it.role == Role::Operator),
        role: caller.as_ref().map(|caller| caller.role),
        signed_in: caller.is_some() && cookie(&headers).is_some(),
        name: caller.map(|caller| caller.name),
    };
    let (jobs, workers, term) = dashboard.standing(who.as_ref()).await?;
    stored.retain(|name| jobs.iter().all(|job| job.job != *name));
    json(&Overview {
        serves: if dashboard.queue.is_some() {
            "queue"
        } else {
            "job"
        },
        version: VERSION,
        store: dashboard.store_url.to_string(),
        term,
        me,
        jobs,
        workers,
        stored,
    })
}

// === impl Dashboard ===

impl Dashboard {
    /// Jobs, workers and the term of who rules.
    async fn standing(
        &self,
        who: Option<&Caller>,
    ) -> Result<(Vec<Job>, Vec<Worker>, u64), Failure> {
        if let Some(served) = &self.queue {
            let reply = served.queue.jobs(asked(JobsRequest {}, who)).await?;
            let reply = reply.into_inner();
            let jobs = reply.jobs.into_iter().map(Job::from).collect();
            let workers = reply.workers.into_iter().map(Worker::from).collect();
            return Ok((jobs, workers, reply.term));
        }
        let reply = self.status("").await?;
        let term = reply.term;
        let present = reply.workers.iter().filter(|worker| worker.state != "gone");
        let workers = present.map(|worker| Worker {
            worker: worker.worker.clone(),
            job: Some(reply.job.clone()),
            threads: None,
            numerics: None,
            draining: worker.state == "draining",
        });
        Ok((vec![Job::from(reply.clone())], workers.collect(), term))
    }

    /// Where the job stands that this coordinator rules now.
    async fn status(&self, job: &str) -> Result<StatusReply, Failure> {
        let job = job.to_string();
        let reply = self.coordinator.status(Request::new(StatusRequest { job }));
        Ok(reply.await?.into_inner())
    }

    /// The job, if the queue has it or it is the one that is served. Who asks is held to it already.
    pub(super) async fn find(&self, name: &str) -> Result<Option<Job>, Failure> {
        if self.job.as_deref().is_some_and(|own| own != name) {
            return Ok(None);
        }
        let (jobs, _, _) = self.standing(None).await?;
        Ok(jobs.into_iter().find(|job| job.job == name))
    }
}

// === impl Job ===

impl From<JobStatus> for Job {
    fn from(status: JobStatus) -> Self {
        Self {
            job: status.job,
            state: status.state,
            reason: status.reason,
            queue: Some(InQueue {
                priority: status.priority,
                submitted: status.submitted,
                min_workers: status.min_workers,
                max_workers: status.max_workers,
                workers: status.workers,
                share: status.share,
            }),
            running: status.running.map(Progress::from),
        }
    }
}

impl From<StatusReply> for Job {
    fn from(status: StatusReply) -> Self {
        Self {
            job: status.job.clone(),
            state: status.phase.clone(),
            reason: status.reason.clone(),
            queue: None,
            running: Some(status.into()),
        }
    }
}

// === impl Progress ===

impl From<StatusReply> for Progress {
    fn from(status: StatusReply) -> Self {
        let members = status.workers.into_iter().map(|worker| Member {
            worker: worker.worker,
            state: worker.state,
            slots: worker.slots,
            slots_per_second: worker.speed,
            device_memory: worker.device_memory,
        });
        Self {
            phase: status.phase,
            term: status.term,
            generation: status.generation,
            global_step: status.global_step,
            total_steps: status.total_steps,
            epoch: status.epoch,
            wanted: status.wanted,
            images_per_second: status.images_per_second,
            seconds_left: status.seconds_left,
            goodput: status.goodput,
            val_top1: status.val_top1,
            ema_top1: status.ema_top1,
            members: members.collect(),
        }
    }
}

// === impl Worker ===

impl From<PoolWorker> for Worker {
    fn from(worker: PoolWorker) -> Self {
        Self {
            worker: worker.worker,
            job: (!worker.job.is_empty()).then_some(worker.job),
            threads: Some(worker.threads),
            numerics: Some(worker.numerics),
            draining: worker.draining,
        }
    }
}
