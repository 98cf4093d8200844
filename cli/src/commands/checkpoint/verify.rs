//! `perennial checkpoint verify`.

use anyhow::bail;
use serde::Serialize;

use crate::job::Place;
use crate::output::{Output, counted};

/// Read every part of the checkpoints and compare it with its hash
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// Only the checkpoint of this step
    #[arg(long)]
    step: Option<u64>,
}

#[derive(Serialize)]
struct Answer {
    step: u64,
    sound: bool,
    problems: Vec<String>,
}

pub async fn run(args: Args, output: Output) -> anyhow::Result<()> {
    let job = args.place.open().await?;
    let all = job.checkpoint_steps().await?;
    let steps = match args.step {
        Some(step) => vec![super::of_step(&job, &all, step)?],
        None => all,
    };
    if steps.is_empty() {
        bail!("job `{}` has no checkpoint yet", job.name());
    }
    let mut broken = Vec::new();
    for step in steps.iter().copied() {
        let problems = match job.verify_checkpoint(step).await {
            Ok(problems) => problems,
            // The store is fine, the manifest is not.
            Err(error @ perennial_store::StoreError::Malformed { .. }) => vec![error],
            Err(error) => return Err(error.into()),
        };
        let answer = Answer {
            step,
            sound: problems.is_empty(),
            problems: problems.iter().map(ToString::to_string).collect(),
        };
        if !answer.sound {
            broken.push(step.to_string());
        }
        output.print(&answer, || text(&answer))?;
    }
    if broken.is_empty() {
        return Ok(());
    }
    bail!(
        "{} of {} broken: step {}",
        broken.len(),
        counted(steps.len() as u64, "checkpoint"),
        broken.join(", ")
    );
}

fn text(answer: &Answer) -> String {
    if answer.sound {
        return format!("step {}: sound", answer.step);
    }
    let problems = answer.problems.iter();
    let lines: Vec<String> = problems
        .map(|problem| format!("step {}: {problem}", answer.step))
        .collect();
    lines.join("\n")
}
