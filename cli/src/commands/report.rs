//! `perennial report`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::ValueEnum;
use clap_complete::ArgValueCandidates;
use perennial_report::{Comparison, Report};
use perennial_store::Job;

use crate::file::write_new;
use crate::job::{At, Place, block_on};
use crate::names;
use crate::output::{self, Output};

/// Show the report of a job
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job's name, or its job file
    #[arg(required_unless_present = "compare", add = ArgValueCandidates::new(names::jobs))]
    job: Option<String>,
    #[command(flatten)]
    at: At,
    /// Text, or with --json one line of JSON, where it is left out
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The report of this step instead of the newest
    #[arg(long)]
    step: Option<u64>,
    /// Put the newest reports of these jobs side by side, with the keys in which the job files differ
    #[arg(long, value_name = "JOB", num_args = 1.., conflicts_with_all = ["format", "step", "out"],
        add = ArgValueCandidates::new(names::jobs))]
    compare: Vec<String>,
    /// Write to a new file instead of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
    Html,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<()> {
    if !args.compare.is_empty() {
        let comparison = block_on(compare(&args))?;
        return output.print(&comparison, || output::table(&comparison.table()));
    }
    let job = args.job.as_deref().unwrap_or_default();
    let report = block_on(async {
        let job = Place::of(job, &args.at).open().await?;
        load(&job, args.step).await
    })?;
    let document = match (args.format, output.json) {
        (None, true) => one_line(&report.to_json_pretty())?,
        (Some(Format::Text), _) | (None, false) => report.to_text(),
        (Some(Format::Json), _) => report.to_json_pretty(),
        (Some(Format::Html), _) => report.to_html(),
    };
    match args.out {
        Some(path) => write_new(&path, document.as_bytes()),
        None => output::line(document.trim_end()),
    }
}

fn one_line(json: &str) -> anyhow::Result<String> {
    Ok(serde_json::from_str::<serde_json::Value>(json)?.to_string())
}

async fn compare(args: &Args) -> anyhow::Result<Comparison> {
    let jobs: Vec<&String> = args.job.iter().chain(&args.compare).collect();
    if let [one] = jobs[..] {
        bail!("`{one}` is one job: name another one to compare it with");
    }
    let mut reports = Vec::new();
    for job in jobs {
        reports.push(load(&args.at.open(job).await?, None).await?);
    }
    Ok(Comparison::of(&reports))
}

/// The report of this step, or the newest.
async fn load(job: &Job, step: Option<u64>) -> anyhow::Result<Report> {
    let steps = job.report_steps().await?;
    let step = match (step, steps.last()) {
        (_, None) => bail!(
            "job `{}` has no report yet: it gets one when it has finished or stopped after an epoch",
            job.name()
        ),
        (None, Some(newest)) => *newest,
        (Some(step), _) if steps.contains(&step) => step,
        (Some(step), _) => {
            let there: Vec<String> = steps.iter().map(ToString::to_string).collect();
            bail!(
                "job `{}` has no report of step {step}: it has {}",
                job.name(),
                there.join(", ")
            );
        }
    };
    let bytes = job.report(step, "json").await?;
    let json = std::str::from_utf8(&bytes).context("the report is not text")?;
    Report::from_json(json)
        .with_context(|| format!("report of step {step} of job `{}`", job.name()))
}
