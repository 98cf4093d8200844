//! `perennial scale`, `perennial drain` and `perennial stop`.

use perennial_coordinator::operate;
use serde_json::json;

use crate::job::{Place, block_on};
use crate::output::{Output, counted};
use crate::security::Person;

/// Change the number of workers of a running job
#[derive(Debug, clap::Args)]
pub struct ScaleArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    person: Person,
    /// The wanted number of workers. On one machine they are started and let go; elsewhere workers that
    /// wait are taken, and those that are too many are let go
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    workers: u32,
}

/// Let a worker of a running job leave after the step at hand
#[derive(Debug, clap::Args)]
pub struct DrainArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    person: Person,
    /// Its name, such as w2
    worker: String,
}

/// End a running job after the step at hand, with a checkpoint
#[derive(Debug, clap::Args)]
pub struct StopArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    person: Person,
}

pub fn scale(args: &ScaleArgs, output: Output) -> anyhow::Result<()> {
    let security = args.person.security()?;
    let reply = block_on(async {
        let job = args.place.open().await?;
        Ok(operate::scale(&job, &security, args.workers).await?)
    })?;
    let (wanted, present) = (reply.wanted, reply.present);
    output.print(&json!({ "wanted": wanted, "present": present }), || {
        let workers = counted(u64::from(wanted), "worker");
        format!("the job wants {workers} and has {present} now")
    })
}

pub fn drain(args: &DrainArgs, output: Output) -> anyhow::Result<()> {
    let security = args.person.security()?;
    block_on(async {
        let job = args.place.open().await?;
        Ok(operate::drain(&job, &security, &args.worker).await?)
    })?;
    let worker = &args.worker;
    output.print(&json!({ "draining": worker }), || {
        format!("worker `{worker}` leaves after the step at hand")
    })
}

pub fn stop(args: &StopArgs, output: Output) -> anyhow::Result<()> {
    let security = args.person.security()?;
    let name = block_on(async {
        let job = args.place.open().await?;
        operate::stop(&job, &security).await?;
        Ok(job.name().to_string())
    })?;
    output.print(&json!({ "stopping": name }), || {
        format!("job `{name}` stops after the step at hand and writes a checkpoint")
    })
}
