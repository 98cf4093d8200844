//! Stores to test with: a folder that goes away, and an S3 server in this process.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod proxy;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use perennial_plan::{Cursor, Spec};
use perennial_store::tensors::weights_sha256;
use perennial_store::{
    FORMAT_VERSION, HostTensor, Job, Manifest, NamedTensors, PartKind, RetryBudget, Store,
};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// A store and where its objects are as files.
pub struct TestStore {
    pub store: Store,
    pub files: PathBuf,
    _folder: TempDir,
}

pub fn folder() -> TestStore {
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("new/store");
    TestStore {
        store: Store::open(files.to_str().unwrap()).unwrap(),
        files,
        _folder: folder,
    }
}

/// An S3 server with the bucket `bucket` and one key; its address and its folder.
pub async fn serve_s3() -> (String, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("bucket")).unwrap();
    let files = s3s_fs::FileSystem::new(folder.path()).unwrap();
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single("key", "secret"));
    let service = service.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let server = Builder::new(TokioExecutor::new());
                let served = server.serve_connection(TokioIo::new(socket), service);
                // A client that hangs up is no concern of the server.
                let _ = served.await;
            });
        }
    });
    (endpoint, folder)
}

pub fn variables(endpoint: &str, secret: &str) -> BTreeMap<String, String> {
    [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", secret),
        ("AWS_REGION", "us-east-1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

pub async fn s3() -> TestStore {
    let (endpoint, folder) = serve_s3().await;
    let variables = variables(&endpoint, "secret");
    TestStore {
        store: Store::open_with("s3://bucket/some/prefix", &variables).unwrap(),
        files: folder.path().join("bucket/some/prefix"),
        _folder: folder,
    }
}

pub fn weights(value: f32) -> NamedTensors {
    [
        (
            "head.weight".to_owned(),
            HostTensor::f32([2, 3], vec![value, 1.0, -2.5, 0.0, f32::MIN_POSITIVE, 4.0]),
        ),
        (
            "norm.num_batches_tracked".to_owned(),
            HostTensor::i64([], vec![12]),
        ),
    ]
    .into()
}

pub fn manifest(job: &Job, step: u64, model: &NamedTensors) -> Manifest {
    Manifest {
        format_version: FORMAT_VERSION,
        job: job.name().to_owned(),
        global_step: step,
        cursor: Cursor {
            epoch: 1,
            step: step as u32,
        },
        created: "2026-11-24T07:00:00Z".to_owned(),
        spec: Spec::default(),
        spec_identity: Spec::default().identity_hash(),
        data_fingerprint: "data".to_owned(),
        numerics: "cpu".to_owned(),
        version: "0.1.0".to_owned(),
        parts: Vec::new(),
        weights_sha256: weights_sha256(model),
        ema_sha256: None,
        history: serde_json::json!([{"epoch": 0, "loss": 0.1}]),
        progress: serde_json::Value::Null,
        metric: None,
        generation: 3,
        ledger_head: None,
    }
}

/// Writes a checkpoint with a model and an optimizer.
pub async fn write_checkpoint(job: &Job, step: u64, value: f32, metric: Option<f64>) -> Manifest {
    let model = weights(value);
    let mut manifest = manifest(job, step, &model);
    manifest.metric = metric;
    for kind in [PartKind::Model, PartKind::Optimizer] {
        let part = job.write_tensors(step, kind, &model).await.unwrap();
        manifest.parts.push(part);
    }
    job.commit(&manifest).await.unwrap();
    manifest
}

/// A log entry that names its writer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub writer: String,
    pub seq: u64,
}

pub fn entry(seq: u64) -> Entry {
    Entry {
        writer: "one".to_owned(),
        seq,
    }
}

/// Tries once.
pub fn impatient() -> RetryBudget {
    RetryBudget {
        total: Duration::ZERO,
        ..RetryBudget::default()
    }
}

/// Tries often, without long pauses.
pub fn hasty() -> RetryBudget {
    RetryBudget {
        total: Duration::from_millis(900),
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(10),
        ..RetryBudget::default()
    }
}
