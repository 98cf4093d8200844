//! The command line.

#[cfg(test)]
mod tests;

use clap::{Parser, Subcommand};

use crate::commands;

/// Trains image classifiers on machines that come and go; the weights come out the same
#[derive(Debug, Parser)]
#[command(name = "perennial", version, max_term_width = 100)]
#[command(propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// Print for programs: one JSON object a line
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Demo(commands::demo::Args),
    Train(commands::train::Args),
    Coordinator(commands::coordinator::Args),
    Worker(commands::worker::Args),
    Submit(commands::submit::Args),
    Status(commands::status::Args),
    Top(commands::top::Args),
    Logs(commands::logs::Args),
    Scale(commands::operate::ScaleArgs),
    Drain(commands::operate::DrainArgs),
    Stop(commands::operate::StopArgs),
    Resume(commands::operate::ResumeArgs),
    Priority(commands::operate::PriorityArgs),
    Report(commands::report::Args),
    Curves(commands::curves::Args),
    Audit(commands::audit::Args),
    Chaos(commands::chaos::Args),
    Evaluate(commands::evaluate::Args),
    Predict(commands::predict::Args),
    /// Time a part of the training on this machine
    #[command(subcommand)]
    Bench(commands::bench::Command),
    /// Split, pack, measure or draw a folder of pictures
    #[command(subcommand)]
    Data(commands::data::Command),
    /// List, verify or export the checkpoints of a job
    #[command(subcommand)]
    Checkpoint(commands::checkpoint::Command),
    /// Make certificates and tokens for several machines
    #[command(subcommand)]
    Certs(commands::certs::Command),
    Doctor(commands::doctor::Args),
    ExportOnnx(commands::export_onnx::Args),
    Completions(commands::completions::CompletionsArgs),
    Man(commands::completions::ManArgs),
}

// === impl Command ===

impl Command {
    /// Whether it wants the spans of a profile.
    pub fn is_profiled(&self) -> bool {
        matches!(self, Self::Bench(command) if command.is_profiled())
    }
}
