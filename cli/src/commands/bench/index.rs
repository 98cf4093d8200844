//! `perennial bench index`.

use std::time::{Duration, Instant};

use anyhow::Context;
use perennial_data::pack::{Entry, HEADER, Header, Pack, Rows, ShardInfo, Split};
use perennial_data::{DataSet, Side};
use perennial_plan::order::epoch_order;
use perennial_plan::random::{Domain, Draw, Stream};
use perennial_plan::spec::DataSpec;
use perennial_store::tensors::sha256;
use serde_json::json;

use super::CLASSES;
use crate::output::{Output, bytes, table, thousands};

/// The index of a pack: how fast it opens, and what it costs
///
/// Makes up the index of a pack without shards in a folder that goes away, opens it as a job does, and looks
/// every sample up in the order of an epoch.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Samples of the pack
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1_000..=50_000_000))]
    samples: u32,
    /// Samples of a shard
    #[arg(long, default_value_t = 2_500, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    shard_samples: u32,
}

pub fn run(args: &Args, output: Output) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let header = make_up(args, folder.path())?;
    let index_bytes = header.shards().map(|shard| shard.rows_bytes).sum::<u64>();
    drop(header);

    let resident = resident();
    let began = Instant::now();
    let data = DataSet::open(&DataSpec {
        dir: folder.path().to_string_lossy().into_owned(),
        ..DataSpec::default()
    })?;
    let fingerprint = data.fingerprint()?;
    let opening = began.elapsed();
    let opened = self::resident().saturating_sub(resident);

    let order = epoch_order(42, 0, data.train.len());
    let mut times = Vec::with_capacity(order.len());
    let mut longest_name = 0;
    for place in order {
        let began = Instant::now();
        let name = data.relative(&data.train[place as usize])?;
        times.push(began.elapsed());
        longest_name = longest_name.max(name.len());
    }
    let looked_up = self::resident().saturating_sub(resident);
    let rows = data.pack().map_or(0, Pack::memory_used);
    let total: Duration = times.iter().sum();
    times.sort();
    let of = |share: f64| times[(share * (times.len() - 1) as f64) as usize];

    let fields = json!({
        "event": "bench",
        "what": "index",
        "samples": args.samples,
        "index_bytes": index_bytes,
        "bytes_per_sample": index_bytes as f64 / f64::from(args.samples),
        "open_ms": opening.as_secs_f64() * 1e3,
        "open_bytes": opened,
        "lookup_us": total.as_secs_f64() * 1e6 / times.len() as f64,
        "lookup_us_p99": of(0.99).as_secs_f64() * 1e6,
        "lookup_us_max": of(1.0).as_secs_f64() * 1e6,
        "rows_bytes": rows,
        "used_bytes": looked_up,
        "fingerprint": fingerprint,
        "longest_name": longest_name,
    });
    output.print(&fields, || {
        let microseconds = |time: Duration| format!("{:.1} us", time.as_secs_f64() * 1e6);
        let row = |name: &str, value: String| vec![name.to_string(), value];
        table(&[
            row("samples", thousands(args.samples.into())),
            row(
                "index",
                format!(
                    "{}, {:.1} bytes a sample",
                    bytes(index_bytes),
                    index_bytes as f64 / f64::from(args.samples)
                ),
            ),
            row(
                "opened in",
                format!("{:.1} ms", opening.as_secs_f64() * 1e3),
            ),
            row("memory, opened", bytes(opened)),
            row(
                "memory, all looked up",
                format!("{}, of which rows {}", bytes(looked_up), bytes(rows as u64)),
            ),
            row(
                "a look-up",
                format!(
                    "{} (99 of 100 within {}, all within {})",
                    microseconds(total / times.len() as u32),
                    microseconds(of(0.99)),
                    microseconds(of(1.0))
                ),
            ),
        ])
    })
}

/// Writes the index of a pack that has no shards.
fn make_up(args: &Args, folder: &std::path::Path) -> anyhow::Result<Header> {
    let classes: Vec<String> = (0..CLASSES)
        .map(|class| format!("class-{class:02}"))
        .collect();
    let mut header = Header::new(classes, Vec::new(), Split::Folder);
    header.fingerprint = "0".repeat(64);
    header.largest_pixels = 500 * 375;
    let val = args.samples / 10;
    for (side, samples) in [(Side::Train, args.samples - val), (Side::Val, val)] {
        let mut random = Stream::new(42, Domain::Synthetic, &[side as u64]);
        let class = |place: u32| (u64::from(place) * CLASSES as u64 / u64::from(samples)) as u32;
        let index = header.side_mut(side);
        index.class_counts = vec![0; CLASSES];
        for first in (0..samples).step_by(args.shard_samples as usize) {
            let last = samples.min(first + args.shard_samples);
            let mut offset = 512;
            let entries: Vec<Entry> = (first..last)
                .map(|place| {
                    index.class_counts[class(place) as usize] += 1;
                    let bytes = 80_000 + random.below(40_000);
                    let entry = Entry {
                        relative: format!("photo_{place:08}.jpg"),
                        class: class(place),
                        offset,
                        bytes,
                        width: 500,
                        height: 375,
                        sha256: std::array::from_fn(|_| random.below(256) as u8),
                    };
                    offset += bytes.next_multiple_of(512) + 3 * 512;
                    entry
                })
                .collect();
            let rows = Rows::encode(entries.iter());
            let number = index.shards.len();
            std::fs::write(
                folder.join(format!("{}-{number:06}.idx", side.folder())),
                &rows,
            )?;
            index.shards.push(ShardInfo {
                samples: last - first,
                bytes: offset + 1024,
                rows_sha256: sha256(&rows),
                rows_bytes: rows.len() as u64,
            });
        }
    }
    let (header, json) = header.encode();
    std::fs::write(folder.join(HEADER), json)?;
    Ok(header)
}

/// Bytes of memory of this process; 0 where the system does not say.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
