//! `perennial worker`.

use std::time::Duration;

use perennial_worker::WorkerOptions;

/// Serve a coordinator's job with this machine
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The coordinator's address; those of its standbys too, with commas between
    #[arg(
        long,
        value_name = "http://HOST:PORT",
        value_delimiter = ',',
        required = true
    )]
    coordinator: Vec<String>,
    /// Slots computed side by side, each on one core; all cores where it is left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// The address of this machine at which the other workers reach it
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// How many seconds to go on without a coordinator
    #[arg(long, value_name = "SECONDS", default_value = "600")]
    patience: u64,
    /// How many seconds after a SIGTERM the job may take to let this worker go
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    grace: u64,
    /// Where to compute
    #[arg(long, value_parser = ["cpu"], default_value = "cpu")]
    device: String,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    perennial_worker::run(WorkerOptions {
        coordinators: args.coordinator,
        threads: args.threads.map_or(cores, usize::from),
        host: args.host,
        patience: Duration::from_secs(args.patience),
        grace: Some(Duration::from_secs(args.grace)),
    })?;
    Ok(())
}
