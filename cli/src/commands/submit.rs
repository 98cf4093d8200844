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
use crate::settings::{self, SettingsError, Sources};
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
    check(&spec, args.workers)?;
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

/// The job of a file that lies elsewhere and says all that there is to say: no variable of this process counts.
pub fn read_job(name: &str, text: &str) -> Result<Spec, String> {
    let read = || -> anyhow::Result<Spec> {
        let sources = Sources {
            file: Some(Path::new(name)),
            text: Some(text),
            ..Sources::default()
        };
        let dir = sources.load()?.data.dir;
        if !dir.is_empty() && !dir.contains("://") && !Path::new(&dir).is_absolute() {
            // Nobody knows beside which file it lies.
            let error = SpecError {
                key: "data.dir",
                value: format!("\"{dir}\""),
                expected: "an absolute path where the workers run, or s3://bucket/prefix",
            };
            return Err(SettingsError::from(error).into());
        }
        let spec = sources.resolve()?;
        check(&spec, None)?;
        Ok(spec)
    };
    read().map_err(|error| format!("{error:#}"))
}

fn check(spec: &Spec, workers: Option<u32>) -> anyhow::Result<()> {
    if spec.data.dir.is_empty() {
        let error = SpecError {
            key: "data.dir",
            value: "\"\"".into(),
            expected: "the folder of pictures where the workers run; or use `--data DIR`",
        };
        return Err(SettingsError::from(error).into());
    }
    if let Some(workers) = workers {
        super::train::refuse_workers(spec, workers)?;
    }
    // What is wrong with pictures and weights that are here as well is better told now; else the workers tell it.
    if Path::new(&spec.data.dir).is_dir() {
        let data = DataSet::open(&spec.data)?;
        let weights = spec.model.weights.as_ref();
        if weights.is_some_and(|path| Path::new(path).is_file()) {
            perennial_worker::refuse_weights(spec, data.classes.len())?;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_file_from_elsewhere_is_held_to_all_that_holds_for_one_on_this_machine() {
        let spec = read_job(
            "pasted.toml",
            "name = \"tulips\"\n[data]\ndir = \"s3://b/tulips\"\n",
        );
        assert_eq!(spec.unwrap().name, "tulips");
        for (text, why) in [
            ("name = ", "job file `pasted.toml` is not TOML: line 1"),
            ("[train]\nepoch = 3\n", "unknown key `train.epoch`"),
            ("[train]\nepochs = \"x\"\n", "`train.epochs`"),
            ("name = \"a\"\n", "data.dir"),
            (
                "[data]\ndir = \"tulips\"\n",
                "an absolute path where the workers run",
            ),
            (
                "[data]\ndir = \"/tulips\"\n[train]\nbatch_size = 0\n",
                "train.batch_size",
            ),
        ] {
            let refused = read_job("pasted.toml", text).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
