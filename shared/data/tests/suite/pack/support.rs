//! Folders to pack, and stores to pack them into.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use perennial_data::pack::{Pack, Packed, Packing, pack_into};
use perennial_data::{DataError, DataSet};
use perennial_plan::spec::DataSpec;
use perennial_store::{RetryBudget, Store};
use tempfile::TempDir;

use crate::support::picture_folder;

/// Room for about ten of the pictures here.
pub const SMALL_SHARD: u64 = 60_000;

/// A store and where its objects are as files.
pub struct Place {
    url: String,
    variables: BTreeMap<String, String>,
    pub files: PathBuf,
    _folder: TempDir,
    _server: Option<tokio::runtime::Runtime>,
}

impl Place {
    pub fn folder() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = folder.path().join("pack");
        Self {
            url: files.to_str().unwrap().to_string(),
            variables: BTreeMap::new(),
            files,
            _folder: folder,
            _server: None,
        }
    }

    /// An S3 server in this process.
    pub fn s3() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bucket")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let files = s3s_fs::FileSystem::new(folder.path()).unwrap();
        let mut service = s3s::service::S3ServiceBuilder::new(files);
        service.set_auth(s3s::auth::SimpleAuth::from_single("key", "secret"));
        let service = service.build();
        let listening = tokio::net::TcpListener::bind("127.0.0.1:0");
        let listener = runtime.block_on(listening).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let server = hyper_util::server::conn::auto::Builder::new(
                        hyper_util::rt::TokioExecutor::new(),
                    );
                    let socket = hyper_util::rt::TokioIo::new(socket);
                    // A client that hangs up is no concern of the server.
                    let _ = server.serve_connection(socket, service).await;
                });
            }
        });
        let variables: BTreeMap<String, String> = [
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_REGION", "us-east-1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        Self {
            url: "s3://bucket/a/pack".to_string(),
            variables,
            files: folder.path().join("bucket/a/pack"),
            _folder: folder,
            _server: Some(runtime),
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// A store of its own for everybody, as for processes: its connections end with their runtime.
    pub fn store(&self) -> Store {
        Store::open_with(&self.url, &self.variables).unwrap()
    }

    pub fn pack(&self, dir: &Path, shard_bytes: u64) -> Result<Packed, DataError> {
        pack_into(&packing(dir, shard_bytes), self.store(), |_| {})
    }

    /// The pack as `spec` wants it.
    pub fn open(&self, spec: &DataSpec) -> Result<DataSet, DataError> {
        let pack = Pack::read(&self.url, self.store())?;
        DataSet::of_pack(pack, spec)
    }

    /// Its objects but those that a server keeps for itself, by name.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let files = fs::read_dir(&self.files).unwrap();
        let files = files
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file());
        files
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap();
                (name.to_string(), fs::read(&path).unwrap())
            })
            .filter(|(name, _)| !name.starts_with('.'))
            .collect()
    }
}

pub fn packing(dir: &Path, shard_bytes: u64) -> Packing {
    Packing {
        data: spec(dir),
        shard_bytes,
    }
}

pub fn spec(dir: &Path) -> DataSpec {
    DataSpec {
        dir: dir.to_str().unwrap().to_string(),
        image_size: 32,
        ..DataSpec::default()
    }
}

/// Three classes of ten pictures each. A class and its files sort otherwise as names than as paths.
pub fn pictures() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    picture_folder(dir.path(), &["a", "a-b", "c.d"], 10);
    fs::create_dir(dir.path().join("empty")).unwrap();
    let dotted = dir.path().join("a/a.picture.with.dots.PNG");
    fs::copy(dir.path().join("a/000.png"), dotted).unwrap();
    dir
}

/// Tries often, without long pauses.
pub fn hasty() -> RetryBudget {
    RetryBudget {
        total: Duration::from_secs(20),
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(10),
        ..RetryBudget::default()
    }
}

/// Tries once.
pub fn impatient() -> RetryBudget {
    RetryBudget {
        total: Duration::ZERO,
        ..RetryBudget::default()
    }
}
