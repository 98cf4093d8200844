//! `perennial data stats`.

use std::path::PathBuf;

use perennial_data::pack::Split;
use perennial_data::{DataSet, mean_std};
use perennial_plan::spec::DataSpec;
use serde::Serialize;

use crate::output::{Output, counted};

/// Measure the mean and standard deviation of each channel, both ways
///
/// Of a split folder only train/ is measured: what validates must not be seen.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder with one folder of pictures a class, or train/ and val/ with one folder a class in each, or a
    /// pack of one: a folder or s3://bucket/prefix
    dir: PathBuf,
}

/// Channels in the order red, green, blue, as shares (0..1).
#[derive(Serialize)]
struct Answer {
    dir: PathBuf,
    pictures: usize,
    over_all_pixels: MeanStd,
    mean_over_pictures: MeanStd,
}

#[derive(Serialize)]
struct MeanStd {
    mean: [f64; 3],
    std: [f64; 3],
}

pub fn run(args: Args, output: Output) -> anyhow::Result<()> {
    let spec = DataSpec {
        dir: args.dir.to_string_lossy().into_owned(),
        ..DataSpec::default()
    };
    let data = DataSet::open(&spec)?;
    let is_split = match data.pack() {
        Some(pack) => pack.header().split == Split::Folder,
        None => args.dir.join("train").is_dir(),
    };
    let val = if is_split { &[][..] } else { &data.val[..] };
    let samples = [&data.train[..], val].concat();
    let found = mean_std(&data, &samples, spec.max_pixels)?;
    let answer = Answer {
        dir: args.dir,
        pictures: found.pictures,
        over_all_pixels: MeanStd {
            mean: found.pooled_mean,
            std: found.pooled_std,
        },
        mean_over_pictures: MeanStd {
            mean: found.mean_of_means,
            std: found.mean_of_stds,
        },
    };
    output.print(&answer, || text(&answer))
}

fn text(answer: &Answer) -> String {
    let (pixels, pictures) = (&answer.over_all_pixels, &answer.mean_over_pictures);
    format!(
        "# {} in {}, for [data] of the job file\n\
         # over all pixels:\nmean = {}\nstd = {}\n\
         # or the mean over pictures of each picture's own:\n# mean = {}\n# std = {}\n",
        counted(answer.pictures as u64, "picture"),
        answer.dir.display(),
        channels(&pixels.mean),
        channels(&pixels.std),
        channels(&pictures.mean),
        channels(&pictures.std),
    )
}

fn channels([red, green, blue]: &[f64; 3]) -> String {
    format!("[{red:.6}, {green:.6}, {blue:.6}]")
}
