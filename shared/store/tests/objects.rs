//! Objects, the log and what is said when a store cannot be used.

mod support;

use std::time::{Duration, Instant};

use perennial_plan::Spec;
use perennial_store::{Store, StoreError};
use serde::{Deserialize, Serialize};
use support::{TestStore, folder, s3, serve_s3, variables};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    coordinator: String,
    text: String,
}

fn entry(coordinator: &str) -> Entry {
    Entry {
        coordinator: coordinator.to_owned(),
        text: "generation".to_owned(),
    }
}

async fn objects_are_created_once_listed_and_deleted(test: TestStore) {
    let store = &test.store;
    store.check().await.unwrap();
    store.check_write().await.unwrap();
    assert!(store.list("").await.unwrap().is_empty());

    store.create("a/b/one", "first").await.unwrap();
    let second = store.create("a/b/one", "second").await;
    assert!(matches!(second, Err(StoreError::Exists { .. })));
    assert_eq!(store.read("a/b/one").await.unwrap(), "first");
    store.create("a/c/two", "").await.unwrap();
    store
        .create_or_same("a/b/one", "first".into())
        .await
        .unwrap();

    let listed = store.list("a").await.unwrap();
    let paths: Vec<(&str, u64)> = listed.iter().map(|o| (o.path.as_str(), o.bytes)).collect();
    assert_eq!(paths, [("a/b/one", 5), ("a/c/two", 0)]);
    assert_eq!(store.folders("a").await.unwrap(), ["b", "c"]);
    assert_eq!(store.size("a/b/one").await.unwrap(), Some(5));
    assert_eq!(store.size("a/b/none").await.unwrap(), None);
    assert!(matches!(
        store.read("none").await,
        Err(StoreError::Missing { .. })
    ));
    store.delete("a/b/one").await.unwrap();
    store.delete("a/b/one").await.unwrap();
    assert_eq!(store.size("a/b/one").await.unwrap(), None);
}

#[tokio::test]
async fn a_folder_creates_each_object_once() {
    objects_are_created_once_listed_and_deleted(folder()).await;
}

#[tokio::test]
async fn a_bucket_creates_each_object_once() {
    objects_are_created_once_listed_and_deleted(s3().await).await;
}

#[tokio::test]
async fn ranges_are_read_as_a_whole_or_not_at_all() {
    for test in [folder(), s3().await] {
        let store = &test.store;
        store.create("a/object", "0123456789").await.unwrap();
        for (range, expected) in [
            (0..10, "0123456789"),
            (3..5, "34"),
            (9..10, "9"),
            (4..4, ""),
        ] {
            assert_eq!(store.read_range("a/object", range).await.unwrap(), expected);
        }
        for range in [5..11, 9..12, 10..11, 20..30, 0..u64::MAX] {
            let error = store.read_range("a/object", range).await.unwrap_err();
            assert!(matches!(error, StoreError::Malformed { .. }), "{error}");
            let said = error.to_string();
            assert!(
                said.contains("`a/object`") && said.contains("10 bytes"),
                "{said}"
            );
        }
        let missing = store.read_range("a/none", 0..1).await;
        assert!(matches!(missing, Err(StoreError::Missing { .. })));
    }
}

#[tokio::test]
async fn a_path_that_leaves_the_store_is_refused() {
    let test = folder();
    for path in ["../out", "a/../../out", "a//b", "/etc/passwd"] {
        let created = test.store.create(path, "x").await;
        let inside = test.files.join(path.trim_start_matches('/'));
        assert!(created.is_err() || inside.exists(), "{path}");
    }
    assert!(!test.files.parent().unwrap().join("out").exists());
    assert!(test.store.job("../job").is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_coordinators_exactly_one_gets_a_log_position() {
    let test = folder();
    let job = test.store.job("seedlings").unwrap();
    for seq in 0..30 {
        let [one, two] = ["one", "two"].map(|name| {
            let job = job.clone();
            tokio::spawn(async move { job.append_log(seq, &entry(name)).await })
        });
        let (one, two) = (one.await.unwrap(), two.await.unwrap());
        let (winner, loser) = if one.is_ok() {
            ("one", two)
        } else {
            two.unwrap();
            ("two", one)
        };
        assert!(matches!(loser, Err(StoreError::LogRaceLost { seq: lost }) if lost == seq));
        let log: Vec<Entry> = job.read_log(seq).await.unwrap();
        assert_eq!(log, [entry(winner)]);
    }
    assert_eq!(job.read_log::<Entry>(0).await.unwrap().len(), 30);
}

#[tokio::test]
async fn a_log_with_a_gap_is_a_loud_stop() {
    let test = folder();
    let job = test.store.job("seedlings").unwrap();
    for seq in 0..3 {
        job.append_log(seq, &entry("one")).await.unwrap();
    }
    let beyond = job.append_log(4, &entry("one")).await.unwrap_err();
    assert!(beyond.to_string().contains("LOG-1"), "{beyond}");
    test.store
        .delete("seedlings/log/00000001.json")
        .await
        .unwrap();
    let error = job.read_log::<Entry>(0).await.unwrap_err();
    assert!(error.to_string().contains("LOG-1"), "{error}");
}

#[tokio::test]
async fn an_entry_whose_answer_was_lost_can_be_appended_again() {
    let test = s3().await;
    let job = test.store.job("seedlings").unwrap();
    job.append_log(0, &entry("one")).await.unwrap();
    job.append_log(0, &entry("one")).await.unwrap();
    let other = job.append_log(0, &entry("two")).await;
    assert!(matches!(other, Err(StoreError::LogRaceLost { seq: 0 })));
}

#[tokio::test]
async fn a_job_has_one_spec() {
    let test = folder();
    let job = test.store.job("seedlings").unwrap();
    assert_eq!(job.spec().await.unwrap(), None);
    let spec = Spec::default();
    job.create_spec(&spec).await.unwrap();
    job.create_spec(&spec).await.unwrap();
    let other = Spec {
        seed: 7,
        ..spec.clone()
    };
    let refused = job.create_spec(&other).await;
    assert!(matches!(refused, Err(StoreError::Exists { .. })));
    assert_eq!(job.spec().await.unwrap(), Some(spec));
    assert_eq!(test.store.jobs().await.unwrap(), ["seedlings"]);
}

#[tokio::test]
async fn reports_are_found_by_their_step() {
    let test = s3().await;
    let job = test.store.job("seedlings").unwrap();
    job.create_report(20, "json", "{}").await.unwrap();
    job.create_report(3, "txt", "fine").await.unwrap();
    assert_eq!(job.report_steps().await.unwrap(), [3, 20]);
    assert_eq!(job.report(3, "txt").await.unwrap(), "fine");
}

#[tokio::test]
async fn a_wrong_key_is_refused_at_once_and_named() {
    let (endpoint, _folder) = serve_s3().await;
    let store = Store::open_with("s3://bucket", &variables(&endpoint, "wrong")).unwrap();
    let start = Instant::now();
    let error = store.check().await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    let expected = "store `s3://bucket` refuses access: SignatureDoesNotMatch; check the keys and their permissions";
    assert_eq!(error.to_string(), expected);
    assert!(start.elapsed() < Duration::from_secs(3));
    let error = store.create("a", "x").await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_named() {
    let (endpoint, _folder) = serve_s3().await;
    let store = Store::open_with("s3://absent/x", &variables(&endpoint, "secret")).unwrap();
    let error = store.check().await.unwrap_err();
    let expected = format!("bucket `absent` does not exist at `{endpoint}`; create it first");
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_in_time() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", port.local_addr().unwrap());
    drop(port);
    let store = Store::open_with("s3://bucket", &variables(&endpoint, "secret")).unwrap();
    let start = Instant::now();
    let error = store.check().await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&endpoint), "{error}");
    assert!(start.elapsed() < Duration::from_secs(15));
}

#[test]
fn an_address_that_is_no_store_is_refused() {
    for url in ["", "gs://bucket", "s3://", "s3:///prefix"] {
        let error = Store::open(url).unwrap_err();
        assert!(matches!(error, StoreError::Url { .. }), "{error}");
    }
}

#[test]
fn a_server_without_keys_says_which_variables_to_set() {
    let mut variables = variables("http://127.0.0.1:9000", "secret");
    variables.remove("AWS_SECRET_ACCESS_KEY");
    let error = Store::open_with("s3://bucket", &variables).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        "{error}"
    );
}

#[test]
fn keys_in_an_address_are_refused_and_not_told() {
    for url in [
        "s3://KEY:MARKED@bucket/prefix",
        "s3://MARKED@bucket",
        "file://MARKED@x",
    ] {
        let refused = Store::open(url).unwrap_err().to_string();
        assert!(!refused.contains("MARKED"), "{refused}");
        assert!(refused.contains("AWS_SECRET_ACCESS_KEY"), "{refused}");
    }
}
