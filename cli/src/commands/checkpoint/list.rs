//! `perennial checkpoint list`.

use serde::Serialize;

use crate::job::Place;
use crate::output::{self, Output, bytes, counted, percent, table, thousands};

/// List the checkpoints of a job
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
}

#[derive(Serialize)]
struct Answer {
    step: u64,
    /// The next step to apply, both from 0.
    next_epoch: u32,
    next_step: u32,
    created: String,
    bytes: u64,
    /// Validation top-1 (0..1).
    top1: Option<f64>,
    weights_sha256: String,
}

pub async fn run(args: Args, output: Output) -> anyhow::Result<()> {
    let job = args.place.open().await?;
    let answers: Vec<Answer> = (job.checkpoints().await?.into_iter())
        .map(|checkpoint| Answer {
            step: checkpoint.step,
            next_epoch: checkpoint.cursor.epoch,
            next_step: checkpoint.cursor.step,
            created: checkpoint.created,
            bytes: checkpoint.bytes,
            top1: checkpoint.metric,
            weights_sha256: checkpoint.weights_sha256,
        })
        .collect();
    if output.json {
        return answers
            .iter()
            .try_for_each(|answer| output.print(answer, String::new));
    }
    if answers.is_empty() {
        return output::line(&format!("job {} has no checkpoint yet", job.name()));
    }
    output::line(text(&answers).trim_end())
}

fn text(answers: &[Answer]) -> String {
    let head = ["step", "done", "created", "top-1", "size", "weights"];
    let mut rows = vec![head.map(String::from).to_vec()];
    rows.extend(answers.iter().map(|answer| {
        let epochs = counted(u64::from(answer.next_epoch), "epoch");
        let done = match answer.next_step {
            0 => epochs,
            steps => format!("{epochs} and {}", counted(u64::from(steps), "step")),
        };
        vec![
            thousands(answer.step),
            done,
            answer.created.clone(),
            answer.top1.map_or("-".to_string(), percent),
            bytes(answer.bytes),
            answer.weights_sha256.chars().take(12).collect(),
        ]
    }));
    table(&rows)
}
