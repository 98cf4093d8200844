//! `perennial data pack`.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use perennial_data::Side;
use perennial_data::pack::{Packed, Packing, Progress, pack_folder};
use perennial_plan::spec::DataSpec;
use serde::Serialize;

use super::split::share;
use crate::output::{Output, bytes, counted, table};

/// Put a folder of pictures as tar shards with an index into a folder or a bucket
///
/// Training reads it in place of the folder (`--data URL`) and ends with the same weights; so does every reader
/// of WebDataset shards. Nothing is overwritten: the same command goes on where one was interrupted.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder with one folder of pictures a class, or train/ and val/ with one folder a class in each
    dir: String,
    /// A folder, or s3://bucket/prefix (endpoint and keys from AWS_*)
    url: String,
    /// The share of pictures in the val shards, where the folder is not split; a job may say another one
    #[arg(long, default_value_t = 0.3, value_parser = share)]
    val: f64,
    #[arg(long, default_value_t = 42)]
    seed: u32,
    /// Keep each class's share on both sides
    #[arg(long)]
    stratify: bool,
    /// How large a shard may grow, in MB; two of them are in memory
    #[arg(long, value_name = "MB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=4096))]
    shard_size: u64,
}

#[derive(Serialize)]
struct Answer {
    url: String,
    pictures: u64,
    bytes: u64,
    index_bytes: u64,
    /// Shards that were there already.
    found: usize,
    classes: usize,
    train: SideAnswer,
    val: SideAnswer,
    fingerprint: String,
    /// Pictures that cannot be decoded: they are in the index and in no shard.
    broken: Vec<BrokenAnswer>,
}

#[derive(Serialize)]
struct SideAnswer {
    pictures: u64,
    shards: usize,
    bytes: u64,
}

#[derive(Serialize)]
struct BrokenAnswer {
    path: String,
    reason: String,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<()> {
    let packing = Packing {
        data: DataSpec {
            dir: args.dir,
            val_fraction: args.val,
            split_seed: args.seed,
            stratify: args.stratify,
            ..DataSpec::default()
        },
        shard_bytes: args.shard_size * 1_000_000,
    };
    let bar = bar();
    let packed = pack_folder(&packing, &args.url, |progress| show(&bar, progress));
    bar.finish_and_clear();
    let answer = answer(args.url, packed?);
    output.print(&answer, || text(&answer))
}

/// On stderr, and only where that is a terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style =
        ProgressStyle::with_template("{spinner} {bar:24} {msg}  {bytes_per_sec}, {eta} left");
    bar.set_style(style.expect("the template is valid").progress_chars("━╸ "));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_length(progress.of_bytes);
    bar.set_position(progress.bytes);
    bar.set_message(format!(
        "{} of {}, {} of {}",
        progress.samples,
        counted(progress.of_samples, "picture"),
        bytes(progress.bytes),
        bytes(progress.of_bytes)
    ));
}

fn answer(url: String, packed: Packed) -> Answer {
    let header = packed.header;
    let side = |side: Side| {
        let side = header.side(side);
        SideAnswer {
            pictures: side.samples(),
            shards: side.shards.len(),
            bytes: side.shards.iter().map(|shard| shard.bytes).sum(),
        }
    };
    Answer {
        url,
        pictures: header.samples(),
        bytes: header.bytes(),
        index_bytes: header.shards().map(|shard| shard.rows_bytes).sum(),
        found: packed.found,
        classes: header.classes.len(),
        train: side(Side::Train),
        val: side(Side::Val),
        fingerprint: header.fingerprint.clone(),
        broken: packed
            .broken
            .into_iter()
            .map(|(path, reason)| BrokenAnswer { path, reason })
            .collect(),
    }
}

fn text(answer: &Answer) -> String {
    let mut rows = vec![
        ["side", "pictures", "shards", "bytes"]
            .map(String::from)
            .to_vec(),
    ];
    for (name, side) in [("train", &answer.train), ("val", &answer.val)] {
        rows.push(vec![
            name.to_string(),
            side.pictures.to_string(),
            side.shards.to_string(),
            bytes(side.bytes),
        ]);
    }
    let mut text = table(&rows);
    for broken in &answer.broken {
        text.push_str(&format!(
            "in no shard: `{}`: {}\n",
            broken.path, broken.reason
        ));
    }
    if answer.found > 0 {
        let found = counted(answer.found as u64, "shard");
        text.push_str(&format!("{found} of them there already\n"));
    }
    text.push_str(&format!(
        "{} of {} in {}, index {}",
        counted(answer.pictures, "picture"),
        counted(answer.classes as u64, "class"),
        answer.url,
        bytes(answer.index_bytes)
    ));
    text
}
