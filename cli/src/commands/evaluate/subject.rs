//! What is measured: the weights of a file, or those of a job's checkpoint and their average.

use std::path::Path;

use anyhow::bail;
use perennial_plan::spec::DataSpec;
use perennial_worker::inference::Classifier;

use super::Args;
use crate::commands::checkpoint::export;
use crate::job::block_on;

/// Weights, and what is known of them.
pub struct Subject {
    /// Where they are from, in words.
    pub of: String,
    /// With the weights, and with their average where that is there as well.
    pub classifiers: Vec<Classifier>,
    /// The pictures of the job that they are from.
    pub data: Option<DataSpec>,
}

// === impl Subject ===

impl Subject {
    pub fn read(args: &Args) -> anyhow::Result<Self> {
        let path = Path::new(&args.weights);
        let known = ["safetensors", "pth", "pt", "tar", "bin"];
        let named = path.extension().and_then(|extension| extension.to_str());
        if path.is_file() || named.is_some_and(|extension| known.contains(&extension)) {
            if args.step.is_some() || args.best.is_some() {
                bail!(
                    "`{}` is a file: --step and --best are about a job's checkpoints",
                    args.weights
                );
            }
            return Ok(Self {
                of: args.weights.clone(),
                classifiers: vec![args.unsaid.load(path)?],
                data: None,
            });
        }
        let (step, contents, spec) = block_on(async {
            let job = args.at.open(&args.weights).await?;
            let spec = job.spec().await?.unwrap_or_default();
            if spec.evaluate.is_some() {
                bail!(
                    "job `{}` is an evaluation and has no weights of its own",
                    job.name()
                );
            }
            let step = export::step_of(&job, args.step, args.best).await?;
            let manifest = job.load_manifest(step).await?;
            let mut contents = Vec::new();
            // Asked for by --ema, only the average is measured.
            if !args.unsaid.ema() {
                contents.push(export::read_step(&job, step, false).await?.content);
            }
            if manifest.ema_sha256.is_some() || contents.is_empty() {
                contents.push(export::read_step(&job, step, true).await?.content);
            }
            Ok((step, contents, spec))
        })?;
        let classifiers = contents
            .iter()
            .map(|content| args.unsaid.load_content(content));
        Ok(Self {
            of: format!("job {}, step {step}", spec.name),
            classifiers: classifiers.collect::<anyhow::Result<_>>()?,
            data: Some(spec.data),
        })
    }
}
