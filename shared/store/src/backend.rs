//! A folder or a bucket in which objects are created, read, listed and deleted, and never overwritten.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use crate::error::StoreError;

/// How long a check of the store may take.
const CHECK: Duration = Duration::from_secs(15);

/// A folder, or a prefix in an S3 bucket. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) prefix: Path,
    pub(crate) place: Arc<Place>,
}

/// Where a store is, for messages.
#[derive(Debug)]
pub(crate) struct Place {
    pub url: String,
    pub bucket: String,
    pub endpoint: String,
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
            Ok(Err(error)) => Err(self.translate("/", error)),
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
}
