//! `perennial data`.

mod split;
mod stats;
mod synth;

use clap::Subcommand;

use crate::output::Output;

#[derive(Debug, Subcommand)]
pub enum Command {
    Split(split::Args),
    Stats(stats::Args),
    Synth(synth::Args),
}

pub fn run(command: Command, output: Output) -> anyhow::Result<()> {
    match command {
        Command::Split(args) => split::run(args, output),
        Command::Stats(args) => stats::run(args, output),
        Command::Synth(args) => synth::run(args, output),
    }
}
