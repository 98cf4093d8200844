//! `perennial bench step`.

use std::path::PathBuf;

use perennial_plan::Spec;
use perennial_plan::spec::Precision;
use perennial_worker::ComputeDevice;
use perennial_worker::bench::{CorePeak, StepBench};
use serde_json::json;

use super::profile::Profile;
use super::{CLASSES, Times, print, threads};
use crate::output::Output;

/// The training step: forward, loss, backward, sum over slots, clipping, optimizer
///
/// On random pictures that lie in memory, as a worker does it. What a step takes is the median.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long, default_value = "casvit_xs", value_name = "NAME")]
    model: String,
    /// Height and width of the pictures
    #[arg(long, default_value_t = 64, value_name = "PIXELS")]
    image_size: u32,
    /// Pictures in a step
    #[arg(long, default_value_t = 64, value_name = "N")]
    batch: u32,
    /// Slots of the batch; the job file's default where it is left out. Inference divides it among the threads
    #[arg(long, value_name = "N", conflicts_with = "inference")]
    slots: Option<u32>,
    /// Steps that are timed, after three that are not
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Slots computed side by side; all cores where it is left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
    /// Where to compute: cpu, or cuda:N for the N-th NVIDIA GPU
    #[arg(long, value_name = "cpu|cuda:N", default_value_t)]
    device: ComputeDevice,
    /// Logits alone, with the normalisations folded
    #[arg(long)]
    inference: bool,
    /// As `precision` in a job file: f32, bf16 or f16. Inference is in f32
    #[arg(long, default_value = "f32", value_name = "NAME", value_parser = precision, conflicts_with = "inference")]
    precision: Precision,
    /// Where the time goes: a table, and in FILE what happened when, for chrome://tracing or ui.perfetto.dev
    ///
    /// The rates are also told as shares of what a core of this machine does in a large matrix product and in a
    /// copy of much memory, measured before.
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
}

// === impl Args ===

impl Args {
    pub fn is_profiled(&self) -> bool {
        self.profile.is_some()
    }
}

pub fn run(args: &Args, output: Output) -> anyhow::Result<()> {
    let mut spec = Spec::default();
    spec.data.dir = "none".into();
    spec.data.image_size = args.image_size;
    spec.model.name.clone_from(&args.model);
    spec.train.batch_size = args.batch;
    spec.train.slots = args.slots.unwrap_or(spec.train.slots);
    spec.train.precision = args.precision;
    spec.ema.decay = 0.0;
    spec.validate()?;
    let bench = StepBench {
        spec,
        classes: CLASSES,
        device: args.device,
        threads: threads(args.threads),
        steps: args.steps as usize,
        inference: args.inference,
    };
    // Inference is in f32, whatever the training is in.
    let precision = match args.inference {
        true => Precision::F32,
        false => args.precision,
    };
    let peak = match args.profile {
        Some(_) => Some(CorePeak::measure(bench.threads, precision)?),
        None => None,
    };
    let (times, page_faults) = bench.run()?;
    let times = Times::new(times);
    let profile = peak.map(|peak| Profile::recorded(peak, bench.threads));
    if let (Some(file), Some(profile)) = (&args.profile, &profile) {
        profile.write(file)?;
    }
    let rate = f64::from(args.batch) / times.median().as_secs_f64();
    let peak_rss = peak_rss_mb();
    let fields = json!({
        "what": if args.inference { "inference" } else { "training" },
        "model": args.model,
        "precision": args.precision.name(),
        "image_size": args.image_size,
        "batch": args.batch,
        "slots": (!args.inference).then_some(bench.spec.train.slots),
        "device": args.device.to_string(),
        "threads": bench.threads,
        "steps": args.steps,
        "images_per_second": rate,
        "peak_rss_mb": peak_rss,
        "page_faults_per_step": page_faults,
        "device_memory_mb": bench.device_memory()?.map(|bytes| bytes as f64 / 1e6),
        "profile": profile.as_ref().map(Profile::record),
    });
    print(output, fields, &[("step", &times)], || {
        let memory = peak_rss.map_or(String::new(), |peak| format!("; {peak:.0} MB at most"));
        let table = profile.map_or(String::new(), |profile| format!("\n\n{profile}"));
        format!("{rate:.1} images/s: a step takes {times}{memory}{table}")
    })
}

fn precision(name: &str) -> Result<Precision, String> {
    Precision::named(name).ok_or_else(|| "choose f32, bf16 or f16".to_string())
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
