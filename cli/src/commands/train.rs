//! `perennial train`.

use std::path::PathBuf;

use anyhow::bail;
use perennial_coordinator::{Access, ServeConfig};
use perennial_data::DataSet;
use perennial_plan::Spec;
use perennial_store::Store;
use perennial_worker::ComputeDevice;

use crate::events::Viewer;
use crate::job::{DEFAULT_STORE, absolute_url, block_on};
use crate::job_file::JobFile;
use crate::output::Output;
use crate::run::{LocalWorkers, run as run_job};
use crate::settings;
use crate::shell::{CommandLine, this_program};
use crate::tensorboard::Recorder;

/// Train a job on this machine: a coordinator and worker processes
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub file: JobFile,
    /// Where the job is kept: a folder or s3://bucket/prefix (endpoint and keys from AWS_*)
    #[arg(long, value_name = "URL", default_value = DEFAULT_STORE)]
    pub store: String,
    /// Worker processes; elastic.min_workers where it is left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: Option<u32>,
    /// Threads of each worker; the cores divided by the workers where it is left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Where the workers compute: cpu, or cuda:N for the N-th NVIDIA GPU
    #[arg(long, value_name = "cpu|cuda:N", default_value_t)]
    pub device: ComputeDevice,
    /// Go on from the newest checkpoint
    #[arg(long)]
    pub resume: bool,
    /// Also write losses, accuracies and the like to a new event file of TensorBoard in DIR/JOB
    #[arg(long, value_name = "DIR")]
    pub tensorboard: Option<PathBuf>,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<()> {
    let viewer = Viewer::new(output);
    let mut recorder = Recorder::new(args.tensorboard.clone());
    execute(&args, |event| {
        recorder.record(event);
        viewer.show(event);
    })
}

/// Trains as `args` say and tells `show` what happens.
pub fn execute(
    args: &Args,
    show: impl FnMut(&perennial_coordinator::JobEvent),
) -> anyhow::Result<()> {
    let sources = args.file.sources();
    let spec = sources.resolve()?;
    let workers = args.workers.unwrap_or(spec.elastic.min_workers);
    refuse_workers(&spec, workers)?;
    perennial_worker::refuse_reduction(&spec, args.device)?;
    // What is wrong with pictures or weights is better told before anything is written.
    let data = DataSet::open(&spec.data)?;
    if !args.resume {
        perennial_worker::refuse_weights(&spec, data.classes.len())?;
    }
    args.device.open()?;

    let line = |program: &str| {
        args.command_line(program)
            .with_environment(&settings::variables(&sources.environment))
    };
    let store_url = absolute_url(&args.store)?;
    let local = LocalWorkers {
        count: workers,
        threads: args
            .threads
            .map_or_else(|| share_of_cores(workers), usize::from),
        device: args.device,
    };
    let command = line("perennial").into_string();
    let resume_command = line(&this_program()).word("--resume").into_string();
    block_on(async move {
        let store = Store::open(&store_url)?;
        store.check_write().await?;
        let config = ServeConfig {
            listen: "127.0.0.1:0".to_string(),
            spec,
            workers,
            store,
            store_url,
            resume: args.resume,
            standby: false,
            advertise: None,
            access: Access::default(),
            resume_command,
            command: Some(command),
        };
        run_job(config, Some(local), show).await
    })
}

/// Refuses a number of workers that the job does not allow.
pub fn refuse_workers(spec: &Spec, workers: u32) -> anyhow::Result<()> {
    let elastic = &spec.elastic;
    if workers < elastic.min_workers {
        bail!(
            "{workers} workers are fewer than `elastic.min_workers`, which is {}",
            elastic.min_workers
        );
    }
    match elastic.max_workers {
        Some(max) if workers > max => {
            bail!("{workers} workers are more than `elastic.max_workers`, which is {max}")
        }
        _ => Ok(()),
    }
}

/// Threads of each of so many workers on this machine.
pub fn share_of_cores(workers: u32) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / workers as usize).max(1)
}

// === impl Args ===

impl Args {
    /// The command that trains so, without `--resume`.
    fn command_line(&self, program: &str) -> CommandLine {
        let mut line = CommandLine::new(program, "train").word(self.file.job.to_string_lossy());
        if self.store != DEFAULT_STORE {
            line = line.option("--store", &self.store);
        }
        if self.device != ComputeDevice::default() {
            line = line.option("--device", self.device);
        }
        let line = self.file.over.spell(line);
        line.option_if_some("--workers", self.workers)
            .option_if_some("--threads", self.threads)
            .option_if_some(
                "--tensorboard",
                self.tensorboard.as_ref().map(|dir| dir.display()),
            )
    }
}
