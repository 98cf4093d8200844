//! `perennial data synth`.

use std::path::PathBuf;

use perennial_data::synth::synth;
use serde::Serialize;

use crate::output::{Output, counted};

/// Draw pictures of made-up seedlings to try things on
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A new or an empty folder
    dir: PathBuf,
    /// How many species
    #[arg(long, default_value_t = 12)]
    classes: usize,
    /// Pictures of each species
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    per_class: u32,
    /// Width and height in pixels
    #[arg(long, default_value_t = 96)]
    size: u32,
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Serialize)]
struct Answer {
    dir: PathBuf,
    pictures: usize,
    classes: Vec<String>,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<()> {
    let classes = synth(
        &args.dir,
        args.classes,
        args.per_class as usize,
        args.size,
        args.seed,
    )?;
    let answer = Answer {
        pictures: classes.len() * args.per_class as usize,
        classes,
        dir: args.dir,
    };
    output.print(&answer, || {
        format!(
            "{} of {} in {}",
            counted(answer.pictures as u64, "picture"),
            counted(answer.classes.len() as u64, "class"),
            answer.dir.display()
        )
    })
}
