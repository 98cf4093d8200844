//! `perennial bench loader`.

use perennial_plan::Spec;
use perennial_worker::bench::LoaderBench;
use serde_json::json;

use super::{Times, print, threads};
use crate::output::Output;

/// The loader: pictures decoded, resized, augmented and mixed as for training
///
/// The rate is that of an epoch after the first, when small data sets lie decoded in memory; `--no-cache`
/// decodes every picture in every epoch.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder of pictures, a folder a class
    #[arg(long, value_name = "DIR")]
    data: String,
    /// Height and width of the pictures that come out
    #[arg(long, default_value_t = 224, value_name = "PIXELS")]
    image_size: u32,
    /// Pictures in a step
    #[arg(long, default_value_t = 64, value_name = "N")]
    batch: u32,
    /// Epochs that are timed, after one that is not
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Threads that prepare pictures; all cores where it is left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
    /// Keep no decoded picture
    #[arg(long)]
    no_cache: bool,
}

pub fn run(args: &Args, output: Output) -> anyhow::Result<()> {
    let mut spec = Spec::default();
    spec.data.dir.clone_from(&args.data);
    spec.data.image_size = args.image_size;
    spec.train.batch_size = args.batch;
    spec.train.epochs = args.epochs + 1;
    if args.no_cache {
        spec.data.cache_mib = 0;
    }
    spec.validate()?;
    let threads = threads(args.threads);
    let mut loaded = LoaderBench { spec, threads }.run()?;
    loaded.epochs.remove(0);
    let epochs = Times::new(loaded.epochs);
    let rate = loaded.pictures as f64 / epochs.median().as_secs_f64();
    let opening = loaded.opening.as_secs_f64();
    let fields = json!({
        "what": "loader",
        "image_size": args.image_size,
        "batch": args.batch,
        "threads": threads,
        "cached": !args.no_cache,
        "images": loaded.pictures,
        "images_per_second": rate,
        "opening_seconds": opening,
    });
    print(output, fields, &[("epoch", &epochs)], || {
        let pictures = loaded.pictures;
        format!(
            "{rate:.0} images/s: an epoch of {pictures} takes {epochs}; all were checked in {opening:.2} s before"
        )
    })
}
