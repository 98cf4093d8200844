//! `perennial demo`: everything at once on this machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use perennial_coordinator::JobEvent;
use perennial_data::synth::synth;
use perennial_worker::ComputeDevice;

use super::train;
use crate::events::Viewer;
use crate::job_file::JobFile;
use crate::output::{self, Output, percent};

const CLASSES: usize = 12;
const PER_CLASS: usize = 100;
const SIZE: u32 = 64;
const WORKERS: u32 = 2;
/// Runs that one folder takes.
const MOST_RUNS: u32 = 10_000;

/// The job file of the demo; `dir` is put in front.
const JOB: &str = r#"image_size = 48

[model]
name = "casvit_xs"

[train]
epochs = 20
batch_size = 32
slots = 4

[optimizer]
name = "adamw"
learning_rate = 2e-3

[schedule]
warmup_epochs = 1

[ema]
decay = 0.99
"#;

/// Show everything at once: draw pictures, train on them with two workers, write the report
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where each run gets a folder of its own
    #[arg(long, default_value = "perennial-demo")]
    dir: PathBuf,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<()> {
    let folder = new_run(&args.dir)?;
    let tour = Tour { output };
    tour.step(&format!(
        "Drawing {CLASSES} species of made-up seedlings, {PER_CLASS} pictures of each, into {}",
        folder.join("pictures").display()
    ))?;
    synth(&folder.join("pictures"), CLASSES, PER_CLASS, SIZE, 0)?;

    let job = folder.join("job.toml");
    write_job(&job, &folder.join("pictures"))?;
    let arguments = train::Args {
        store: folder.join("store").to_string_lossy().into_owned(),
        workers: Some(WORKERS),
        threads: Some(1),
        device: ComputeDevice::Cpu,
        resume: false,
        tensorboard: None,
        file: JobFile {
            job,
            ..JobFile::default()
        },
    };
    tour.step(&format!(
        "Training with a coordinator and {WORKERS} worker processes, as {} says",
        arguments.file.job.display()
    ))?;
    let viewer = Viewer::new(output);
    let mut last_epoch = None;
    let mut report = None;
    train::execute(&arguments, |event| {
        match event {
            JobEvent::Epoch { .. } => last_epoch = Some(event.clone()),
            JobEvent::Finished {
                report: location, ..
            } => report = Some(location.clone()),
            _ => {}
        }
        viewer.show(event);
    })?;
    drop(viewer);
    tour.end(last_epoch.as_ref(), report.as_deref(), &arguments)
}

/// Tells what happens, to people only.
struct Tour {
    output: Output,
}

// === impl Tour ===

impl Tour {
    fn step(&self, what: &str) -> anyhow::Result<()> {
        if self.output.json {
            return Ok(());
        }
        output::line(&format!("\n▸ {what}"))
    }

    fn end(
        &self,
        epoch: Option<&JobEvent>,
        report: Option<&str>,
        arguments: &train::Args,
    ) -> anyhow::Result<()> {
        if let Some(JobEvent::Epoch {
            val_top1,
            ema_top1,
            images_per_second,
            ..
        }) = epoch
        {
            let averaged = match ema_top1 {
                Some(top1) => format!(", {} with averaged weights", percent(*top1)),
                None => String::new(),
            };
            self.step(&format!(
                "Right on {} of the pictures it has never seen{averaged} (chance is {}), at {images_per_second:.0} images/s",
                percent(*val_top1),
                percent(1.0 / CLASSES as f64),
            ))?;
        }
        if let Some(report) = report {
            self.step(&format!("The report, for a browser: {report}"))?;
        }
        self.step(&format!(
            "Next, your own pictures, one folder a class: perennial train {} --data FOLDER --set name=mine",
            arguments.file.job.display()
        ))
    }
}

/// The first free `run-N` in `dir`. Earlier runs are left alone.
fn new_run(dir: &Path) -> anyhow::Result<PathBuf> {
    let cannot = |path: &Path| format!("cannot create `{}`", path.display());
    fs::create_dir_all(dir).with_context(|| cannot(dir))?;
    for number in 1..=MOST_RUNS {
        let run = dir.join(format!("run-{number}"));
        match fs::create_dir(&run) {
            Ok(()) => return Ok(run),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| cannot(&run)),
        }
    }
    bail!(
        "`{}` has {MOST_RUNS} runs: remove some, or name another folder with --dir",
        dir.display()
    );
}

fn write_job(path: &Path, pictures: &Path) -> anyhow::Result<()> {
    let pictures = std::path::absolute(pictures)?;
    let dir = toml::Value::String(pictures.to_string_lossy().into_owned());
    let text = format!("name = \"demo\"\n\n[data]\ndir = {dir}\n{JOB}");
    fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))
}
