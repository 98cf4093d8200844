//! What comes out of a pack.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use perennial_data::pack::Pack;
use perennial_data::{DataSet, Pipeline, Request, Side, SlotBatch, split_folder};
use perennial_plan::Spec;
use perennial_plan::spec::{DataSpec, OnBadImage};
use perennial_store::Faults;

use super::support::{Place, SMALL_SHARD, hasty, pictures, spec};
use crate::support::{noise, relatives, save};

fn assert_same(packed: &DataSet, folder: &DataSet) {
    assert_eq!(packed.classes, folder.classes);
    assert_eq!(packed.empty_folders, folder.empty_folders);
    assert_eq!(packed.fingerprint().unwrap(), folder.fingerprint().unwrap());
    for side in Side::BOTH {
        assert_eq!(relatives(packed, side), relatives(folder, side));
        assert_eq!(packed.class_counts(side), folder.class_counts(side));
        let read = |data: &DataSet| {
            let files = data.read_all(data.side(side)).into_iter();
            files.map(Result::unwrap).collect::<Vec<_>>()
        };
        assert_eq!(read(packed), read(folder));
    }
}

fn cuts(dir: &Path) -> Vec<DataSpec> {
    let mut cuts = vec![spec(dir); 4];
    cuts[1].val_fraction = 0.2;
    cuts[2].split_seed = 7;
    cuts[3].stratify = true;
    cuts
}

#[test]
fn a_pack_is_its_folder_however_the_job_splits_it() {
    let dir = pictures();
    for place in [Place::folder(), Place::s3()] {
        place.pack(dir.path(), SMALL_SHARD).unwrap();
        for spec in cuts(dir.path()) {
            assert_same(&place.open(&spec).unwrap(), &DataSet::open(&spec).unwrap());
        }
    }
}

#[test]
fn a_pack_of_a_split_folder_stays_split_as_it_was() {
    let dir = pictures();
    let split = tempfile::tempdir().unwrap();
    split_folder(dir.path(), split.path(), 0.4, 3, true).unwrap();
    // The same name on both sides, and different pictures.
    save(&split.path().join("val/a/001.png"), &noise(50, 8));
    save(&split.path().join("train/a/001.png"), &noise(51, 8));
    let place = Place::folder();
    place.pack(split.path(), SMALL_SHARD).unwrap();
    for spec in cuts(split.path()) {
        assert_same(&place.open(&spec).unwrap(), &DataSet::open(&spec).unwrap());
    }
}

#[test]
fn a_local_pack_is_opened_in_place_of_its_folder() {
    let dir = pictures();
    let place = Place::folder();
    place.pack(dir.path(), SMALL_SHARD).unwrap();
    let packed = DataSet::open(&spec(&place.files)).unwrap();
    assert_same(&packed, &DataSet::open(&spec(dir.path())).unwrap());
    // All pictures in the order of the folder, or those that validate.
    let all = |dir: &Path| DataSet::all_of(&spec(dir)).unwrap();
    assert_eq!(
        relatives(&all(&place.files), Side::Val),
        relatives(&all(dir.path()), Side::Val)
    );
    let (split, place) = (tempfile::tempdir().unwrap(), Place::folder());
    split_folder(dir.path(), split.path(), 0.4, 3, true).unwrap();
    place.pack(split.path(), SMALL_SHARD).unwrap();
    assert_eq!(
        relatives(&all(&place.files), Side::Val),
        relatives(&all(split.path()), Side::Val)
    );
}

fn job(dir: &Path) -> Spec {
    let mut job = Spec {
        data: spec(dir),
        ..Spec::default()
    };
    job.augment.crop_scale = Some([0.3, 1.0]);
    job.mix.mixup_alpha = 0.8;
    job
}

fn requests() -> Vec<Request> {
    let train = (0..12u32).map(|slot| Request::Train {
        epoch: slot / 6,
        global_step: u64::from(slot),
        slot,
        samples: (0..slot).map(|i| (slot * 5 + i * 3) % 20).collect(),
    });
    let eval = Request::Eval {
        side: Side::Val,
        samples: vec![0, 5, 2, 5],
    };
    train.chain([eval]).collect()
}

fn batches(pipeline: Pipeline, threads: usize, look_ahead: usize) -> Vec<SlotBatch> {
    Arc::new(pipeline)
        .prefetch(threads, look_ahead, requests().into_iter())
        .map(Result::unwrap)
        .collect()
}

#[test]
fn batches_are_those_of_the_folder_whatever_the_store_suffers() {
    let dir = pictures();
    let mut job = job(dir.path());
    let expected = batches(Pipeline::open(&job).unwrap().0, 1, 1);
    let place = Place::s3();
    place.pack(dir.path(), SMALL_SHARD).unwrap();
    for (threads, look_ahead, cache_mib) in [(1, 1, 0), (3, 2, 0), (2, 4, 64)] {
        job.data.cache_mib = cache_mib;
        let faulty = place.store().with_retry(hasty()).with_faults(Faults {
            seed: threads as u64,
            rate: 0.3,
            ..Faults::default()
        });
        let pack = Pack::read("s3://bucket/a/pack", faulty.clone()).unwrap();
        let data = DataSet::of_pack(pack, &job.data).unwrap();
        let pipeline = Pipeline::new(data, &job);
        assert_eq!(batches(pipeline, threads, look_ahead), expected);
        assert!(faulty.faults().unwrap().total() > 0);
    }
}

#[test]
fn opening_reads_the_header_alone_and_a_sample_its_own_shard() {
    let dir = pictures();
    let place = Place::folder();
    let packed = place.pack(dir.path(), SMALL_SHARD).unwrap();
    let shards = packed.header.train.shards.len();
    assert!(shards > 2, "{shards}");
    let expected = DataSet::open(&spec(dir.path())).unwrap();
    // All but the header and one shard are gone.
    for name in place.objects().keys() {
        if name != "PACK.json" && !name.starts_with("train-000001.") {
            fs::remove_file(place.files.join(name)).unwrap();
        }
    }
    let data = place.open(&spec(dir.path())).unwrap();
    assert_eq!(data.fingerprint().unwrap(), expected.fingerprint().unwrap());
    assert_eq!(
        data.class_counts(Side::Train),
        expected.class_counts(Side::Train)
    );
    assert_eq!(data.pack().unwrap().memory_used(), 0);
    let mut verified = data.clone();
    let nothing = verified.verify(OnBadImage::Fail, u64::MAX, |_, _, _| {});
    assert_eq!(nothing.unwrap(), []);

    let first = packed.header.train.shards[0].samples as usize;
    let read = |place: usize| data.read_all(&data.train[place..=place]).pop().unwrap();
    let file = fs::read(expected.path(&expected.train[first])).unwrap();
    assert_eq!(read(first).unwrap(), file);
    assert!(read(first - 1).is_err());
    let rows = packed.header.train.shards[1].rows_bytes;
    assert_eq!(data.pack().unwrap().memory_used() as u64, rows);
}

#[test]
fn a_sample_costs_the_index_sixty_bytes_and_its_name() {
    let dir = pictures();
    let place = Place::folder();
    let packed = place.pack(dir.path(), u64::MAX).unwrap();
    let names: usize = Side::BOTH
        .map(|side| relatives(&DataSet::open(&spec(dir.path())).unwrap(), side))
        .concat()
        .iter()
        .map(|relative| relative.split_once('/').unwrap().1.len())
        .sum();
    let index: u64 = packed.header.shards().map(|shard| shard.rows_bytes).sum();
    assert_eq!(index, 31 * 60 + names as u64 + 2 * 24);
    let header = place.objects()["PACK.json"].len();
    assert!(header < 1500, "{header}");
}

#[test]
fn what_was_read_of_a_bucket_stays_on_the_disk_and_is_checked_again() {
    let dir = pictures();
    let cache = tempfile::tempdir().unwrap();
    let place = Place::s3();
    place.pack(dir.path(), SMALL_SHARD).unwrap();
    let spec = spec(dir.path());
    let folder = DataSet::open(&spec).unwrap();
    let open = |budget| {
        let pack = Pack::read(place.url(), place.store()).unwrap();
        DataSet::of_pack(pack.with_disk(cache.path(), budget), &spec).unwrap()
    };
    let header = place.files.join("PACK.json");
    let (kept, gone) = (
        fs::read(&header).unwrap(),
        place.files.with_extension("gone"),
    );

    let first = open(1 << 30);
    assert_same(&first, &folder);
    let used = first.pack().unwrap().disk_used().unwrap();
    let files: u64 = folder
        .read_all(&[&folder.train[..], &folder.val[..]].concat())
        .into_iter()
        .map(|file| file.unwrap().len() as u64)
        .sum();
    assert!(used >= files, "{used} bytes for {files}");

    // Without the shards everything comes from the disk.
    fs::rename(&place.files, &gone).unwrap();
    fs::create_dir(&place.files).unwrap();
    fs::write(&header, kept).unwrap();
    assert_same(&open(1 << 30), &folder);
    // What the disk has damaged comes from the store.
    fs::remove_dir_all(&place.files).unwrap();
    fs::rename(&gone, &place.files).unwrap();
    for pack in fs::read_dir(cache.path()).unwrap() {
        for file in fs::read_dir(pack.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            bytes.iter_mut().step_by(100).for_each(|byte| *byte ^= 1);
            fs::write(&path, &bytes[..bytes.len() * 2 / 3]).unwrap();
        }
    }
    assert_same(&open(1 << 30), &folder);
    // Without room nothing is kept, and nothing is missing.
    let elsewhere = tempfile::tempdir().unwrap();
    let pack = Pack::read(place.url(), place.store()).unwrap();
    let data = DataSet::of_pack(pack.with_disk(elsewhere.path(), 20_000), &spec).unwrap();
    assert_same(&data, &folder);
    assert!(data.pack().unwrap().disk_used().unwrap() <= 20_000);
}

#[test]
fn broken_pictures_are_known_from_the_packing() {
    let dir = pictures();
    fs::write(dir.path().join("a/003.png"), "").unwrap();
    fs::write(dir.path().join("c.d/001.png"), "not a picture at all").unwrap();
    save(&dir.path().join("a-b/007.png"), &noise(400, 400));
    let place = Place::folder();
    let packed = place.pack(dir.path(), SMALL_SHARD).unwrap();
    let mut broken: Vec<&str> = packed
        .broken
        .iter()
        .map(|(path, _)| path.as_str())
        .collect();
    broken.sort_unstable();
    assert_eq!(broken, ["a/003.png", "c.d/001.png"]);

    for (max_pixels, count) in [(1_000_000, 2), (100_000, 3)] {
        let verified = |mut data: DataSet| {
            let skipped = data.verify(OnBadImage::Skip, max_pixels, |_, _, _| {});
            (skipped.unwrap(), data)
        };
        let (skipped, packed) = verified(place.open(&spec(dir.path())).unwrap());
        let (expected, folder) = verified(DataSet::open(&spec(dir.path())).unwrap());
        assert_eq!(skipped, expected);
        assert_eq!((skipped.len(), packed.skipped), (count, count));
        assert_same(&packed, &folder);
        let fail = |mut data: DataSet| {
            let failed = data.verify(OnBadImage::Fail, max_pixels, |_, _, _| {});
            failed.unwrap_err().to_string()
        };
        let error = fail(place.open(&spec(dir.path())).unwrap());
        let pack = place.files.to_str().unwrap();
        let folder = dir.path().to_str().unwrap();
        let expected = fail(DataSet::open(&spec(dir.path())).unwrap());
        assert_eq!(error.replace(pack, folder), expected);
    }
    let data = place.open(&spec(dir.path())).unwrap();
    let samples = [&data.train[..], &data.val[..]].concat();
    let read: Vec<_> = data
        .read_all(&samples)
        .into_iter()
        .filter_map(Result::err)
        .collect();
    assert_eq!(read.len(), 2);
    assert!(
        read.iter()
            .any(|error| error.to_string().contains("`a/003.png`"))
    );
}
