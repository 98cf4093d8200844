//! `perennial evaluate`.

mod job;
mod show;
mod subject;

use perennial_plan::Spec;
use perennial_plan::spec::{CheckpointSpec, EvaluateSpec, EvaluatedPictures, TrainSpec};
use perennial_store::tensors::sha256;

use super::checkpoint::best::Metric;
use super::weights::{UnsaidArgs, all_cores};
use crate::job::At;
use crate::output::Output;
use crate::settings;
use show::Shown;
use subject::Subject;

/// Pictures that the network sees at once, at most.
const PORTION: u32 = 64;
/// Steps between the checkpoints of an evaluation: what they found so far.
const CHECKPOINT_STEPS: u64 = 16;

/// Measure weights on a folder of pictures or a pack
///
/// Of a weights file, or of a job's checkpoint, which is also how a job is measured while it runs: then both the weights
/// and their average, and without --data the pictures that the job holds out. With --workers or --submit the
/// evaluation is a job of its own, whose pictures are dealt to workers that may come and go; the result is the same.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A .safetensors file (of `checkpoint export`, it says everything of itself) or a .pth file; or a job's name
    #[arg(long, value_name = "FILE|JOB")]
    weights: String,
    #[command(flatten)]
    unsaid: UnsaidArgs,
    /// The job's checkpoint of this step instead of the newest
    #[arg(long, conflicts_with = "best")]
    step: Option<u64>,
    /// The job's best checkpoint, by top-1 (of the average where there is one) where no METRIC is named
    #[arg(long, value_name = "METRIC", num_args = 0..=1, require_equals = true, default_missing_value = "top1")]
    best: Option<Metric>,
    /// One folder a class, or a pack: a folder or s3://bucket/prefix; those that validate where it is split
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Slots computed side by side in each process; all cores, divided by the workers, where it is left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Share the pictures out to this many worker processes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "submit")]
    workers: Option<u32>,
    /// Put the evaluation into the queue of a coordinator; `perennial report NAME` shows what came out
    #[arg(long)]
    submit: bool,
    /// In the queue, higher ones come first
    #[arg(
        long,
        value_name = "N",
        default_value = "0",
        allow_negative_numbers = true,
        requires = "submit"
    )]
    priority: i32,
    /// The evaluation's name in the store; made of what is measured on what where it is left out
    #[arg(long)]
    name: Option<String>,
    /// Shares of a step: more workers than these are of no use
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u32).range(1..=1024))]
    slots: u32,
    /// Pictures in a step, after which workers may come and go; 64 a slot where it is left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    #[command(flatten)]
    at: At,
}

pub fn run(args: &Args, output: Output) -> anyhow::Result<()> {
    let subject = Subject::read(args)?;
    let spec = args.spec(&subject)?;
    if args.submit {
        return job::submit(args, &spec, &subject, output);
    }
    let shown = match args.workers {
        Some(workers) => job::run(args, &spec, &subject, workers, output)?,
        None => in_this_process(args, &spec, &subject)?,
    };
    shown.print(output)
}

fn in_this_process(args: &Args, spec: &Spec, subject: &Subject) -> anyhow::Result<Shown> {
    let threads = args.threads.map_or_else(all_cores, usize::from);
    let evaluate = spec.evaluate.clone().unwrap_or_default();
    let mut measured = Vec::new();
    for classifier in &subject.classifiers {
        measured.push(classifier.evaluate(&evaluate, spec, threads)?);
    }
    let ema = (measured.len() > 1).then(|| measured.remove(1));
    Ok(Shown::new(None, evaluate, measured.remove(0), ema))
}

// === impl Args ===

impl Args {
    /// The evaluation as a job.
    fn spec(&self, subject: &Subject) -> anyhow::Result<Spec> {
        let card = &subject.classifiers[0].card;
        let most = self.slots * PORTION;
        let batch = self.batch.unwrap_or(most);
        if batch > most {
            anyhow::bail!(
                "a batch of {batch} pictures is too large for {} slots: at most {PORTION} go into one",
                self.slots
            );
        }
        let hash = |index: usize| subject.classifiers.get(index).map(|it| it.weights_sha256());
        let mut data = card.data_spec();
        let pictures = match (&self.data, &subject.data) {
            (Some(dir), _) => {
                data.dir = settings::absolute(dir);
                EvaluatedPictures::All
            }
            (None, Some(own)) => {
                data = own.clone();
                EvaluatedPictures::Validation
            }
            (None, None) => {
                anyhow::bail!("a weights file says nothing of pictures: name them with --data")
            }
        };
        // Each picture is looked at once.
        data.cache_mib = 0;
        let evaluate = EvaluateSpec {
            of: subject.of.clone(),
            weights_sha256: hash(0).unwrap_or_default(),
            ema_sha256: hash(1),
            classes: card.classes.clone(),
            pictures,
        };
        let mut spec = Spec {
            data,
            model: card.model_spec(),
            train: TrainSpec {
                epochs: 1,
                slots: self.slots,
                batch_size: batch,
                ..TrainSpec::default()
            },
            checkpoint: CheckpointSpec {
                every_steps: CHECKPOINT_STEPS,
                keep_last: 1,
                keep_best: 0,
                ..CheckpointSpec::default()
            },
            evaluate: Some(evaluate),
            ..Spec::default()
        };
        spec.name = match &self.name {
            Some(name) => name.clone(),
            None => name_of(&spec),
        };
        spec.validate()?;
        Ok(spec)
    }
}

/// A name for an evaluation of these weights on these pictures: asked for again, it is the one that is there.
fn name_of(spec: &Spec) -> String {
    let digest = sha256(format!("{}{}", spec.identity_hash(), spec.data.dir).as_bytes());
    format!("evaluation-{}", &digest[..12])
}
