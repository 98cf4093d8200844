//! Commands that tell a coordinator what is wished: `scale`, `drain`, `stop`, `resume` and `priority`.

use clap_complete::ArgValueCandidates;
use perennial_proto::v1::{JobStatus, ResumeRequest};
use serde_json::json;

use crate::job::{At, Place, block_on};
use crate::names;
use crate::output::{Output, counted};

/// Change the number of workers of a running job
#[derive(Debug, clap::Args)]
pub struct ScaleArgs {
    #[command(flatten)]
    place: Place,
    /// The wanted number of workers; in a queue, the most that the job may have. On one machine they are
    /// started and let go; elsewhere workers that wait are taken, and those that are too many are let go
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    workers: u32,
}

/// Let a worker leave for good after the step at hand
#[derive(Debug, clap::Args)]
pub struct DrainArgs {
    /// The worker's name, such as w2, and before it that of its job; in a queue the worker's alone will do
    #[arg(value_name = "[JOB] WORKER", num_args = 1..=2, required = true,
        add = ArgValueCandidates::new(names::workers))]
    words: Vec<String>,
    #[command(flatten)]
    at: At,
}

/// End a running job after the step at hand, with a checkpoint
#[derive(Debug, clap::Args)]
pub struct StopArgs {
    #[command(flatten)]
    place: Place,
    /// At once, without a checkpoint: what came after the newest one is computed again when the job goes on
    #[arg(long)]
    now: bool,
}

/// Put a job that was stopped or that failed into the queue again
///
/// It goes on from its newest checkpoint. A job that another command has trained is taken into the queue so, too.
#[derive(Debug, clap::Args)]
pub struct ResumeArgs {
    #[command(flatten)]
    place: Place,
    /// Another priority; higher ones come first
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i32>,
    /// The most workers that it may have
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    workers: Option<u32>,
}

/// Change the priority of a job in the queue
#[derive(Debug, clap::Args)]
pub struct PriorityArgs {
    #[command(flatten)]
    place: Place,
    /// Higher ones come first; jobs begin with 0
    #[arg(value_name = "N", allow_negative_numbers = true)]
    priority: i32,
}

pub fn scale(args: &ScaleArgs, output: Output) -> anyhow::Result<()> {
    let reply = block_on(async {
        let (ruler, job) = args.place.ruler().await?;
        Ok(ruler.scale(&job, args.workers).await?)
    })?;
    let (wanted, present) = (reply.wanted, reply.present);
    output.print(&json!({ "wanted": wanted, "present": present }), || {
        let workers = counted(u64::from(wanted), "worker");
        format!("the job wants {workers} and has {present} now")
    })
}

pub fn drain(args: &DrainArgs, output: Output) -> anyhow::Result<()> {
    let worker = args.words.last().cloned().unwrap_or_default();
    block_on(async {
        match args.words.as_slice() {
            [job, worker] => {
                let place = Place::of(job, &args.at);
                let (ruler, job) = place.ruler().await?;
                ruler.drain(&job, worker).await?;
            }
            _ => args.at.queue().await?.drain("", &worker).await?,
        }
        Ok(())
    })?;
    output.print(&json!({ "draining": worker }), || {
        format!("worker `{worker}` leaves after the step at hand")
    })
}

pub fn stop(args: &StopArgs, output: Output) -> anyhow::Result<()> {
    let name = block_on(async {
        let (ruler, job) = args.place.ruler().await?;
        ruler.stop(&job, args.now).await?;
        Ok(job)
    })?;
    output.print(&json!({ "stopping": name }), || {
        if args.now {
            format!("job `{name}` stops at once")
        } else {
            format!("job `{name}` stops after the step at hand and writes a checkpoint")
        }
    })
}

pub fn resume(args: ResumeArgs, output: Output) -> anyhow::Result<()> {
    let job = block_on(async {
        let request = ResumeRequest {
            job: args.place.name()?,
            priority: args.priority,
            workers: args.workers,
        };
        Ok(args.place.at().queue().await?.resume(request).await?)
    })?;
    queued(&job, args.place.at(), output)
}

pub fn priority(args: &PriorityArgs, output: Output) -> anyhow::Result<()> {
    let job = block_on(async {
        let queue = args.place.at().queue().await?;
        Ok(queue.prioritize(&args.place.name()?, args.priority).await?)
    })?;
    output.print(&as_json(&job), || {
        format!("job `{}` has priority {}", job.job, job.priority)
    })
}

/// Tells that a job is in the queue.
pub fn queued(job: &JobStatus, at: &At, output: Output) -> anyhow::Result<()> {
    output.print(&as_json(job), || {
        let (name, priority, at) = (&job.job, job.priority, at.in_words());
        format!(
            "job `{name}` is in the queue with priority {priority}; `perennial status {name}{at}` tells where it stands"
        )
    })
}

fn as_json(job: &JobStatus) -> serde_json::Value {
    json!({
        "job": job.job,
        "state": job.state,
        "priority": job.priority,
        "min_workers": job.min_workers,
        "max_workers": job.max_workers,
    })
}
