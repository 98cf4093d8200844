//! `perennial submit`.

use std::path::Path;

use perennial_data::DataSet;
use perennial_plan::Spec;
use perennial_plan::spec::SpecError;
use perennial_proto::v1::SubmitRequest;

use super::operate::queued;
use crate::job::{At, block_on};
use crate::job_file::JobFile;
use crate::output::{self, Output};
use crate::settings::{self, SettingsError};
use crate::shell::CommandLine;

/// Put a job into the queue of a coordinator
///
/// Everything about it is checked before anything is written. It runs once workers are free for it; jobs of a
/// higher priority come first and shrink others to their elastic.min_workers, or send them back to the queue
/// with a checkpoint.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    file: JobFile,
    #[command(flatten)]
    at: At,
    /// Higher ones come first
    #[arg(
        long,
        value_name = "N",
        default_value = "0",
        allow_negative_numbers = true
    )]
    priority: i32,
    /// The most workers that it may have, beside elastic.max_workers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    workers: Option<u32>,
    /// Show the job with all its values and do nothing
    #[arg(long)]
    dry_run: bool,
}

pub fn run(args: &Args, output: Output) -> anyhow::Result<()> {
    let sources = args.file.sources();
    let spec = sources.resolve()?;
    check(&spec, args)?;
    if args.dry_run {
        return show(&spec, output);
    }
    let line = CommandLine::new("perennial", "train").word(args.file.job.to_string_lossy());
    let variables = settings::variables(&sources.environment);
    let command = args.file.over.spell(line).with_environment(&variables);
    let request = SubmitRequest {
        spec_json: serde_json::to_string(&spec)?,
        priority: args.priority,
        workers: args.workers,
        command: command.into_string(),
    };
    let job = block_on(async { Ok(args.at.queue().await?.submit(request).await?) })?;
    queued(&job, &args.at, output)
}

fn check(spec: &Spec, args: &Args) -> anyhow::Result<()> {
    if spec.data.dir.is_empty() {
        let error = SpecError {
            key: "data.dir",
            value: "\"\"".into(),
            expected: "the folder of pictures where the workers run; or use `--data DIR`",
        };
        return Err(SettingsError::from(error).into());
    }
    if let Some(workers) = args.workers {
        super::train::refuse_workers(spec, workers)?;
    }
    // What is wrong with pictures that are here as well is better told now; else the workers tell it.
    if Path::new(&spec.data.dir).is_dir() {
        DataSet::open(&spec.data)?;
    }
    Ok(())
}

/// The job as its file would have to say it if there were no defaults.
fn show(spec: &Spec, output: Output) -> anyhow::Result<()> {
    if output.json {
        return output::line(&serde_json::to_string(spec)?);
    }
    output::line(toml::to_string(spec)?.trim_end())
}
