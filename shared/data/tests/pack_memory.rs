//! Making a pack takes memory for its shards, and not for what the folder holds. In a process of its own, whose memory
//! is counted.

use std::path::Path;

use image::RgbImage;
use peak_alloc::PeakAlloc;
use perennial_data::pack::{Packing, pack_folder};
use perennial_plan::random::{mix, name_hash};
use perennial_plan::spec::DataSpec;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const SHARD: u64 = 1_000_000;
/// A batch of files, the shard that they go into, the shard before it, and some room for lists and decoding.
const BOUND: usize = 4 * SHARD as usize;

/// Noise, which no encoding makes smaller: 12 kB each. Returns how many bytes there are.
fn pictures(dir: &Path, count: u32) -> u64 {
    let mut bytes = 0;
    for number in 0..count {
        let folder = dir.join(["a", "b"][number as usize % 2]);
        std::fs::create_dir_all(&folder).unwrap();
        let word = |index: u32| mix(name_hash("noise") ^ u64::from(number * 65_536 + index));
        let pixels = (0..64 * 64 * 3).map(|index| word(index) as u8).collect();
        let picture = RgbImage::from_raw(64, 64, pixels).unwrap();
        let path = folder.join(format!("{number:05}.png"));
        picture.save(&path).unwrap();
        bytes += path.metadata().unwrap().len();
    }
    bytes
}

#[test]
fn a_pack_of_any_folder_is_made_in_the_memory_of_a_few_shards() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("pictures");
    let bytes = pictures(&dir, 1200);
    assert!(bytes > 14 * SHARD, "{bytes}");
    let packing = Packing {
        data: DataSpec {
            dir: dir.display().to_string(),
            ..DataSpec::default()
        },
        shard_bytes: SHARD,
    };
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let url = folder.path().join("pack").display().to_string();
    let packed = pack_folder(&packing, &url, |_| {}).unwrap();
    let taken = MEMORY.peak_usage() - before;
    assert_eq!(packed.header.samples(), 1200);
    assert!(packed.header.shards().count() > 14);
    assert!(
        taken < BOUND,
        "{taken} bytes of memory for {bytes} bytes of pictures in shards of {SHARD}"
    );
}
