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
mod log;
mod names;
#[cfg(feature = "otlp")]
mod otlp;
mod output;
mod reference;
mod run;
mod security;
mod settings;
mod shell;
mod tensorboard;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use commands::completions;
use output::Output;

/// Activations are allocated and freed at every operation: the system allocator would fault in every page
/// of them anew.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    completions::complete();
    let cli = Cli::try_parse().unwrap_or_else(|error| exit::refuse(&error));
    let logging = log::start(cli.command.is_profiled());
    let status = exit::conclude(logging.map_err(Into::into).and_then(|()| dispatch(cli)));
    log::finish();
    status
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
        Command::Evaluate(args) => commands::evaluate::run(&args, output),
        Command::Predict(args) => commands::predict::run(args, output),
        Command::Chaos(args) => commands::chaos::run(args, output),
        Command::Report(args) => commands::report::run(args, output),
        Command::Curves(args) => commands::curves::run(&args, output),
        Command::Audit(args) => commands::audit::run(&args, output),
        Command::Bench(command) => commands::bench::run(command, output),
        Command::Data(command) => commands::data::run(command, output),
        Command::Certs(command) => commands::certs::run(command, output),
        Command::Checkpoint(command) => commands::checkpoint::run(command, output),
        Command::Doctor(args) => commands::doctor::run(&args, output),
        Command::ExportOnnx(args) => commands::export_onnx::run(&args, output),
        Command::Completions(args) => completions::completions(&args),
        Command::Man(args) => completions::man(&args),
    }
}
