//! `perennial worker`.

use std::time::Duration;

use perennial_worker::{ComputeDevice, Gate, WorkerOptions};

use crate::security::Tls;

/// Serve a coordinator with this machine: its job, or one job of its queue after the other
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The coordinator's address, https://HOST:PORT or http://; those of its standbys too, with commas between
    #[arg(long, value_name = "URL", value_delimiter = ',', required = true)]
    coordinator: Vec<String>,
    /// Slots computed side by side, each on one core; all cores where it is left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// The address of this machine at which the other workers reach it
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// Where it listens for sums and, after a `=`, where the others reach that
    #[arg(long, value_name = "HOST:PORT[=HOST:PORT]", value_parser = gate, hide = true)]
    collective: Option<Gate>,
    /// Where it listens for workers that copy its replica, likewise
    #[arg(long, value_name = "HOST:PORT[=HOST:PORT]", value_parser = gate, hide = true)]
    replica: Option<Gate>,
    /// How many seconds to go on without a coordinator
    #[arg(long, value_name = "SECONDS", default_value = "600")]
    patience: u64,
    /// How many seconds after a SIGTERM the job may take to let this worker go
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    grace: u64,
    #[command(flatten)]
    tls: Tls,
    /// Where to compute: cpu, or cuda:N for the N-th NVIDIA GPU
    #[arg(long, value_name = "cpu|cuda:N", default_value_t)]
    device: ComputeDevice,
}

fn gate(text: &str) -> Result<Gate, String> {
    let (listen, announce) = match text.split_once('=') {
        Some((listen, announce)) => (listen, Some(announce)),
        None => (text, None),
    };
    for address in [Some(listen), announce].into_iter().flatten() {
        let port = address
            .rsplit_once(':')
            .map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(_))) {
            return Err(format!("`{address}` is not HOST:PORT"));
        }
    }
    Ok(Gate {
        listen: Some(listen.to_string()),
        announce: announce.map(str::to_string),
    })
}

pub fn run(args: Args) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    perennial_worker::run(WorkerOptions {
        coordinators: args.coordinator,
        security: args.tls.security()?,
        device: args.device,
        threads: args.threads.map_or(cores, usize::from),
        host: args.host,
        collective: args.collective.unwrap_or_default(),
        replica: args.replica.unwrap_or_default(),
        patience: Duration::from_secs(args.patience),
        grace: Some(Duration::from_secs(args.grace)),
    })?;
    Ok(())
}
