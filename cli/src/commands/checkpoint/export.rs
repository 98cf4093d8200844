//! `perennial checkpoint export`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use perennial_store::{Job, PartKind};
use serde::Serialize;

use super::best::{Metric, best};
use crate::file::{refuse_existing, write_new};
use crate::job::Place;
use crate::output::{Output, bytes};

/// Write the weights of a checkpoint to a safetensors file that PyTorch can load
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// The checkpoint of this step instead of the newest
    #[arg(long, conflicts_with = "best")]
    step: Option<u64>,
    /// The best checkpoint, by top-1 (of the average where there is one) where no METRIC is named
    #[arg(long, value_name = "METRIC", num_args = 0..=1, require_equals = true, default_missing_value = "top1")]
    best: Option<Metric>,
    /// The average of the weights instead of the weights
    #[arg(long)]
    ema: bool,
    /// A new file
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Answer {
    step: u64,
    kind: PartKind,
    path: PathBuf,
    bytes: u64,
    weights_sha256: String,
}

pub async fn run(args: Args, output: Output) -> anyhow::Result<()> {
    refuse_existing(&args.out)?;
    let job = args.place.open().await?;
    let Exported {
        step,
        kind,
        content,
        weights_sha256,
    } = read(&job, args.step, args.best, args.ema).await?;
    write_new(&args.out, &content)?;
    let answer = Answer {
        step,
        kind,
        path: args.out,
        bytes: content.len() as u64,
        weights_sha256,
    };
    output.print(&answer, || {
        format!(
            "{}: {} weights of step {step}, {}, hash {}",
            answer.path.display(),
            match kind {
                PartKind::Ema => "averaged",
                _ => "raw",
            },
            bytes(answer.bytes),
            answer.weights_sha256
        )
    })
}

/// Weights of a checkpoint.
pub struct Exported {
    pub step: u64,
    pub kind: PartKind,
    /// A safetensors file.
    pub content: Vec<u8>,
    pub weights_sha256: String,
}

/// The weights of the checkpoint of `step`, else of the best or the newest one, or their average.
pub async fn read(
    job: &Job,
    step: Option<u64>,
    wanted: Option<Metric>,
    ema: bool,
) -> anyhow::Result<Exported> {
    read_step(job, step_of(job, step, wanted).await?, ema).await
}

/// The checkpoint of `step`, which must be there, else the best or the newest one.
pub async fn step_of(job: &Job, step: Option<u64>, wanted: Option<Metric>) -> anyhow::Result<u64> {
    let steps = job.checkpoint_steps().await?;
    match (step, wanted) {
        (Some(step), _) => super::of_step(job, &steps, step),
        (None, Some(metric)) => best(job, metric)
            .await?
            .with_context(|| format!("no checkpoint of job `{}` was validated", job.name())),
        (None, None) => steps
            .last()
            .copied()
            .with_context(|| format!("job `{}` has no checkpoint yet", job.name())),
    }
}

/// The weights of this checkpoint, or their average.
pub async fn read_step(job: &Job, step: u64, ema: bool) -> anyhow::Result<Exported> {
    let manifest = job.load_manifest(step).await?;
    let (kind, hash) = match (&manifest.ema_sha256, ema) {
        (_, false) => (PartKind::Model, &manifest.weights_sha256),
        (Some(hash), true) => (PartKind::Ema, hash),
        (None, true) => {
            bail!("the checkpoint of step {step} has no average of the weights: leave out --ema")
        }
    };
    let part = manifest.part(kind).with_context(|| {
        format!(
            "the checkpoint of step {step} has no {} part",
            kind.as_str()
        )
    })?;
    Ok(Exported {
        step,
        kind,
        content: job.read_part(part).await?.into(),
        weights_sha256: hash.clone(),
    })
}
