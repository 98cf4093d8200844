//! `perennial coordinator`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::bail;
use perennial_coordinator::{Access, QueueConfig, ServeConfig};
use perennial_secure::Tokens;
use perennial_store::Store;

use super::train::refuse_workers;
use crate::events::Viewer;
use crate::job::{DEFAULT_STORE, absolute_url, block_on};
use crate::job_file::Overrides;
use crate::output::Output;
use crate::run::{run as run_job, run_queue};
use crate::security::{self, Tls};
use crate::settings;
use crate::shell::{CommandLine, this_program};

/// Coordinate jobs whose workers are started elsewhere: a queue of them, or the one of a job file
///
/// Without a job file it serves the queue of its store, into which `submit` puts jobs, over all workers that
/// come. Ended by ctrl-c or SIGTERM it leaves all jobs as they are; the next one, or a standby, goes on with
/// them.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job file; without one a queue is served
    #[arg(value_name = "JOB.toml")]
    job: Option<PathBuf>,
    #[command(flatten)]
    over: Overrides,
    /// Where workers connect
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7400")]
    listen: String,
    /// Where jobs are kept, reachable for the workers: a folder or s3://bucket/prefix
    #[arg(long, value_name = "URL", default_value = DEFAULT_STORE)]
    store: String,
    /// How many workers to wait for; elastic.min_workers where it is left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), requires = "job")]
    workers: Option<u32>,
    /// Go on from the newest checkpoint; a queue always does
    #[arg(long)]
    resume: bool,
    /// Rule only while no other coordinator of the job or the queue does
    #[arg(long)]
    standby: bool,
    /// Where workers and standbys reach this coordinator; where it listens, if left out
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    #[command(flatten)]
    tls: Tls,
    /// The tokens that are taken from people, as `perennial certs token` writes them
    /// [env: PERENNIAL_TOKENS]
    #[arg(long, value_name = "FILE", help_heading = "Security")]
    tokens: Option<PathBuf>,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<()> {
    match args.job.clone() {
        Some(job) => one_job(&job, args, output),
        None => queue(args, output),
    }
}

fn one_job(job: &Path, args: Args, output: Output) -> anyhow::Result<()> {
    let sources = args.over.sources(job);
    let spec = sources.resolve()?;
    let workers = args.workers.unwrap_or(spec.elastic.min_workers);
    refuse_workers(&spec, workers)?;
    let line = |program: &str| {
        args.command_line(program, job)
            .with_environment(&settings::variables(&sources.environment))
    };
    let store_url = absolute_url(&args.store)?;
    let command = line("perennial").into_string();
    let resume_command = line(&this_program()).word("--resume").into_string();
    let access = args.access()?;
    let viewer = Viewer::new(output);
    block_on(async move {
        let store = Store::open(&store_url)?;
        store.check_write().await?;
        let config = ServeConfig {
            listen: args.listen,
            access,
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

fn queue(args: Args, output: Output) -> anyhow::Result<()> {
    let over = &args.over;
    if over.data.is_some() || over.on_bad_image.is_some() || !over.set.is_empty() {
        bail!(
            "a queue has no job file: give `--data`, `--on-bad-image` and `--set` to `perennial submit`"
        );
    }
    let store_url = absolute_url(&args.store)?;
    let access = args.access()?;
    block_on(async move {
        let store = Store::open(&store_url)?;
        store.check_write().await?;
        let config = QueueConfig {
            listen: args.listen,
            advertise: args.advertise,
            access,
            store,
            store_url,
            standby: args.standby,
            read_job: super::submit::read_job,
        };
        run_queue(config, output).await
    })
}

// === impl Args ===

impl Args {
    fn access(&self) -> anyhow::Result<Access> {
        let security = self.tls.security()?;
        let tokens = self
            .tokens
            .clone()
            .or_else(|| security::path(security::TOKENS));
        if tokens.is_some() && security.credentials().is_none() {
            bail!(
                "tokens would be readable for everybody; give --tls-ca, --tls-cert and --tls-key"
            );
        }
        let tokens = tokens.map(|path| Tokens::open(&path)).transpose()?;
        Ok(Access {
            security,
            tokens: tokens.map(Arc::new),
        })
    }

    /// The command that coordinates so, without `--resume`.
    fn command_line(&self, program: &str, job: &Path) -> CommandLine {
        let line = CommandLine::new(program, "coordinator")
            .word(job.to_string_lossy())
            .option("--listen", &self.listen)
            .option("--store", &self.store)
            .option_if_some("--advertise", self.advertise.as_deref())
            .option_if_some("--workers", self.workers)
            .option_if_some("--tokens", self.tokens.as_ref().map(|path| path.display()));
        self.over.spell(self.tls.told(line))
    }
}
