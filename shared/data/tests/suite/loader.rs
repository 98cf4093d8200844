use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use perennial_data::{DataError, DataSet, Images, Pipeline, Prefetcher, Request, Side, SlotBatch};
use perennial_plan::Spec;

use crate::support::picture_folder;

fn spec(dir: &Path) -> Spec {
    let mut spec = Spec::default();
    spec.data.dir = dir.to_str().unwrap().to_string();
    spec.data.image_size = 32;
    spec.augment.vertical_flip = 0.5;
    spec.augment.cutout = 0.5;
    spec.mix.mixup_alpha = 0.8;
    spec.mix.cutmix_alpha = 1.0;
    spec
}

fn requests(epochs: u32) -> Vec<Request> {
    let train = (0..epochs).flat_map(|epoch| {
        (0..6u32).map(move |slot| Request::Train {
            epoch,
            global_step: u64::from(epoch),
            slot,
            samples: (0..slot).map(|i| (slot * 5 + i * 3 + epoch) % 20).collect(),
        })
    });
    let eval = Request::Eval {
        side: Side::Val,
        samples: vec![0, 5, 2],
    };
    train.chain([eval]).collect()
}

fn batches(pipeline: Pipeline, threads: usize, look_ahead: usize) -> Vec<SlotBatch> {
    Arc::new(pipeline)
        .prefetch(threads, look_ahead, requests(3).into_iter())
        .map(Result::unwrap)
        .collect()
}

#[test]
fn batches_depend_neither_on_threads_nor_on_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    picture_folder(dir.path(), &["a", "b", "c"], 10);
    for crop_scale in [None, Some([0.3, 1.0])] {
        let mut spec = spec(dir.path());
        spec.augment.crop_scale = crop_scale;
        let open = |cache_mib| {
            let mut spec = spec.clone();
            spec.data.cache_mib = cache_mib;
            Pipeline::open(&spec).unwrap().0
        };
        let kept = open(64);
        assert!(kept.cached_bytes() > 0);
        let expected = batches(kept, 1, 1);
        assert_eq!(expected.len(), 19);
        assert_eq!(batches(open(64), 4, 7), expected);
        let nothing_kept = open(0);
        assert_eq!(nothing_kept.cached_bytes(), 0);
        assert_eq!(batches(nothing_kept, 3, 2), expected);
        let lazily = Pipeline::new(DataSet::open(&spec.data).unwrap(), &spec);
        assert_eq!(batches(lazily, 2, 3), expected);
    }
}

#[test]
fn a_batch_has_the_shapes_it_promises() {
    let dir = tempfile::tempdir().unwrap();
    picture_folder(dir.path(), &["a", "b", "c"], 10);
    let (pipeline, skipped) = Pipeline::open(&spec(dir.path())).unwrap();
    assert!(skipped.is_empty());
    let batch = pipeline.train_slot(0, 0, 0, &[3, 1, 4, 1, 5]).unwrap();
    let Images::Ready(images) = batch.images else {
        panic!("the pipeline was not asked for raw pictures");
    };
    assert_eq!(images.len(), 5 * 32 * 32 * 3);
    assert_eq!((batch.targets.len(), batch.labels.len()), (15, 5));
    assert_eq!(
        pipeline.train_slot(0, 0, 0, &[]).unwrap(),
        SlotBatch::default()
    );
    let batch = pipeline.eval_batch(Side::Val, &[0]).unwrap();
    let class = pipeline.data().val[0].class as usize;
    assert_eq!(batch.targets[class], 1.0);
    assert_eq!(batch.targets.iter().sum::<f32>(), 1.0);
}

#[test]
fn the_slot_and_the_step_decide_the_mixing_and_the_epoch_the_augmentation() {
    let dir = tempfile::tempdir().unwrap();
    picture_folder(dir.path(), &["a", "b"], 10);
    let (pipeline, _) = Pipeline::open(&spec(dir.path())).unwrap();
    let slot = |epoch, step, slot| pipeline.train_slot(epoch, step, slot, &[0, 13]).unwrap();
    assert_eq!(slot(1, 2, 3), slot(1, 2, 3));
    assert_ne!(slot(1, 2, 3).targets, slot(1, 2, 4).targets);
    assert_ne!(slot(1, 2, 3).targets, slot(1, 3, 3).targets);
    assert_eq!(slot(1, 2, 3).targets, slot(2, 2, 3).targets);
    assert_ne!(slot(1, 2, 3).images, slot(2, 2, 3).images);
}

#[test]
fn the_cache_stays_within_its_budget() {
    let dir = tempfile::tempdir().unwrap();
    picture_folder(dir.path(), &["a", "b"], 10);
    let mut spec = spec(dir.path());
    spec.data.image_size = 224;
    spec.data.cache_mib = 1;
    let (pipeline, _) = Pipeline::open(&spec).unwrap();
    let picture = 224 * 224 * 3;
    assert_eq!(pipeline.cached_bytes(), (1 << 20) / picture * picture);
}

#[test]
fn an_error_comes_in_its_place_and_the_rest_follows() {
    let dir = tempfile::tempdir().unwrap();
    picture_folder(dir.path(), &["a", "b"], 10);
    let spec = spec(dir.path());
    let data = DataSet::open(&spec.data).unwrap();
    let lost = data.path(&data.train[2]);
    std::fs::remove_file(&lost).unwrap();
    let pipeline = Arc::new(Pipeline::new(data, &spec));
    let requests = (0..6).map(|sample| Request::Train {
        epoch: 0,
        global_step: 0,
        slot: 0,
        samples: vec![sample],
    });
    let results: Vec<_> = pipeline.prefetch(3, 4, requests).collect();
    assert_eq!(results.len(), 6);
    for (place, result) in results.iter().enumerate() {
        match result {
            Ok(batch) => assert_eq!(batch.labels, [pipeline.data().train[place].class]),
            Err(DataError::Picture { path, .. }) => {
                assert_eq!((place, path), (2, &lost));
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(results[2].is_err());
}

#[test]
fn a_prefetcher_looks_ahead_no_further_than_allowed_and_stops_when_dropped() {
    let started = Arc::new(AtomicUsize::new(0));
    let count = started.clone();
    let mut results = Prefetcher::new(3, 4, 0.., move |request: usize| {
        count.fetch_add(1, Ordering::SeqCst);
        request
    });
    for expected in 0..100 {
        assert_eq!(results.next(), Some(expected));
        assert!(started.load(Ordering::SeqCst) <= expected + 1 + 4);
    }
    drop(results);
    let at_drop = started.load(Ordering::SeqCst);
    assert!(at_drop <= 104);
}

#[test]
#[should_panic(expected = "a loader thread panicked")]
fn a_panic_in_a_thread_reaches_the_one_who_waits() {
    let results = Prefetcher::new(2, 2, 0..10, |request: u32| {
        assert_ne!(request, 5);
        request
    });
    assert_eq!(results.count(), 10);
}
