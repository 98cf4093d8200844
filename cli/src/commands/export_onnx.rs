//! `perennial export-onnx`.

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap::error::ErrorKind;
use perennial_model::onnx::Input;
use perennial_worker::inference::Classifier;
use serde::Serialize;

use super::checkpoint::best::Metric;
use super::checkpoint::export;
use super::weights::UnsaidArgs;
use crate::args::Cli;
use crate::file::{refuse_existing, write_new};
use crate::job::{DEFAULT_STORE, block_on, open};
use crate::output::{Output, bytes, counted};

/// Write a network and its weights as an ONNX model, which other programs can run
///
/// Of a weights file, or of a checkpoint of a job: `export-onnx --weights FILE OUT`, `export-onnx JOB OUT --best`.
/// Its input `images` is [batch, 3, height, width], its output `logits` [batch, classes]; classes, size
/// and normalisation stand in its metadata.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job's name or its job file, unless there is --weights; and a new file
    #[arg(required = true, num_args = 1..=2, value_names = ["JOB", "OUT.onnx"])]
    job_and_out: Vec<PathBuf>,
    /// A .safetensors or .pth file instead of a job's checkpoint
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    #[command(flatten)]
    unsaid: UnsaidArgs,
    /// The folder or s3://bucket/prefix where the job is kept
    #[arg(long, value_name = "URL", default_value = DEFAULT_STORE)]
    store: String,
    /// The checkpoint of this step instead of the newest
    #[arg(long, conflicts_with_all = ["best", "weights"])]
    step: Option<u64>,
    /// The best checkpoint, by top-1 (of the average where there is one) where no METRIC is named
    #[arg(long, value_name = "METRIC", num_args = 0..=1, require_equals = true, default_missing_value = "top1", conflicts_with = "weights")]
    best: Option<Metric>,
    /// Pictures in a batch; any number where it is left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// Let the model take bytes of 0..255 (uint8) and normalise them itself
    ///
    /// Without it, it takes floats: (value / 255 - mean) / std of each channel.
    #[arg(long)]
    normalise: bool,
}

#[derive(Serialize)]
struct Answer {
    path: PathBuf,
    bytes: u64,
    model: String,
    classes: u64,
    image_size: u32,
    /// None: any.
    batch: Option<u32>,
    normalise: bool,
    /// Of the checkpoint, where it is one's.
    step: Option<u64>,
    weights_sha256: String,
}

/// Where weights come from.
enum Source<'a> {
    File(&'a Path),
    Job(&'a Path),
}

pub fn run(args: &Args, output: Output) -> anyhow::Result<()> {
    let (source, out) = args.source();
    refuse_existing(out)?;
    let (classifier, step) = args.load(source)?;
    let model = classifier.to_onnx(Input {
        batch: args.batch,
        normalise: args.normalise,
    });
    write_new(out, &model)?;
    let card = &classifier.card;
    let answer = Answer {
        path: out.clone(),
        bytes: model.len() as u64,
        model: card.model.clone(),
        classes: card.classes.len() as u64,
        image_size: card.image_size,
        batch: args.batch,
        normalise: args.normalise,
        step,
        weights_sha256: classifier.weights_sha256(),
    };
    output.print(&answer, || {
        format!(
            "{}: {} for {} at {} pixels, takes {} in batches of {}, {}, hash {}",
            answer.path.display(),
            answer.model,
            counted(answer.classes, "class"),
            answer.image_size,
            match answer.normalise {
                true => "bytes",
                false => "normalised floats",
            },
            answer.batch.map_or("any size".into(), |it| it.to_string()),
            bytes(answer.bytes),
            answer.weights_sha256
        )
    })
}

// === impl Args ===

impl Args {
    /// Where the weights are, and the file to write. Ends the program where that is not what was given.
    fn source(&self) -> (Source<'_>, &PathBuf) {
        match (self.job_and_out.as_slice(), &self.weights) {
            ([out], Some(weights)) => (Source::File(weights), out),
            ([job, out], None) => (Source::Job(job), out),
            _ => {
                let message = "name a job and a new file, or with --weights a new file alone";
                let mut command = Cli::command();
                command
                    .error(ErrorKind::WrongNumberOfValues, message)
                    .exit()
            }
        }
    }

    /// The network with its weights, and the step of the checkpoint that they are from.
    fn load(&self, source: Source) -> anyhow::Result<(Classifier, Option<u64>)> {
        let job = match source {
            Source::File(weights) => return Ok((self.unsaid.load(weights)?, None)),
            Source::Job(job) => job,
        };
        let exported = block_on(async {
            let job = open(&self.store, &job.to_string_lossy()).await?;
            export::read(&job, self.step, self.best, self.unsaid.ema()).await
        })?;
        Ok((
            self.unsaid.load_content(&exported.content)?,
            Some(exported.step),
        ))
    }
}
