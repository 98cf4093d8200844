//! `perennial bench`.

use std::time::Duration;

use perennial_plan::Spec;
use perennial_worker::bench::StepBench;
use serde_json::json;

use crate::output::Output;

/// Times a part of the training on this machine
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Step(StepArgs),
}

/// The training step: forward, loss, backward, sum over slots, clipping, optimizer
///
/// On random pictures that lie in memory, as a worker does it. What a step takes is the median.
#[derive(Debug, clap::Args)]
pub struct StepArgs {
    #[arg(long, default_value = "casvit_xs", value_name = "NAME")]
    model: String,
    /// Height and width of the pictures
    #[arg(long, default_value_t = 64, value_name = "PIXELS")]
    image_size: u32,
    /// Pictures in a step
    #[arg(long, default_value_t = 64, value_name = "N")]
    batch: u32,
    /// Slots of the batch; the job file's default where it is left out
    #[arg(long, value_name = "N")]
    slots: Option<u32>,
    /// Steps that are timed, after three that are not
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Slots computed side by side; all cores where it is left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
    /// Logits alone, with the normalisations folded
    #[arg(long)]
    inference: bool,
}

/// Of the plant seedlings.
const CLASSES: usize = 12;

pub fn run(command: Command, output: Output) -> anyhow::Result<()> {
    match command {
        Command::Step(args) => step(&args, output),
    }
}

fn step(args: &StepArgs, output: Output) -> anyhow::Result<()> {
    let mut spec = Spec::default();
    spec.data.dir = "none".into();
    spec.data.image_size = args.image_size;
    spec.model.name.clone_from(&args.model);
    spec.train.batch_size = args.batch;
    spec.train.slots = args.slots.unwrap_or(spec.train.slots);
    spec.ema.decay = 0.0;
    spec.validate()?;
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.map_or_else(cores, |threads| threads as usize);
    let bench = StepBench {
        spec,
        classes: CLASSES,
        threads,
        steps: args.steps as usize,
        inference: args.inference,
    };
    let mut times = bench.run()?;
    times.sort();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let median = times[times.len() / 2];
    let rate = f64::from(args.batch) / median.as_secs_f64();
    let peak = peak_rss_mb();
    let (least, most) = (times[0], times[times.len() - 1]);
    let record = json!({
        "event": "bench",
        "what": if args.inference { "inference" } else { "training" },
        "model": args.model,
        "image_size": args.image_size,
        "batch": args.batch,
        "slots": bench.spec.train.slots,
        "threads": threads,
        "steps": args.steps,
        "images_per_second": rate,
        "step_ms": milliseconds(median),
        "step_ms_min": milliseconds(least),
        "step_ms_max": milliseconds(most),
        "peak_rss_mb": peak,
    });
    output.print(&record, || {
        let (median, least, most) = (
            milliseconds(median),
            milliseconds(least),
            milliseconds(most),
        );
        let memory = peak.map_or(String::new(), |peak| format!(", {peak:.0} MB at most"));
        format!("{rate:.1} images/s, {median:.1} ms a step ({least:.1} to {most:.1}){memory}")
    })
}

/// The most memory that this process ever held, in millions of bytes, where the system tells.
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024.0 / 1e6)
}
