//! `perennial scale` and `perennial drain`.

use perennial_coordinator::operate;

use crate::job::{Place, block_on};

/// Change the number of workers of a running job
#[derive(Debug, clap::Args)]
pub struct ScaleArgs {
    #[command(flatten)]
    place: Place,
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
    /// Its name, such as w2
    worker: String,
}

pub fn scale(args: &ScaleArgs) -> anyhow::Result<()> {
    let reply = block_on(async {
        let job = args.place.open().await?;
        Ok(operate::scale(&job, args.workers).await?)
    })?;
    println!("wants {} workers, has {} now", reply.wanted, reply.present);
    Ok(())
}

pub fn drain(args: &DrainArgs) -> anyhow::Result<()> {
    block_on(async {
        let job = args.place.open().await?;
        Ok(operate::drain(&job, &args.worker).await?)
    })?;
    println!("worker {} leaves after this step", args.worker);
    Ok(())
}
