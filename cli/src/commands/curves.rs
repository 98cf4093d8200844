//! `perennial curves`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use chrono::DateTime;
use clap::ValueEnum;
use perennial_coordinator::replay::Replayed;
use perennial_report::Curves;
use perennial_store::Job;
use serde_json::json;

use crate::file::write_new;
use crate::job::{Place, block_on, replay};
use crate::output::{self, Output, counted};
use crate::tensorboard::{EventFile, now};

/// Show the training curves of a job, whether it runs or not
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// Text, or with --json and for programs one line of JSON an epoch; an image where --out ends in .svg or .png
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write to a new file instead of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write the numbers of all steps and epochs to a new event file of TensorBoard in DIR/JOB
    #[arg(long, value_name = "DIR", conflicts_with_all = ["format", "out"])]
    tensorboard: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
    Svg,
    Png,
}

pub fn run(args: &Args, output: Output) -> anyhow::Result<()> {
    if let Some(dir) = &args.tensorboard {
        let (events, replayed) = block_on(async {
            let job = args.place.open().await?;
            let (_, replayed) = replay(&job).await?;
            let events = write_events(dir, &job, &replayed).await?;
            Ok((events, replayed))
        })?;
        let (steps, epochs) = (replayed.steps.len() as u64, replayed.history.len() as u64);
        let answer = json!({ "path": events, "steps": steps, "epochs": epochs });
        return output.print(&answer, || {
            let (steps, epochs) = (counted(steps, "step"), counted(epochs, "epoch"));
            format!("{}: {steps}, {epochs}", events.display())
        });
    }
    let format = args.format(output)?;
    let (job, replayed) = block_on(async {
        let job = args.place.open().await?;
        let (_, replayed) = replay(&job).await?;
        Ok((job, replayed))
    })?;
    let classes = replayed.data.as_ref().map_or(5, |data| data.classes.len());
    let curves = Curves {
        job: job.name(),
        epochs: &replayed.history,
        k: classes.min(5) as u32,
    };
    if curves.epochs.is_empty() {
        bail!(
            "job `{}` has no curves yet: its first epoch is not done",
            job.name()
        );
    }
    let document = match format {
        Format::Text => curves.to_text(),
        Format::Json => curves.to_json_lines(),
        Format::Svg => curves.to_svg(),
        Format::Png => match &args.out {
            Some(path) => return write_new(path, &curves.to_png()?),
            None => bail!("a PNG is no text for a terminal: name a file with --out"),
        },
    };
    match &args.out {
        Some(path) => write_new(path, document.as_bytes()),
        None => output::line(document.trim_end()),
    }
}

// === impl Args ===

impl Args {
    fn format(&self, output: Output) -> anyhow::Result<Format> {
        if let Some(format) = self.format {
            return Ok(format);
        }
        let extension = self.out.as_ref().and_then(|out| out.extension());
        let extension = extension.map(|it| it.to_string_lossy().to_lowercase());
        Ok(match extension.as_deref() {
            Some("svg") => Format::Svg,
            Some("png") => Format::Png,
            Some("json" | "jsonl") => Format::Json,
            Some(other @ ("jpg" | "jpeg" | "gif" | "webp" | "bmp" | "pdf" | "html")) => {
                bail!(
                    "curves are not drawn as `.{other}`: end --out in .svg or .png, or say --format"
                )
            }
            _ if output.json => Format::Json,
            _ => Format::Text,
        })
    }
}

/// The path of the new file. The log has no clock times: they are counted in the seconds that steps took, from that of
/// the newest checkpoint on, as if there had been no pauses.
async fn write_events(
    dir: &std::path::Path,
    job: &Job,
    replayed: &Replayed,
) -> anyhow::Result<PathBuf> {
    let (steps, epochs) = (&replayed.steps, &replayed.history);
    if steps.is_empty() {
        bail!("job `{}` has not taken a step yet", job.name());
    }
    let mut seconds = vec![0.0];
    for step in steps {
        seconds.push(seconds[seconds.len() - 1] + step.seconds);
    }
    let checkpoints = job.checkpoints().await?;
    let known = checkpoints.iter().rev().find_map(|checkpoint| {
        let created = DateTime::parse_from_rfc3339(&checkpoint.created).ok()?;
        let seconds = seconds.get(usize::try_from(checkpoint.step).ok()?)?;
        Some(created.timestamp() as f64 - seconds)
    });
    let start = known.unwrap_or_else(|| now() - seconds[steps.len()]);

    let mut file = EventFile::create(dir, job.name(), start)?;
    let mut write = || {
        file.restart(start, 1)?;
        for (step, (record, seconds)) in (1..).zip(steps.iter().zip(&seconds[1..])) {
            file.step(start + seconds, step, &record.into())?;
            let ends_epoch = steps
                .get(step as usize)
                .is_none_or(|next| next.epoch != record.epoch);
            if let Some(epoch) = epochs.get(record.epoch as usize).filter(|_| ends_epoch) {
                file.epoch(start + seconds, step, &epoch.into())?;
            }
        }
        file.flush()
    };
    let written = write();
    written.with_context(|| format!("cannot write `{}`", file.path.display()))?;
    Ok(file.path)
}
