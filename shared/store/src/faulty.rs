//! An object store that fails as told, around one that works.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};

use crate::faults::{FaultCounts, FaultKind, Faults, Operation};

/// Injects [`Faults`] into the operations of another store. Clones share the numbering.
#[derive(Debug, Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    faults: Faults,
    numbers: [AtomicU64; Operation::COUNT],
    counts: Arc<FaultCounts>,
}

/// What the caller is told. It reads as the answers of S3 do, for they are judged by their text.
#[derive(Debug, thiserror::Error)]
enum Injected {
    #[error("injected: no answer in time")]
    NoAnswer,
    #[error("injected: the connection broke off")]
    BrokenOff,
    #[error(
        "Server returned non-2xx status code: 503 Service Unavailable: \
         <Error><Code>ServiceUnavailable</Code><Message>injected</Message></Error>"
    )]
    Unavailable,
    #[error(
        "Server returned non-2xx status code: 429 Too Many Requests: \
         <Error><Code>SlowDown</Code><Message>injected</Message></Error>"
    )]
    Throttled,
}

// === impl FaultyStore ===

impl FaultyStore {
    pub fn new(inner: Arc<dyn ObjectStore>, faults: Faults) -> Self {
        let counts = Arc::new(FaultCounts::new(&faults));
        Self {
            inner,
            shared: Arc::new(Shared {
                faults,
                numbers: Default::default(),
                counts,
            }),
        }
    }

    pub fn counts(&self) -> Arc<FaultCounts> {
        self.shared.counts.clone()
    }

    /// The fault that the next operation of this kind is to suffer.
    fn next(&self, operation: Operation, path: &str) -> Option<FaultKind> {
        if !self.shared.faults.are_on() {
            return None;
        }
        let number = self.shared.numbers[operation as usize].fetch_add(1, Ordering::Relaxed);
        let fault = self.shared.faults.draw(operation, number)?;
        self.shared.counts.record(fault, operation, path);
        Some(fault)
    }

    /// Does what is asked and suffers what happens before or after it.
    async fn suffer<T>(
        &self,
        fault: Option<FaultKind>,
        asked: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match fault {
            Some(FaultKind::Timeout) => Err(no_answer()),
            Some(FaultKind::Unavailable) => Err(answered(Injected::Unavailable)),
            Some(FaultKind::Throttled) => Err(answered(Injected::Throttled)),
            Some(FaultKind::BrokenUpload) => Err(broken_off()),
            Some(FaultKind::LostAnswer) => {
                // Whatever the answer is, nobody hears it.
                let _ = asked.await;
                Err(no_answer())
            }
            Some(FaultKind::Slow) => {
                tokio::time::sleep(self.shared.faults.slow).await;
                asked.await
            }
            Some(FaultKind::BrokenBody | FaultKind::LateListing) | None => asked.await,
        }
    }

    /// Whether listings know the object by now.
    fn is_listed(&self, meta: &ObjectMeta) -> bool {
        let delay = self.shared.faults.list_delay;
        if delay.is_zero() || !self.shared.faults.are_on() {
            return true;
        }
        let changed = SystemTime::from(meta.last_modified);
        // One from the future is a young one.
        let age = changed.elapsed().unwrap_or_default();
        if age >= delay {
            return true;
        }
        let path = meta.location.as_ref();
        let counts = &self.shared.counts;
        counts.record(FaultKind::LateListing, Operation::List, path);
        false
    }

    async fn list_or_fail(
        self,
        prefix: Option<Path>,
    ) -> Result<BoxStream<'static, Result<ObjectMeta>>> {
        let path = prefix.as_ref().map_or("", |path| path.as_ref());
        let fault = self.next(Operation::List, path);
        let objects = self.inner.list(prefix.as_ref());
        let objects = self.suffer(fault, async { Ok(objects) }).await?;
        let listed = objects.try_filter(move |meta| std::future::ready(self.is_listed(meta)));
        if fault == Some(FaultKind::BrokenBody) {
            return Ok(break_off(listed, 1, |_| 1));
        }
        Ok(listed.boxed())
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let fault = self.next(Operation::Put, location.as_ref());
        let put = self.inner.put_opts(location, payload, options);
        self.suffer(fault, put).await
    }

    /// Its beginning can fail; its parts are the inner store's.
    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let fault = self.next(Operation::Put, location.as_ref());
        let put = self.inner.put_multipart_opts(location, options);
        self.suffer(fault, put).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = if options.head {
            Operation::Head
        } else {
            Operation::Get
        };
        let fault = self.next(operation, location.as_ref());
        let get = self.inner.get_opts(location, options);
        let result = self.suffer(fault, get).await?;
        if fault != Some(FaultKind::BrokenBody) {
            return Ok(result);
        }
        let (meta, range) = (result.meta.clone(), result.range.clone());
        let (attributes, extensions) = (result.attributes.clone(), result.extensions.clone());
        let half = (range.end - range.start) / 2;
        let body = break_off(result.into_stream(), half, |chunk| chunk.len() as u64);
        Ok(GetResult {
            payload: GetResultPayload::Stream(body),
            meta,
            range,
            attributes,
            extensions,
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let deleted = locations.then(move |location| {
            let store = store.clone();
            async move {
                let location = location?;
                let fault = store.next(Operation::Delete, location.as_ref());
                let delete = store.inner.delete(&location);
                store.suffer(fault, delete).await?;
                Ok(location)
            }
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let listing = self.clone().list_or_fail(prefix.cloned());
        stream::once(listing).try_flatten().boxed()
    }

    /// A folder in which all objects are young is missing as they are.
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        if self.shared.faults.list_delay.is_zero() {
            let path = prefix.map_or("", |path| path.as_ref());
            let fault = self.next(Operation::List, path);
            let listing = self.inner.list_with_delimiter(prefix);
            let listing = self.suffer(fault, listing).await?;
            return match fault {
                Some(FaultKind::BrokenBody) => Err(broken_off()),
                _ => Ok(listing),
            };
        }
        let root = Path::default();
        let prefix = prefix.unwrap_or(&root);
        let mut objects = Vec::new();
        let mut common_prefixes: Vec<Path> = Vec::new();
        for meta in self.list(Some(prefix)).try_collect::<Vec<_>>().await? {
            let Some(mut below) = meta.location.prefix_match(prefix) else {
                continue;
            };
            let (first, second) = (below.next(), below.next());
            match (first, second) {
                (Some(folder), Some(_)) => {
                    let folder: Path = prefix.parts().chain([folder]).collect();
                    if !common_prefixes.contains(&folder) {
                        common_prefixes.push(folder);
                    }
                }
                _ => {
                    drop(below);
                    objects.push(meta);
                }
            }
        }
        Ok(ListResult {
            common_prefixes,
            objects,
            extensions: Default::default(),
        })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let fault = self.next(Operation::Copy, to.as_ref());
        let copy = self.inner.copy_opts(from, to, options);
        self.suffer(fault, copy).await
    }
}

/// What comes until `limit` is used up, then an error, in any case.
fn break_off<T: Send + 'static>(
    items: impl futures::Stream<Item = Result<T>> + Send + 'static,
    limit: u64,
    weight: impl Fn(&T) -> u64 + Send + 'static,
) -> BoxStream<'static, Result<T>> {
    let mut used = 0;
    let whole = items.try_take_while(move |item| {
        used += weight(item);
        std::future::ready(Ok(used <= limit))
    });
    whole
        .chain(stream::once(std::future::ready(Err(broken_off()))))
        .boxed()
}

fn no_answer() -> Error {
    transport(HttpErrorKind::Timeout, Injected::NoAnswer)
}

fn broken_off() -> Error {
    transport(HttpErrorKind::Interrupted, Injected::BrokenOff)
}

fn transport(kind: HttpErrorKind, injected: Injected) -> Error {
    Error::Generic {
        store: "faulty",
        source: Box::new(HttpError::new(kind, injected)),
    }
}

fn answered(injected: Injected) -> Error {
    Error::Generic {
        store: "faulty",
        source: Box::new(injected),
    }
}
