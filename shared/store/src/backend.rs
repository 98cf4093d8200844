//! A folder or a bucket in which objects are created, read, listed and deleted, and never overwritten.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use crate::error::StoreError;
use crate::faults::{FaultCounts, Faults};
use crate::faulty::FaultyStore;
use crate::retry::{RetryBudget, check_length, is_transient};

/// How long a check of the store may take: 15 seconds in all.
const CHECK: RetryBudget = RetryBudget {
    total: Duration::from_secs(8),
    answer: Duration::from_secs(7),
    first_pause: Duration::from_millis(100),
    longest_pause: Duration::from_secs(2),
};

/// A folder, or a prefix in an S3 bucket. Clones share the connections.
///
/// Every operation that fails for a reason that may pass is tried again within a [`RetryBudget`].
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) prefix: Path,
    pub(crate) place: Arc<Place>,
    pub(crate) retry: RetryBudget,
    pub(crate) faults: Option<Arc<FaultCounts>>,
    pub(crate) retries: Arc<AtomicU64>,
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

    /// The same store with another patience.
    pub fn with_retry(self, retry: RetryBudget) -> Self {
        Self { retry, ..self }
    }

    /// The same store with faults: for tests.
    pub fn with_faults(self, faults: Faults) -> Self {
        let faulty = FaultyStore::new(self.objects, faults);
        Self {
            faults: Some(faulty.counts()),
            objects: Arc::new(faulty),
            ..self
        }
    }

    /// How often this store and its clones had to ask again.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// How many faults were injected by this store and its clones, where some are to be.
    pub fn faults(&self) -> Option<&FaultCounts> {
        self.faults.as_deref()
    }

    /// Whether it can be reached and listed, within 15 seconds. Writes nothing.
    pub async fn check(&self) -> Result<(), StoreError> {
        let store = self.clone().with_retry(CHECK);
        let attempt = || async {
            let mut objects = store.objects.list(Some(&store.prefix));
            store.retry.wait(0, objects.try_next()).await
        };
        store.persist("check", "/", attempt).await?;
        Ok(())
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
    ///
    /// An attempt whose answer was lost may have written it. So when a later attempt finds an object with
    /// these very bytes, it counts as this caller's own: who must know that nobody else wrote the object
    /// names himself in it. After any other error the object may be there or come to be there later.
    pub async fn create(&self, path: &str, bytes: impl Into<Bytes>) -> Result<(), StoreError> {
        let location = self.locate(path)?;
        let bytes = bytes.into();
        let mut attempts = self.attempts("create", path);
        loop {
            let payload = PutPayload::from_bytes(bytes.clone());
            let put = (self.objects).put_opts(&location, payload, PutMode::Create.into());
            match self.retry.wait(bytes.len() as u64, put).await {
                Ok(_) => return Ok(()),
                Err(error @ Error::AlreadyExists { .. }) if !is_transient(&error) => {
                    if attempts.ambiguous() && self.holds(path, &bytes).await? {
                        return Ok(());
                    }
                    return Err(self.translate(path, error));
                }
                Err(error) => attempts.again(error).await?,
            }
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
        let attempt = || async {
            let answer = self.retry.wait(0, self.objects.get(&location)).await?;
            let expected = answer.range.end - answer.range.start;
            let bytes = self.retry.wait(expected, answer.bytes()).await?;
            check_length(bytes.len(), expected)?;
            Ok(bytes)
        };
        self.persist("read", path, attempt).await
    }

    /// The bytes `range` of an object, which must have all of them: [`StoreError::Malformed`] where it is
    /// too short.
    pub async fn read_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let location = self.locate(path)?;
        let short = |size: u64| StoreError::Malformed {
            path: path.to_owned(),
            reason: format!(
                "it has {size} bytes, so there are no bytes {} to {}",
                range.start, range.end
            ),
        };
        let attempt = || async {
            let options = GetOptions::new().with_range(Some(range.clone()));
            let asked = self.objects.get_opts(&location, options);
            let answer = self.retry.wait(0, asked).await?;
            let size = answer.meta.size;
            if answer.range != range {
                return Ok(Err(size));
            }
            let expected = range.end - range.start;
            let bytes = self.retry.wait(expected, answer.bytes()).await?;
            check_length(bytes.len(), expected)?;
            Ok(Ok(bytes))
        };
        let read = self.persist("read", path, attempt).await;
        match read {
            Ok(read) => read.map_err(short),
            // A range that begins behind the end is refused in as many words as there are servers.
            Err(error @ StoreError::Failed { .. }) => match self.size(path).await? {
                Some(size) if size < range.end => Err(short(size)),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// The object's size in bytes, when there is one.
    pub async fn size(&self, path: &str) -> Result<Option<u64>, StoreError> {
        let location = self.locate(path)?;
        let attempt = || self.retry.wait(0, self.objects.head(&location));
        match self.persist("head", path, attempt).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All objects below `folder`, in ascending order of their paths. Some stores list an object only
    /// some time after it was written; reading it works at once.
    pub async fn list(&self, folder: &str) -> Result<Vec<Object>, StoreError> {
        self.list_from(folder, None).await
    }

    /// As [`Store::list`], the objects behind the path `after` alone.
    pub(crate) async fn list_from(
        &self,
        folder: &str,
        after: Option<&str>,
    ) -> Result<Vec<Object>, StoreError> {
        let location = self.locate(folder)?;
        let after = after.map(|after| self.locate(after)).transpose()?;
        let attempt = || async {
            let mut listing = match &after {
                Some(after) => self.objects.list_with_offset(Some(&location), after),
                None => self.objects.list(Some(&location)),
            };
            let mut metas = Vec::new();
            while let Some(meta) = self.retry.wait(0, listing.try_next()).await? {
                metas.push(meta);
            }
            Ok(metas)
        };
        let metas = self.persist("list", folder, attempt).await?;
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
        let attempt = || {
            let listing = self.objects.list_with_delimiter(Some(&location));
            self.retry.wait(0, listing)
        };
        let listing = self.persist("list", folder, attempt).await?;
        let mut names: Vec<String> = (listing.common_prefixes.iter())
            .filter_map(|path| Some(path.filename()?.to_owned()))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Deletes an object; one that is not there is fine.
    pub async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let location = self.locate(path)?;
        let attempt = || self.retry.wait(0, self.objects.delete(&location));
        match self.persist("delete", path, attempt).await {
            Err(StoreError::Missing { .. }) => Ok(()),
            result => result,
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
