//! `perennial data`.

mod pack;
mod split;
mod stats;
mod synth;

use clap::Subcommand;

use crate::output::Output;

#[derive(Debug, Subcommand)]
pub enum Command {
    Split(split::Args),
    Pack(pack::Args),
    Stats(stats::Args),
    Synth(synth::Args),
}

pub fn run(command: Command, output: Output) -> anyhow::Result<()> {
    match command {
        Command::Split(args) => split::run(args, output),
        Command::Pack(args) => pack::run(args, output),
        Command::Stats(args) => stats::run(args, output),
        Command::Synth(args) => synth::run(args, output),
    }
}
