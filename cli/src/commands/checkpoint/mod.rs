//! `perennial checkpoint`.

pub mod best;
pub mod export;
mod list;
mod verify;

use anyhow::bail;
use clap::Subcommand;
use perennial_store::Job;

use crate::job::block_on;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub enum Command {
    List(list::Args),
    Verify(verify::Args),
    Export(export::Args),
}

pub fn run(command: Command, output: Output) -> anyhow::Result<()> {
    block_on(async {
        match command {
            Command::List(args) => list::run(args, output).await,
            Command::Verify(args) => verify::run(args, output).await,
            Command::Export(args) => export::run(args, output).await,
        }
    })
}

/// `step`, when it is one of `steps`.
fn of_step(job: &Job, steps: &[u64], step: u64) -> anyhow::Result<u64> {
    if steps.contains(&step) {
        return Ok(step);
    }
    let there = match steps {
        [] => "it has none yet".to_string(),
        steps => {
            let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
            format!("it has {}", steps.join(", "))
        }
    };
    bail!(
        "job `{}` has no checkpoint of step {step}: {there}",
        job.name()
    );
}
