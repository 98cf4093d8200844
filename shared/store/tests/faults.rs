//! Stores that fail: what is injected, what is tried again, and what is said in the end.

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::time::{Duration, SystemTime};

use perennial_store::{
    FAULTS_VARIABLE, FaultCounts, FaultKind, Faults, PartKind, Store, StoreError,
};
use support::proxy::{Trick, tricked_s3};
use support::{entry, folder, hasty, impatient, weights, write_checkpoint};

fn only(kind: FaultKind, rate: f64, seed: u64) -> Faults {
    Faults {
        seed,
        rate,
        only: vec![kind],
        ..Faults::default()
    }
}

#[test]
fn faults_are_read_from_one_line() {
    let text = "seed=7,rate=0.2,slow=2s,list-delay=300ms,only=timeout+lost-answer,while-file=/tmp/on,count-file=/tmp/a=b";
    let faults: Faults = text.parse().unwrap();
    let expected = Faults {
        seed: 7,
        rate: 0.2,
        slow: Duration::from_secs(2),
        list_delay: Duration::from_millis(300),
        only: vec![FaultKind::Timeout, FaultKind::LostAnswer],
        while_file: Some("/tmp/on".into()),
        count_file: Some("/tmp/a=b".into()),
    };
    assert_eq!(faults, expected);
}

#[test]
fn faults_that_make_no_sense_are_refused_with_the_reason() {
    for (text, said) in [
        ("", "`` is not KEY=VALUE"),
        ("rate", "`rate` is not KEY=VALUE"),
        ("seed=-1", "`seed` must be a whole number, not `-1`"),
        ("rate=1.5", "`rate` must be between 0 and 1, not `1.5`"),
        ("rate=NaN", "`rate` must be between 0 and 1, not `NaN`"),
        (
            "slow=2",
            "`slow` must be a time such as `2s` or `300ms`, not `2`",
        ),
        ("list-delay=-1s", "`list-delay` must be a time such as"),
        (
            "only=timeout+fire",
            "`only` must be of timeout+unavailable+",
        ),
        ("rat=1", "`rat` is unknown; there are seed, rate,"),
    ] {
        let error = text.parse::<Faults>().unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        let named = format!("`{FAULTS_VARIABLE}={text}`: ");
        assert!(error.starts_with(&named), "{error}");
    }
}

#[tokio::test]
async fn the_same_seed_meets_the_same_faults() {
    let run = async |seed| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("counts");
        let faults = Faults {
            seed,
            rate: 0.5,
            count_file: Some(file.clone()),
            ..Faults::default()
        };
        let store = Store::in_memory()
            .with_faults(faults)
            .with_retry(impatient());
        for number in 0..40 {
            let path = format!("a/{number}");
            let _ = store.create(&path, "x").await;
            let _ = store.read(&path).await;
            let _ = store.list("a").await;
            let _ = store.delete(&path).await;
        }
        std::fs::read_to_string(file).unwrap()
    };
    let (first, again, other) = (run(1).await, run(1).await, run(2).await);
    assert_eq!(first, again);
    assert_ne!(first, other);
}

#[tokio::test]
async fn faults_are_switched_on_and_off_by_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let switch = folder.path().join("fails");
    let mut faults = only(FaultKind::Unavailable, 1.0, 0);
    faults.list_delay = Duration::from_secs(3600);
    faults.while_file = Some(switch.clone());
    let store = Store::in_memory()
        .with_faults(faults)
        .with_retry(impatient());
    let works = async |path: &str| store.create(path, "x").await.is_ok();
    assert!(works("before").await);
    assert_eq!(store.list("").await.unwrap().len(), 1);
    std::fs::write(&switch, "").unwrap();
    assert!(!works("meanwhile").await);
    std::fs::remove_file(&switch).unwrap();
    assert!(works("after").await);
    assert!(store.faults().unwrap().total() > 0);
}

#[tokio::test]
async fn each_fault_does_what_its_name_says_and_is_counted() {
    for kind in FaultKind::ALL {
        let sound = Store::in_memory();
        sound.create("there", "some bytes").await.unwrap();
        let mut faults = only(kind, 1.0, 0);
        faults.slow = Duration::from_millis(1);
        if kind == FaultKind::LateListing {
            faults.list_delay = Duration::from_secs(3600);
        }
        let store = sound.clone().with_faults(faults).with_retry(impatient());
        let created = store.create("new", "x").await.is_ok();
        let read = store.read("there").await.ok();
        let listed = store.list("").await.map(|objects| objects.len()).ok();
        let found = sound.size("new").await.unwrap().is_some();
        let (created_ok, read_ok, listed_as, is_there) = match kind {
            FaultKind::Timeout | FaultKind::Unavailable | FaultKind::Throttled => {
                (false, false, None, false)
            }
            FaultKind::LostAnswer => (false, true, Some(2), true),
            FaultKind::Slow => (true, true, Some(2), true),
            FaultKind::BrokenBody => (true, false, None, true),
            FaultKind::BrokenUpload => (false, true, Some(1), false),
            FaultKind::LateListing => (true, true, Some(0), true),
        };
        assert_eq!(created, created_ok, "{kind:?}");
        assert_eq!(read.is_some(), read_ok, "{kind:?}");
        assert_eq!(listed, listed_as, "{kind:?}");
        assert_eq!(found, is_there, "{kind:?}");
        let counts = store.faults().unwrap();
        assert!(counts.of(kind) > 0, "{kind:?}");
        assert_eq!(counts.total(), counts.of(kind), "{kind:?}");
    }
}

#[tokio::test]
async fn an_object_whose_creation_went_unanswered_is_its_writers_own() {
    let mut lost = 0;
    for seed in 0..20 {
        let sound = Store::in_memory();
        let faults = only(FaultKind::LostAnswer, 0.5, seed);
        let store = sound.clone().with_faults(faults).with_retry(hasty());
        store.create("own", "mine").await.unwrap();
        assert_eq!(sound.read("own").await.unwrap(), "mine");
        lost += store.faults().unwrap().of(FaultKind::LostAnswer);

        // A writer is not taken for another one, whatever was lost before.
        sound.create("other", "yours").await.unwrap();
        let refused = store.create("other", "mine").await;
        assert!(matches!(refused, Err(StoreError::Exists { .. })));
        assert_eq!(sound.read("other").await.unwrap(), "yours");
    }
    assert!(lost > 5, "{lost}");
}

#[tokio::test]
async fn an_object_that_was_there_before_is_not_the_writers_though_it_is_the_same() {
    let store = Store::in_memory();
    store.create("a", "same").await.unwrap();
    let refused = store.create("a", "same").await;
    assert!(matches!(refused, Err(StoreError::Exists { .. })));
}

#[tokio::test]
async fn a_checkpoint_and_a_report_are_written_once_through_lost_answers() {
    for seed in 0..10 {
        let sound = Store::in_memory();
        let faults = only(FaultKind::LostAnswer, 0.6, seed);
        let store = sound.clone().with_faults(faults).with_retry(hasty());
        let job = store.job("seedlings").unwrap();
        let written = write_checkpoint(&job, 10, 0.5, None).await;
        job.create_report(10, "txt", "fine").await.unwrap();
        let paths: Vec<String> = (sound.list("").await.unwrap().into_iter())
            .map(|object| object.path)
            .collect();
        let folder = "seedlings/checkpoints/000000000010";
        assert_eq!(
            paths,
            [
                format!("{folder}/MANIFEST.json"),
                format!("{folder}/model-00001-of-00001.safetensors"),
                format!("{folder}/optimizer-00001-of-00001.safetensors"),
                "seedlings/reports/000000000010/report.txt".to_owned(),
            ]
        );
        assert_eq!(job.load_manifest(10).await.unwrap(), written);
    }
}

#[tokio::test]
async fn giving_up_says_how_long_and_how_often_it_was_tried() {
    let store = Store::in_memory().with_faults(only(FaultKind::Unavailable, 1.0, 0));
    let store = store.with_retry(hasty());
    let error = store.read("a").await.unwrap_err().to_string();
    let expected = "store `memory` failed at `a`: ServiceUnavailable (injected); tried ";
    assert!(error.starts_with(expected), "{error}");
    assert!(error.contains(" times in 0."), "{error}");
    let tried = store.faults().unwrap().total();
    assert!(error.contains(&format!("tried {tried} times")), "{error}");
    assert!(tried > 2, "{tried}");
}

#[tokio::test]
async fn what_cannot_succeed_is_tried_once() {
    let store = Store::in_memory().with_faults(only(FaultKind::Timeout, 0.0, 0));
    let error = store.read("none").await.unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_an_error_and_no_hang() {
    let mut faults = only(FaultKind::Slow, 1.0, 0);
    faults.slow = Duration::from_secs(24 * 3600);
    let mut patience = hasty();
    patience.answer = Duration::from_millis(20);
    patience.total = Duration::from_millis(50);
    let store = Store::in_memory().with_faults(faults).with_retry(patience);
    let all = async {
        [
            store.create("a", "x").await.map(drop),
            store.read("a").await.map(drop),
            store.size("a").await.map(drop),
            store.list("").await.map(drop),
            store.folders("").await.map(drop),
            store.delete("a").await.map(drop),
        ]
    };
    let deadline = Duration::from_secs(60);
    for result in tokio::time::timeout(deadline, all).await.unwrap() {
        let error = result.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
        let said = error.to_string();
        assert!(said.contains("no answer within 20ms; tried "), "{said}");
    }
}

#[tokio::test]
async fn a_log_is_whole_though_listings_do_not_know_its_end() {
    let late = Faults {
        list_delay: Duration::from_secs(3600),
        ..Faults::default()
    };
    let store = Store::in_memory().with_faults(late);
    let job = store.job("seedlings").unwrap();
    for seq in 0..5 {
        job.append_log(seq, &entry(seq)).await.unwrap();
    }
    assert!(store.list("").await.unwrap().is_empty());
    assert!(store.folders("").await.unwrap().is_empty());
    for from in 0..5 {
        let log: Vec<support::Entry> = job.read_log(from).await.unwrap();
        assert_eq!(log, (from..5).map(entry).collect::<Vec<_>>());
    }
    assert!(job.read_log::<support::Entry>(5).await.unwrap().is_empty());
    assert_eq!(job.log_entry(4).await.unwrap(), Some(entry(4)));
    assert_eq!(job.log_entry::<support::Entry>(5).await.unwrap(), None);
    assert!(store.faults().unwrap().of(FaultKind::LateListing) > 0);
}

#[tokio::test]
async fn a_checkpoint_that_listings_do_not_know_yet_is_no_leftover() {
    let test = folder();
    let late = Faults {
        list_delay: Duration::from_secs(3600),
        ..Faults::default()
    };
    let job = test
        .store
        .clone()
        .with_faults(late)
        .job("seedlings")
        .unwrap();
    let manifest = write_checkpoint(&job, 10, 0.5, None).await;
    assert_eq!(job.newest_checkpoint().await.unwrap(), None);
    // The parts are listed, the manifest is not.
    for part in &manifest.parts {
        let file = test.files.join("seedlings").join(&part.path);
        let file = File::options().write(true).open(file).unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(7200);
        file.set_modified(long_ago).unwrap();
    }
    assert_eq!(job.store().list("").await.unwrap().len(), 2);
    job.remove_unfinished(20).await.unwrap();
    assert!(job.verify_checkpoint(10).await.unwrap().is_empty());
    let model = job.load_part(&manifest, PartKind::Model).await.unwrap();
    assert_eq!(model, weights(0.5));
}

#[tokio::test]
async fn the_faults_of_several_processes_are_counted_in_one_file() {
    let test = folder();
    let counts = test.files.with_file_name("counts");
    assert!(FaultCounts::read_file(&counts).unwrap().is_empty());
    let variables = |seed: u64| {
        let faults = format!("seed={seed},rate=0.5,count-file={}", counts.display());
        BTreeMap::from([(FAULTS_VARIABLE.to_owned(), faults)])
    };
    let url = test.files.to_str().unwrap();
    let mut expected: BTreeMap<FaultKind, u64> = BTreeMap::new();
    for seed in 0..2 {
        let store = Store::open_with(url, &variables(seed)).unwrap();
        let store = store.with_retry(hasty());
        for number in 0..20 {
            let path = format!("{seed}/{number}");
            store.create(&path, "x").await.unwrap();
        }
        for kind in FaultKind::ALL {
            let count = store.faults().unwrap().of(kind);
            *expected.entry(kind).or_default() += count;
        }
    }
    expected.retain(|_, count| *count > 0);
    assert_eq!(FaultCounts::read_file(&counts).unwrap(), expected);
    assert!(expected.values().sum::<u64>() > 10);
    assert_eq!(test.store.list("").await.unwrap().len(), 40);

    let wrong = BTreeMap::from([(FAULTS_VARIABLE.to_owned(), "rate=2".to_owned())]);
    let refused = Store::open_with(url, &wrong).unwrap_err();
    assert!(matches!(refused, StoreError::Faults { .. }), "{refused}");
}

#[tokio::test]
async fn a_bucket_that_fails_for_a_while_is_asked_again() {
    let busy = "503 Service Unavailable\r\n\r\n<Error><Code>SlowDown</Code></Error>";
    let conflict = "409 Conflict\r\n\r\n<Error><Code>ConditionalRequestConflict</Code></Error>";
    for trick in [
        Trick::Answer(busy),
        Trick::Answer(conflict),
        Trick::LoseAnswer,
    ] {
        let test = tricked_s3(trick, 2).await;
        let store = test.store.clone().with_retry(hasty());
        store.create("a", "mine").await.unwrap();
        assert_eq!(store.read("a").await.unwrap(), "mine");
        let again = store.create("a", "mine").await;
        assert!(matches!(again, Err(StoreError::Exists { .. })), "{trick:?}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_read_again() {
    let test = tricked_s3(Trick::BreakOff, 0).await;
    let store = test.store.clone().with_retry(hasty());
    let bytes = vec![7; 100_000];
    store.create("a", bytes.clone()).await.unwrap();
    test.tricks.store(2, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(store.read("a").await.unwrap(), bytes);
    assert_eq!(test.tricks.load(std::sync::atomic::Ordering::Relaxed), 0);
}
