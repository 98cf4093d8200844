//! Checkpoints that are whole, half-written, damaged and retired.

mod support;

use std::fs;
use std::path::PathBuf;

use perennial_store::{Job, NamedTensors, PartKind, Retention, StoreError, select, tensors};
use proptest::prelude::*;
use support::{TestStore, folder, manifest, s3, weights, write_checkpoint};

fn job(test: &TestStore) -> Job {
    test.store.job("seedlings").unwrap()
}

/// Where a file of the job is on disk.
fn file(test: &TestStore, path: &str) -> PathBuf {
    test.files.join("seedlings").join(path)
}

async fn a_checkpoint_comes_back_to_the_bit(test: TestStore) {
    let job = job(&test);
    assert_eq!(job.newest_checkpoint().await.unwrap(), None);
    write_checkpoint(&job, 10, 0.5, None).await;
    let written = write_checkpoint(&job, 20, 0.25, Some(0.9)).await;
    let newest = job.newest_checkpoint().await.unwrap().unwrap();
    assert_eq!(newest, written);
    let model = job.load_part(&newest, PartKind::Model).await.unwrap();
    assert_eq!(model, weights(0.25));
    assert_eq!(tensors::weights_sha256(&model), newest.weights_sha256);
    let no_ema = job.load_part(&newest, PartKind::Ema).await;
    assert!(matches!(no_ema, Err(StoreError::NoSuchPart { .. })));
    let listed = job.checkpoints().await.unwrap();
    assert_eq!(listed.iter().map(|c| c.step).collect::<Vec<_>>(), [10, 20]);
    assert_eq!(listed[1].metric, Some(0.9));
    assert!(job.verify_checkpoint(20).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_checkpoint_in_a_folder_comes_back_to_the_bit() {
    a_checkpoint_comes_back_to_the_bit(folder()).await;
}

#[tokio::test]
async fn a_checkpoint_in_a_bucket_comes_back_to_the_bit() {
    a_checkpoint_comes_back_to_the_bit(s3().await).await;
}

#[tokio::test]
async fn a_checkpoint_without_a_manifest_does_not_exist_and_blocks_nothing() {
    let test = folder();
    let job = job(&test);
    write_checkpoint(&job, 10, 0.5, None).await;
    let left = (job.write_tensors(20, PartKind::Model, &weights(7.0)).await).unwrap();
    assert_eq!(job.checkpoint_steps().await.unwrap(), [10]);
    assert_eq!(
        job.newest_checkpoint().await.unwrap().unwrap().global_step,
        10
    );

    let again = write_checkpoint(&job, 20, 8.0, None).await;
    let part = again.part(PartKind::Model).unwrap();
    assert_ne!(part.path, left.path);
    assert!(part.path.ends_with("model-00001-of-00001.a2.safetensors"));
    let model = job.load_part(&again, PartKind::Model).await.unwrap();
    assert_eq!(model, weights(8.0));
}

#[tokio::test]
async fn writing_a_checkpoint_again_changes_nothing_and_another_one_is_refused() {
    let test = folder();
    let job = job(&test);
    let first = write_checkpoint(&job, 10, 0.5, None).await;
    let mut again = manifest(&job, 10, &weights(0.5));
    again.created = "later".to_owned();
    again.parts = first.parts.clone();
    job.commit(&again).await.unwrap();
    assert_eq!(job.load_manifest(10).await.unwrap(), first);

    again.weights_sha256 = "other".to_owned();
    let refused = job.commit(&again).await;
    assert!(matches!(refused, Err(StoreError::Exists { .. })));
    assert_eq!(job.load_manifest(10).await.unwrap(), first);
}

#[tokio::test]
async fn a_manifest_that_names_a_part_that_is_not_whole_is_not_written() {
    let test = folder();
    let job = job(&test);
    let model = weights(0.5);
    let part = job
        .write_tensors(10, PartKind::Model, &model)
        .await
        .unwrap();
    let mut manifest = manifest(&job, 10, &model);
    let refused = job.commit(&manifest).await.unwrap_err();
    assert!(refused.to_string().contains("no model"), "{refused}");

    let path = file(&test, &part.path);
    manifest.parts.push(part);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let refused = job.commit(&manifest).await.unwrap_err();
    assert!(refused.to_string().contains("CK-1"), "{refused}");
    fs::remove_file(&path).unwrap();
    let refused = job.commit(&manifest).await.unwrap_err();
    assert!(refused.to_string().contains("CK-1"), "{refused}");
    assert!(job.checkpoint_steps().await.unwrap().is_empty());
}

async fn damage_is_found_and_named(test: TestStore) {
    let job = job(&test);
    let manifest = write_checkpoint(&job, 10, 0.5, None).await;
    let model = manifest.part(PartKind::Model).unwrap();
    let path = file(&test, &model.path);
    let good = fs::read(&path).unwrap();

    fs::write(&path, &good[..good.len() - 3]).unwrap();
    let error = job.load_part(&manifest, PartKind::Model).await.unwrap_err();
    assert!(matches!(error, StoreError::Truncated { .. }), "{error}");
    assert!(error.to_string().contains(&model.path), "{error}");

    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&path, &flipped).unwrap();
    let error = job.load_part(&manifest, PartKind::Model).await.unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, StoreError::Damaged { .. }), "{said}");
    let hashes = [model.sha256.as_str(), &tensors::sha256(&flipped)];
    assert!(hashes.iter().all(|hash| said.contains(hash)), "{said}");

    fs::remove_file(&path).unwrap();
    let error = job.load_part(&manifest, PartKind::Model).await.unwrap_err();
    assert!(matches!(error, StoreError::MissingPart { .. }), "{error}");

    let optimizer = manifest.part(PartKind::Optimizer).unwrap();
    fs::write(file(&test, &optimizer.path), "short").unwrap();
    let problems = job.verify_checkpoint(10).await.unwrap();
    assert!(matches!(problems[0], StoreError::MissingPart { .. }));
    assert!(matches!(problems[1], StoreError::Truncated { .. }));
}

#[tokio::test]
async fn damage_in_a_folder_is_found_and_named() {
    damage_is_found_and_named(folder()).await;
}

#[tokio::test]
async fn damage_in_a_bucket_is_found_and_named() {
    damage_is_found_and_named(s3().await).await;
}

#[tokio::test]
async fn weights_that_are_not_the_manifests_are_found() {
    let test = folder();
    let job = job(&test);
    let mut manifest = manifest(&job, 10, &weights(0.5));
    let other = job.write_tensors(10, PartKind::Model, &weights(0.75)).await;
    manifest.parts.push(other.unwrap());
    job.commit(&manifest).await.unwrap();
    assert_eq!(job.verify_checkpoint(10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_part_whose_path_cannot_be_is_one_problem_among_others() {
    let test = folder();
    let job = job(&test);
    write_checkpoint(&job, 10, 0.5, None).await;
    let path = file(&test, "checkpoints/000000000010/MANIFEST.json");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, good.replace("/model-00001", "/../model-00001")).unwrap();
    let problems = job.verify_checkpoint(10).await.unwrap();
    assert!(matches!(problems[..], [StoreError::Malformed { .. }]));
}

#[tokio::test]
async fn a_broken_newest_manifest_is_an_error_and_the_older_ones_still_load() {
    let test = folder();
    let job = job(&test);
    write_checkpoint(&job, 10, 0.5, None).await;
    write_checkpoint(&job, 20, 0.25, None).await;
    let path = file(&test, "checkpoints/000000000020/MANIFEST.json");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    let error = job.newest_checkpoint().await.unwrap_err().to_string();
    assert!(error.contains("000000000020/MANIFEST.json"), "{error}");
    assert!(job.load_manifest(10).await.is_ok());

    fs::write(
        &path,
        good.replace("\"format_version\": 1", "\"format_version\": 2"),
    )
    .unwrap();
    let error = job.newest_checkpoint().await.unwrap_err().to_string();
    assert!(error.contains("format `2`"), "{error}");
}

#[tokio::test]
async fn retention_removes_only_what_no_manifest_names() {
    let test = s3().await;
    let job = job(&test);
    let mut shared = None;
    for (step, metric) in [(10, 0.9), (20, 0.5), (30, 0.6), (40, 0.7)] {
        let written = write_checkpoint(&job, step, step as f32, Some(metric)).await;
        if step == 20 {
            shared = written.part(PartKind::Model).cloned();
        }
    }
    let shared = shared.unwrap();
    let mut borrower = manifest(&job, 50, &weights(20.0));
    borrower.parts.push(shared);
    job.commit(&borrower).await.unwrap();

    let retention = Retention {
        keep_last: 2,
        keep_best: 1,
        keep_every: 0,
    };
    assert_eq!(job.retain(&retention).await.unwrap(), [20, 30]);
    assert_eq!(job.checkpoint_steps().await.unwrap(), [10, 40, 50]);
    for step in [10, 40, 50] {
        assert!(job.verify_checkpoint(step).await.unwrap().is_empty());
    }
    let left = test
        .store
        .list("seedlings/checkpoints/000000000020")
        .await
        .unwrap();
    assert_eq!(left.len(), 1);
    let gone = test
        .store
        .list("seedlings/checkpoints/000000000030")
        .await
        .unwrap();
    assert!(gone.is_empty());
    assert!(job.retain(&retention).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_newer_than_asked_for_is_neither_the_newest_nor_counted_nor_removed() {
    let test = folder();
    let job = job(&test);
    for step in [10, 20, 30, 40] {
        write_checkpoint(&job, step, step as f32, None).await;
    }
    let newest = job.newest_checkpoint_up_to(29).await.unwrap().unwrap();
    assert_eq!(newest.global_step, 20);
    assert_eq!(job.newest_checkpoint_up_to(9).await.unwrap(), None);
    let retention = Retention {
        keep_last: 1,
        keep_best: 0,
        keep_every: 0,
    };
    assert_eq!(job.retain_up_to(20, &retention).await.unwrap(), [10]);
    assert_eq!(job.checkpoint_steps().await.unwrap(), [20, 30, 40]);
}

#[tokio::test]
async fn leftovers_of_killed_attempts_can_be_removed() {
    let test = folder();
    let job = job(&test);
    (job.write_tensors(5, PartKind::Model, &weights(1.0)).await).unwrap();
    write_checkpoint(&job, 10, 0.5, None).await;
    (job.write_tensors(20, PartKind::Model, &weights(2.0)).await).unwrap();
    job.remove_unfinished(10).await.unwrap();
    let list = test.store.list("seedlings/checkpoints").await.unwrap();
    let of = |step: &str| list.iter().filter(|o| o.path.contains(step)).count();
    assert_eq!(
        [
            of("/000000000005/"),
            of("/000000000010/"),
            of("/000000000020/")
        ],
        [0, 3, 1]
    );
}

#[tokio::test]
async fn retention_keeps_the_newest_the_best_and_every_kth() {
    let test = folder();
    let job = job(&test);
    for (step, metric) in [
        (1, None),
        (2, Some(0.8)),
        (3, Some(0.8)),
        (4, Some(f64::NAN)),
        (5, None),
        (6, None),
    ] {
        write_checkpoint(&job, step, 0.5, metric).await;
    }
    let infos = job.checkpoints().await.unwrap();
    let deleted = |keep_last, keep_best, keep_every| {
        select(
            &infos,
            &Retention {
                keep_last,
                keep_best,
                keep_every,
            },
        )
    };
    assert_eq!(deleted(2, 1, 0), [1, 2, 4]);
    assert_eq!(deleted(1, 2, 0), [1, 4, 5]);
    assert_eq!(deleted(0, 0, 0), [1, 2, 3, 4, 5]);
    assert_eq!(deleted(1, 0, 2), [1, 3, 5]);
    assert_eq!(deleted(10, 0, 0), [0u64; 0]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_tensor_files_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(tensors::decode(&bytes).is_err() || bytes.len() >= 8);
    }

    #[test]
    fn a_tensor_file_with_a_changed_header_never_panics(at in 0usize..200, to in any::<u8>()) {
        let mut bytes = tensors::encode(&weights(0.5)).unwrap().to_vec();
        let at = at % bytes.len();
        bytes[at] = to;
        if let Ok(read) = tensors::decode(&bytes) {
            prop_assert!(read.len() <= 2);
        }
    }
}

#[test]
fn a_header_that_claims_more_than_there_is_is_an_error() {
    for header in [
        r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
        r#"{"a":{"dtype":"F16","shape":[4],"data_offsets":[0,8]}}"#,
    ] {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 8]);
        assert!(tensors::decode(&bytes).is_err(), "{header}");
    }
    assert!(tensors::decode(&u64::MAX.to_le_bytes()).is_err());
}

#[test]
fn the_hash_of_weights_is_the_one_that_is_documented() {
    let empty = NamedTensors::new();
    let of_nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(tensors::weights_sha256(&empty), of_nothing);
    let mut bytes = b"head.weight\0".to_vec();
    for dimension in [2u64, 3] {
        bytes.extend(dimension.to_le_bytes());
    }
    for value in [0.5, 1.0, -2.5, 0.0, f32::MIN_POSITIVE, 4.0] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(b"norm.num_batches_tracked\0");
    bytes.extend(12f32.to_le_bytes());
    assert_eq!(
        tensors::weights_sha256(&weights(0.5)),
        tensors::sha256(&bytes)
    );
}

#[tokio::test]
async fn weights_to_evaluate_are_found_by_their_hash_and_by_no_path() {
    let test = folder();
    let job = job(&test);
    let (hash, other) = ("0f".repeat(32), "1f".repeat(32));
    job.create_weights(&hash, "weights").await.unwrap();
    job.create_weights(&hash, "the same tensors, told otherwise")
        .await
        .unwrap();
    assert_eq!(job.weights(&hash).await.unwrap(), "weights");
    let missing = job.weights(&other).await;
    assert!(matches!(missing, Err(StoreError::Missing { .. })));
    for path in ["../spec", "a/b", "..%2f"] {
        let refused = job.weights(path).await;
        assert!(matches!(refused, Err(StoreError::Malformed { .. })));
        let refused = job.create_weights(path, "weights").await;
        assert!(matches!(refused, Err(StoreError::Malformed { .. })));
    }
}
