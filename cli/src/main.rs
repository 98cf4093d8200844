//! `perennial`, the one binary. Each command is a file in [`commands`]; what they share stands beside
//! it: [`settings`] resolves job files, [`events`] shows a run, [`fleet`] keeps worker processes,
//! [`exit`] ends the program.

mod args;
mod commands;
mod events;
mod exit;
mod file;
mod fleet;
mod job;
mod job_file;
mod output;
mod run;
mod settings;
mod shell;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use args::{Cli, Command};
use output::Output;

/// Activations are allocated and freed at every operation: the system allocator would fault in every page
/// of them anew.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is logged to stderr: `debug`, or `info,perennial_coordinator=trace`; without it, warnings.
const LOG_VARIABLE: &str = "PERENNIAL_LOG";

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(cli.command.is_profiled());
    exit::conclude(dispatch(cli))
}

fn dispatch(cli: Cli) -> anyhow::Result<()> {
    let output = Output { json: cli.json };
    match cli.command {
        Command::Demo(args) => commands::demo::run(args, output),
        Command::Train(args) => commands::train::run(args, output),
        Command::Coordinator(args) => commands::coordinator::run(args, output),
        Command::Worker(args) => commands::worker::run(args),
        Command::Submit(args) => commands::submit::run(&args, output),
        Command::Status(args) => commands::status::run(&args, output),
        Command::Top(args) => commands::top::run(&args, output),
        Command::Logs(args) => commands::logs::run(&args, output),
        Command::Scale(args) => commands::operate::scale(&args, output),
        Command::Drain(args) => commands::operate::drain(&args, output),
        Command::Stop(args) => commands::operate::stop(&args, output),
        Command::Resume(args) => commands::operate::resume(args, output),
        Command::Priority(args) => commands::operate::priority(&args, output),
        Command::Evaluate(args) => commands::evaluate::run(args, output),
        Command::Predict(args) => commands::predict::run(args, output),
        Command::Chaos(args) => commands::chaos::run(args, output),
        Command::Report(args) => commands::report::run(args, output),
        Command::Audit(args) => commands::audit::run(&args, output),
        Command::Bench(command) => commands::bench::run(command, output),
        Command::Data(command) => commands::data::run(command, output),
        Command::Checkpoint(command) => commands::checkpoint::run(command, output),
        Command::Completions(args) => commands::completions::completions(&args),
        Command::Man(args) => commands::completions::man(&args),
    }
}

/// `profiled`: the spans of the profile are recorded, too.
fn start_logging(profiled: bool) {
    let wished = std::env::var(LOG_VARIABLE).ok();
    let filter = wished
        .and_then(|targets| targets.parse().ok())
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::WARN));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(profiled.then(commands::bench::recorder))
        .init();
}
