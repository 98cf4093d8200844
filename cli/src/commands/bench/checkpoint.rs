//! `perennial bench checkpoint`.

use perennial_plan::Spec;
use perennial_store::Store;
use perennial_worker::bench::CheckpointBench;
use serde_json::json;

use super::{CLASSES, Times, print};
use crate::job::{DEFAULT_STORE, absolute_url};
use crate::output::Output;

/// A checkpoint: weights, their average and the optimizer's moments copied, written and read back
///
/// One worker does it all; in a job its members share the parts. The next step waits for the copy if its
/// gradients are done sooner, never for the store.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long, default_value = "casvit_t", value_name = "NAME")]
    model: String,
    /// Where it is written, and removed again: a folder or s3://bucket/prefix
    #[arg(long, default_value = DEFAULT_STORE, value_name = "URL")]
    store: String,
    /// Checkpoints that are timed, after one that is not
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<()> {
    let mut spec = Spec {
        name: format!("bench-{}", std::process::id()),
        ..Spec::default()
    };
    spec.data.dir = "none".into();
    spec.model.name = args.model;
    spec.validate()?;
    let bench = CheckpointBench {
        spec,
        classes: CLASSES,
        store: Store::open(&absolute_url(&args.store)?)?,
        rounds: args.rounds as usize,
    };
    let done = bench.run()?;
    let megabytes = done.bytes as f64 / 1e6;
    let [copy, write, load] = [done.copy, done.write, done.load].map(Times::new);
    let fields = json!({
        "what": "checkpoint",
        "model": bench.spec.model.name,
        "bytes": done.bytes,
        "rounds": args.rounds,
    });
    let times = [("copy", &copy), ("write", &write), ("load", &load)];
    print(output, fields, &times, || {
        format!("{megabytes:.0} MB: copied in {copy}, written in {write}, read in {load}")
    })
}
