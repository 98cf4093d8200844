//! `perennial coordinator`.

use std::path::PathBuf;

use perennial_coordinator::ServeConfig;
use perennial_store::Store;

use super::train::refuse_workers;
use crate::events::Viewer;
use crate::job::{DEFAULT_STORE, absolute_url, block_on};
use crate::output::Output;
use crate::run::run as run_job;
use crate::settings::{self, Sources};
use crate::shell::{CommandLine, this_program};

/// Coordinate a job whose workers are started elsewhere
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job file
    #[arg(value_name = "JOB.toml")]
    job: PathBuf,
    /// Where workers connect
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7400")]
    listen: String,
    /// Where the job is kept, reachable for the workers: a folder or s3://bucket/prefix
    #[arg(long, value_name = "URL", default_value = DEFAULT_STORE)]
    store: String,
    /// How many workers to wait for; elastic.min_workers where it is left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    workers: Option<u32>,
    /// The folder of pictures on the workers' machines, in place of data.dir
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Whether a picture that cannot be decoded ends the run or is left out and counted, in place of
    /// data.on_bad_image
    #[arg(long, value_name = "WHAT", value_parser = ["fail", "skip"])]
    on_bad_image: Option<String>,
    /// Set a key of the job file; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Go on from the newest checkpoint
    #[arg(long)]
    resume: bool,
    /// Rule only while no other coordinator of the job does
    #[arg(long)]
    standby: bool,
    /// Where workers and standbys reach this coordinator; where it listens, if left out
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<()> {
    let sources = Sources {
        assignments: &args.set,
        data: args.data.as_deref(),
        on_bad_image: args.on_bad_image.as_deref(),
        ..Sources::of_file(&args.job)
    };
    let spec = sources.resolve()?;
    let workers = args.workers.unwrap_or(spec.elastic.min_workers);
    refuse_workers(&spec, workers)?;
    let line = |program: &str| {
        args.command_line(program)
            .with_environment(&settings::variables(&sources.environment))
    };
    let store_url = absolute_url(&args.store)?;
    let command = line("perennial").into_string();
    let resume_command = line(&this_program()).word("--resume").into_string();
    let mut viewer = Viewer::new(output);
    block_on(async move {
        let store = Store::open(&store_url)?;
        store.check_write().await?;
        let config = ServeConfig {
            listen: args.listen,
            spec,
            workers,
            store,
            store_url,
            resume: args.resume,
            standby: args.standby,
            advertise: args.advertise,
            resume_command,
            command: Some(command),
        };
        run_job(config, None, |event| viewer.show(event)).await
    })
}

// === impl Args ===

impl Args {
    /// The command that coordinates so, without `--resume`.
    fn command_line(&self, program: &str) -> CommandLine {
        let line = CommandLine::new(program, "coordinator")
            .word(self.job.to_string_lossy())
            .option("--listen", &self.listen)
            .option("--store", &self.store)
            .option_if_some("--advertise", self.advertise.as_deref())
            .option_if_some("--workers", self.workers)
            .option_if_some("--data", self.data.as_ref().map(|data| data.display()))
            .option_if_some("--on-bad-image", self.on_bad_image.as_deref());
        self.set
            .iter()
            .fold(line, |line, set| line.option("--set", set))
    }
}
