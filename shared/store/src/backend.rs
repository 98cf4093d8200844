//! A folder or a bucket in which objects are created, read, listed and deleted, and never overwritten.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig,
};

use crate::error::StoreError;

/// How long one try to connect may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long one request may take, a large upload included.
const REQUEST: Duration = Duration::from_secs(300);
/// After this long a failing request is not tried again.
const RETRIES: Duration = Duration::from_secs(8);
/// How long a check of the store may take.
const CHECK: Duration = Duration::from_secs(15);

/// A folder, or a prefix in an S3 bucket. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    place: Arc<Place>,
}

/// Where a store is, for messages.
#[derive(Debug)]
struct Place {
    url: String,
    bucket: String,
    endpoint: String,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Relative to the store.
    pub path: String,
    pub bytes: u64,
}

// === impl Store ===

impl Store {
    /// Opens a folder, created when it is missing, or `s3://bucket/prefix` with the endpoint, keys and
    /// region of the process's `AWS_*` variables. Nothing is sent yet.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let variables = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self::open_with(url, &variables)
    }

    /// As [`Store::open`], with these variables instead of the process's.
    pub fn open_with(url: &str, variables: &BTreeMap<String, String>) -> Result<Self, StoreError> {
        if let Some(rest) = url.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            return Self::bucket(url, bucket, prefix, variables);
        }
        let folder = url.strip_prefix("file://").unwrap_or(url);
        if folder.is_empty() || folder.contains("://") {
            return Err(StoreError::Url {
                url: url.to_owned(),
                reason: "it must be a folder or `s3://bucket/prefix`".to_owned(),
            });
        }
        Self::folder(url, folder)
    }

    fn folder(url: &str, folder: &str) -> Result<Self, StoreError> {
        let refused = |reason: String| StoreError::Url {
            url: url.to_owned(),
            reason,
        };
        std::fs::create_dir_all(folder).map_err(|error| refused(error.to_string()))?;
        let objects = LocalFileSystem::new_with_prefix(folder)
            .map_err(|error| refused(error.to_string()))?
            .with_automatic_cleanup(true)
            .with_fsync(true);
        Ok(Self {
            objects: Arc::new(objects),
            prefix: Path::default(),
            place: Arc::new(Place {
                url: url.to_owned(),
                bucket: String::new(),
                endpoint: folder.to_owned(),
            }),
        })
    }

    fn bucket(
        url: &str,
        bucket: &str,
        prefix: &str,
        variables: &BTreeMap<String, String>,
    ) -> Result<Self, StoreError> {
        let refused = |reason: String| StoreError::Url {
            url: url.to_owned(),
            reason,
        };
        if bucket.is_empty() {
            return Err(refused("it names no bucket".to_owned()));
        }
        let prefix = Path::parse(prefix.trim_end_matches('/'))
            .map_err(|error| refused(error.to_string()))?;
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(2),
                base: 2.0,
            },
            max_retries: 5,
            retry_timeout: RETRIES,
        };
        let client = ClientOptions::new()
            .with_connect_timeout(CONNECT)
            .with_timeout(REQUEST);
        let mut builder = AmazonS3Builder::new()
            .with_client_options(client)
            .with_retry(retry)
            .with_bucket_name(bucket);
        let mut endpoint = None;
        for (name, value) in variables {
            let name = name.to_ascii_lowercase();
            if !name.starts_with("aws_") {
                continue;
            }
            let Ok(key) = name.parse::<AmazonS3ConfigKey>() else {
                continue;
            };
            // The bucket comes from the address alone.
            if matches!(key, AmazonS3ConfigKey::Bucket) {
                continue;
            }
            let names_s3 = matches!(key, AmazonS3ConfigKey::S3Endpoint);
            if names_s3 || matches!(key, AmazonS3ConfigKey::Endpoint) && endpoint.is_none() {
                endpoint = Some(value.clone());
            }
            builder = builder.with_config(key, value);
        }
        if endpoint.as_ref().is_some_and(|e| e.starts_with("http://")) {
            builder = builder.with_allow_http(true);
        }
        let objects = builder.build().map_err(|error| refused(chain(&error)))?;
        Ok(Self {
            objects: Arc::new(objects),
            prefix,
            place: Arc::new(Place {
                url: url.to_owned(),
                bucket: bucket.to_owned(),
                endpoint: endpoint.unwrap_or_else(|| "Amazon S3".to_owned()),
            }),
        })
    }

    /// The address it was opened with.
    pub fn url(&self) -> &str {
        &self.place.url
    }

    /// Whether it can be reached and listed. Writes nothing.
    pub async fn check(&self) -> Result<(), StoreError> {
        let listing = async {
            let mut objects = self.objects.list(Some(&self.prefix));
            objects.try_next().await
        };
        match tokio::time::timeout(CHECK, listing).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.translate("", error)),
            Err(_) => Err(StoreError::Unreachable {
                place: self.place.url.clone(),
                endpoint: self.place.endpoint.clone(),
                reason: format!("no answer within {} seconds", CHECK.as_secs()),
            }),
        }
    }

    /// Whether it can be written, and whether it keeps the promise on which everything rests: that an
    /// object is not overwritten. Leaves nothing behind.
    pub async fn check_write(&self) -> Result<(), StoreError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanoseconds = now.map_or(0, |now| now.as_nanos());
        let path = format!("probe-{}-{nanoseconds}", std::process::id());
        self.create(&path, "first").await?;
        let second = self.create(&path, "second").await;
        self.delete(&path).await?;
        match second {
            Err(StoreError::Exists { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Err(StoreError::Failed {
                place: self.place.url.clone(),
                path,
                reason: "it overwrites objects in spite of `If-None-Match: *`; use a server that \
                         supports conditional writes"
                    .to_owned(),
            }),
        }
    }

    /// Writes an object that must not exist yet: [`StoreError::Exists`] otherwise. It is there as a
    /// whole or not at all.
    pub async fn create(&self, path: &str, bytes: impl Into<Bytes>) -> Result<(), StoreError> {
        let location = self.locate(path)?;
        let payload = PutPayload::from_bytes(bytes.into());
        let put = (self.objects).put_opts(&location, payload, PutMode::Create.into());
        match put.await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.translate(path, error)),
        }
    }

    /// As [`Store::create`], but an object with these very bytes is welcome.
    pub async fn create_or_same(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        match self.create(path, bytes.clone()).await {
            Err(StoreError::Exists { .. }) if self.holds(path, &bytes).await? => Ok(()),
            result => result,
        }
    }

    /// Whether the object is there and has these bytes.
    pub(crate) async fn holds(&self, path: &str, bytes: &Bytes) -> Result<bool, StoreError> {
        if self.size(path).await? != Some(bytes.len() as u64) {
            return Ok(false);
        }
        Ok(self.read(path).await? == bytes)
    }

    pub async fn read(&self, path: &str) -> Result<Bytes, StoreError> {
        let location = self.locate(path)?;
        let read = async { self.objects.get(&location).await?.bytes().await };
        read.await.map_err(|error| self.translate(path, error))
    }

    /// The object's size in bytes, when there is one.
    pub async fn size(&self, path: &str) -> Result<Option<u64>, StoreError> {
        let location = self.locate(path)?;
        match self.objects.head(&location).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(error) => match self.translate(path, error) {
                StoreError::Missing { .. } => Ok(None),
                error => Err(error),
            },
        }
    }

    /// All objects below `folder`, in ascending order of their paths.
    pub async fn list(&self, folder: &str) -> Result<Vec<Object>, StoreError> {
        let location = self.locate(folder)?;
        let listing = self.objects.list(Some(&location)).try_collect::<Vec<_>>();
        let metas = (listing.await).map_err(|error| self.translate(folder, error))?;
        let mut objects: Vec<Object> = (metas.into_iter())
            .map(|meta| Object {
                path: self.relative(&meta.location),
                bytes: meta.size,
            })
            .collect();
        objects.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(objects)
    }

    /// The names of the folders directly in `folder`, ascending.
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let location = self.locate(folder)?;
        let listing = self.objects.list_with_delimiter(Some(&location)).await;
        let listing = listing.map_err(|error| self.translate(folder, error))?;
        let mut names: Vec<String> = (listing.common_prefixes.iter())
            .filter_map(|path| Some(path.filename()?.to_owned()))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Deletes an object; one that is not there is fine.
    pub async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let location = self.locate(path)?;
        match self.objects.delete(&location).await {
            Ok(()) => Ok(()),
            Err(error) => match self.translate(path, error) {
                StoreError::Missing { .. } => Ok(()),
                error => Err(error),
            },
        }
    }

    fn locate(&self, path: &str) -> Result<Path, StoreError> {
        let path = Path::parse(path).map_err(|error| StoreError::Malformed {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(self.prefix.parts().chain(path.parts()).collect())
    }

    fn relative(&self, location: &Path) -> String {
        let skip = self.prefix.parts().count();
        let parts: Vec<String> = (location.parts().skip(skip))
            .map(|part| part.as_ref().to_owned())
            .collect();
        parts.join("/")
    }

    fn translate(&self, path: &str, error: object_store::Error) -> StoreError {
        use object_store::Error;

        let text = chain(&error);
        let (place, endpoint) = (self.place.url.clone(), self.place.endpoint.clone());
        let path = path.to_owned();
        if find::<io::Error>(&error).any(|e| e.kind() == io::ErrorKind::StorageFull) {
            return StoreError::Full { place, path };
        }
        if text.contains("NoSuchBucket") {
            let bucket = self.place.bucket.clone();
            return StoreError::NoBucket { bucket, endpoint };
        }
        let unreached =
            |e: &HttpError| matches!(e.kind(), HttpErrorKind::Connect | HttpErrorKind::Timeout);
        if find::<HttpError>(&error).any(unreached) {
            let reason = last(&error);
            return StoreError::Unreachable {
                place,
                endpoint,
                reason,
            };
        }
        match error {
            Error::AlreadyExists { .. } => StoreError::Exists { path },
            Error::NotFound { .. } => StoreError::Missing { path },
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => StoreError::Refused {
                place,
                reason: code(&text),
            },
            error => StoreError::Failed {
                place,
                path,
                reason: last(&error),
            },
        }
    }
}

/// The error and its causes.
fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| {
        (*error).source()
    })
}

fn find<'a, E: StdError + 'static>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a E> {
    causes(error).filter_map(|cause| cause.downcast_ref())
}

fn chain(error: &(dyn StdError + 'static)) -> String {
    let causes: Vec<String> = causes(error).map(ToString::to_string).collect();
    causes.join(": ")
}

/// The root of the matter, without the address that the message names already.
fn last(error: &(dyn StdError + 'static)) -> String {
    let root = causes(error).last();
    root.map_or_else(String::new, ToString::to_string)
}

/// The error code in an S3 answer, such as `AccessDenied`.
fn code(text: &str) -> String {
    let code = (text.split_once("<Code>")).and_then(|(_, rest)| rest.split_once("</Code>"));
    code.map_or_else(|| text.to_owned(), |(code, _)| code.to_owned())
}
