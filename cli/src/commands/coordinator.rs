//! `perennial coordinator`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use perennial_coordinator::{Access, ServeConfig};
use perennial_secure::Tokens;
use perennial_store::Store;

use super::train::refuse_workers;
use crate::events::Viewer;
use crate::job::{DEFAULT_STORE, absolute_url, block_on};
use crate::job_file::JobFile;
use crate::output::Output;
use crate::run::run as run_job;
use crate::security::{self, Tls};
use crate::settings;
use crate::shell::{CommandLine, this_program};

/// Coordinate a job whose workers are started elsewhere
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    file: JobFile,
    /// Where workers connect
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7400")]
    listen: String,
    /// Where the job is kept, reachable for the workers: a folder or s3://bucket/prefix
    #[arg(long, value_name = "URL", default_value = DEFAULT_STORE)]
    store: String,
    /// How many workers to wait for; elastic.min_workers where it is left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    workers: Option<u32>,
    /// Go on from the newest checkpoint
    #[arg(long)]
    resume: bool,
    /// Rule only while no other coordinator of the job does
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
    let sources = args.file.sources();
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
    let access = args.access()?;
    let mut viewer = Viewer::new(output);
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
    fn command_line(&self, program: &str) -> CommandLine {
        let line = CommandLine::new(program, "coordinator")
            .word(self.file.job.to_string_lossy())
            .option("--listen", &self.listen)
            .option("--store", &self.store)
            .option_if_some("--advertise", self.advertise.as_deref())
            .option_if_some("--workers", self.workers)
            .option_if_some("--data", self.file.data.as_ref().map(|data| data.display()))
            .option_if_some("--on-bad-image", self.file.on_bad_image.as_deref())
            .option_if_some("--tokens", self.tokens.as_ref().map(|path| path.display()));
        let line = self.tls.told(line);
        self.file
            .set
            .iter()
            .fold(line, |line, set| line.option("--set", set))
    }
}
