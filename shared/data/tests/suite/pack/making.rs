//! How a pack comes to be: the same bytes every time, nothing overwritten, gone on with where it stopped.

use std::fs;

use perennial_data::pack::{PackError, pack_folder, pack_into};
use perennial_data::{DataError, DataSet};
use perennial_store::{Faults, Store};

use super::support::{Place, SMALL_SHARD, hasty, impatient, packing, pictures, spec};
use crate::support::{noise, save};

#[test]
fn equal_folders_give_equal_packs_in_a_folder_and_in_a_bucket() {
    let dir = pictures();
    let (folder, bucket) = (Place::folder(), Place::s3());
    let packed = folder.pack(dir.path(), SMALL_SHARD).unwrap();
    assert_eq!(packed.found, 0);
    let again = bucket.pack(pictures().path(), SMALL_SHARD).unwrap();
    assert_eq!(again, packed);
    let objects = folder.objects();
    assert_eq!(bucket.objects(), objects);
    let mut names: Vec<&str> = objects.keys().map(String::as_str).collect();
    names.retain(|name| name.ends_with(".tar"));
    assert_eq!(
        names[..3],
        ["train-000000.tar", "train-000001.tar", "train-000002.tar"]
    );
    assert_eq!(objects.len(), 2 * names.len() + 1);
    for name in names {
        assert!(objects[name].len() as u64 <= SMALL_SHARD + 1024, "{name}");
    }
    assert!(packed.header.val.shards.len() > 1);
}

#[test]
fn an_interrupted_pack_is_gone_on_with() {
    let dir = pictures();
    let whole = Place::folder();
    whole.pack(dir.path(), SMALL_SHARD).unwrap();
    for place in [Place::folder(), Place::s3()] {
        // From the second shard on the store does not answer any more.
        let switch = tempfile::tempdir().unwrap();
        let switch = switch.path().join("fails");
        let faults = Faults {
            rate: 1.0,
            while_file: Some(switch.clone()),
            only: vec![perennial_store::FaultKind::Unavailable],
            ..Faults::default()
        };
        let failing = place.store().with_retry(impatient()).with_faults(faults);
        let broken = pack_into(&packing(dir.path(), SMALL_SHARD), failing, |progress| {
            if progress.samples > 10 {
                fs::write(&switch, "").unwrap();
            }
        });
        assert!(matches!(
            broken,
            Err(DataError::Pack(PackError::Store { .. }))
        ));
        let before = place.objects();
        assert!(!before.contains_key("PACK.json"));
        assert!(
            before.contains_key("train-000000.idx"),
            "{:?}",
            before.keys()
        );
        let error = place.open(&spec(dir.path())).unwrap_err().to_string();
        assert!(error.contains("`PACK.json` is not there"), "{error}");
        assert!(error.contains(place.url()), "{error}");

        let packed = place.pack(dir.path(), SMALL_SHARD).unwrap();
        assert!(packed.found > 0);
        assert_eq!(place.objects(), whole.objects());
        // Once more: all is there, and nothing happens.
        let again = place.pack(dir.path(), SMALL_SHARD).unwrap();
        assert_eq!(again.found, again.header.shards().count());
        assert_eq!(again.header, packed.header);
        assert_eq!(place.objects(), whole.objects());
    }
}

#[test]
fn a_pack_that_lost_a_shard_gets_it_back() {
    let dir = pictures();
    let place = Place::folder();
    place.pack(dir.path(), SMALL_SHARD).unwrap();
    let objects = place.objects();
    for lost in ["train-000001.tar", "val-000000.idx"] {
        fs::remove_file(place.files.join(lost)).unwrap();
    }
    place.pack(dir.path(), SMALL_SHARD).unwrap();
    assert_eq!(place.objects(), objects);
}

#[test]
fn faults_of_the_store_change_nothing() {
    let dir = pictures();
    let sound = Place::folder();
    let expected = sound.pack(dir.path(), SMALL_SHARD).unwrap();
    for seed in 0..3 {
        let place = Place::s3();
        let faults = Faults {
            seed,
            rate: 0.4,
            ..Faults::default()
        };
        let faulty = place.store().with_retry(hasty()).with_faults(faults);
        let packed = pack_into(&packing(dir.path(), SMALL_SHARD), faulty.clone(), |_| {}).unwrap();
        assert_eq!(packed.header, expected.header);
        assert_eq!(place.objects(), sound.objects());
        assert!(faulty.faults().unwrap().total() > 5);
    }
}

#[test]
fn other_pictures_or_flags_overwrite_nothing() {
    let dir = pictures();
    let place = Place::folder();
    place.pack(dir.path(), SMALL_SHARD).unwrap();
    let objects = place.objects();
    let refused = |dir: &std::path::Path, shard_bytes| {
        let error = place.pack(dir, shard_bytes).unwrap_err().to_string();
        assert!(error.contains(place.url()), "{error}");
        assert_eq!(place.objects(), objects);
        error
    };
    let error = refused(dir.path(), SMALL_SHARD / 2);
    assert!(error.contains("holds something else"), "{error}");
    let other = pictures();
    save(&other.path().join("a/004.png"), &noise(60, 3));
    assert!(refused(other.path(), SMALL_SHARD).contains("a complete pack of other pictures"));

    // One that is not complete is no place for other pictures either.
    fs::remove_file(place.files.join("PACK.json")).unwrap();
    let objects = place.objects();
    let error = place.pack(other.path(), SMALL_SHARD).unwrap_err();
    assert!(
        matches!(error, DataError::Pack(PackError::Taken { .. })),
        "{error}"
    );
    assert_eq!(place.objects(), objects);
}

#[test]
fn what_is_no_folder_of_pictures_is_not_packed() {
    let dir = pictures();
    let place = Place::folder();
    place.pack(dir.path(), SMALL_SHARD).unwrap();
    let target = tempfile::tempdir().unwrap();
    let error = |dir: &std::path::Path, url: &std::path::Path| {
        let packing = packing(dir, SMALL_SHARD);
        let error = pack_folder(&packing, url.to_str().unwrap(), |_| {});
        error.unwrap_err().to_string()
    };
    let of_a_pack = error(&place.files, target.path());
    assert!(of_a_pack.contains("is a pack"), "{of_a_pack}");
    let inside = dir.path().join("a/new");
    let said = error(dir.path(), &inside);
    assert!(said.contains("inside of the source"), "{said}");
    assert!(!inside.exists());
    let said = error(&dir.path().join("nowhere"), target.path());
    assert!(said.contains("is not there"), "{said}");
}

#[test]
fn progress_ends_with_everything() {
    let dir = pictures();
    let place = Place::folder();
    let mut seen = Vec::new();
    let store: Store = place.store();
    pack_into(&packing(dir.path(), SMALL_SHARD), store, |progress| {
        seen.push(progress)
    })
    .unwrap();
    let data = DataSet::open(&spec(dir.path())).unwrap();
    assert!(seen.is_sorted_by_key(|progress| progress.bytes));
    let last = seen.last().unwrap();
    assert_eq!((last.samples, last.bytes), (last.of_samples, last.of_bytes));
    assert_eq!(last.of_samples, data.len() as u64);
    assert!(seen.len() > 4);
}
