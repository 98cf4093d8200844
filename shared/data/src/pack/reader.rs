//! A pack as it is read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use perennial_plan::spec::DataSpec;
use perennial_store::{Store, StoreError};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use super::disk::Disk;
use super::error::PackError;
use super::header::{Header, ShardInfo, SideIndex};
use super::memory::{BUDGET, Memory};
use super::rows::{Entry, Rows};
use super::{HEADER, rows_name, shard_name};
use crate::data_set::{Sample, Side, hex};
use crate::decode::PictureError;

/// Requests to the store at once.
const AT_ONCE: usize = 32;
/// Longer headers are refused.
const LONGEST_HEADER: u64 = 64 << 20;

/// A complete pack. Rows are numbered through both sides, those that train first.
#[derive(Debug)]
pub struct Pack {
    header: Header,
    shards: Vec<Shard>,
    /// The broken samples by their rows.
    broken: BTreeMap<u32, String>,
    reading: Arc<Reading>,
    /// None only while it is dropped.
    runtime: Option<Runtime>,
}

/// What requests to the store share.
#[derive(Debug)]
struct Reading {
    url: String,
    store: Store,
    classes: Vec<String>,
    memory: Memory,
    disk: Option<Disk>,
}

/// A shard, and where it stands among all.
#[derive(Debug, Clone)]
struct Shard {
    name: String,
    rows_name: String,
    info: ShardInfo,
    first_row: u32,
    /// The class of its first row, and how many rows from there on have it; then the next class.
    classes: Vec<(u32, u64)>,
}

// === impl Pack ===

impl Pack {
    /// Reads the header of the pack at `spec.dir`. What is read from S3 later is kept on the disk as `spec`
    /// says.
    pub fn open(spec: &DataSpec) -> Result<Self, PackError> {
        let url = &spec.dir;
        let store = open_existing(url)?;
        let pack = Self::read(url, store)?;
        if !url.starts_with("s3://") || spec.cache_disk_mib == 0 {
            return Ok(pack);
        }
        let root = match spec.cache_dir.as_str() {
            "" => default_cache(),
            folder => PathBuf::from(folder),
        };
        Ok(pack.with_disk(&root, spec.cache_disk_mib.saturating_mul(1 << 20)))
    }

    /// Reads the header of the pack in `store`, and keeps nothing on the disk. The store must have been used
    /// by nobody yet: its connections will be those of the pack's own threads.
    pub fn read(url: &str, store: Store) -> Result<Self, PackError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("pack")
            .enable_all()
            .build()
            .map_err(PackError::Thread)?;
        let header = runtime.block_on(read_header(url, &store));
        let header = match header {
            Ok(header) => header,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        Ok(Self {
            shards: shards(&header),
            broken: (header.broken.iter())
                .map(|broken| (broken.row, broken.reason.clone()))
                .collect(),
            reading: Arc::new(Reading {
                url: url.to_string(),
                store,
                classes: header.classes.clone(),
                memory: Memory::new(BUDGET),
                disk: None,
            }),
            header,
            runtime: Some(runtime),
        })
    }

    /// The same with samples kept in the folder `root`, which is given up to `budget` bytes. A folder that
    /// cannot be used is left alone.
    pub fn with_disk(mut self, root: &Path, budget: u64) -> Self {
        let bytes = self.header.bytes();
        match Disk::open(root, &self.header.sha256, bytes, budget) {
            Ok(disk) => {
                let reading = Arc::get_mut(&mut self.reading);
                reading.expect("nobody reads yet").disk = Some(disk);
            }
            Err(error) => {
                let root = root.display();
                tracing::warn!(%root, %error, "samples are not kept on this disk");
            }
        }
        self
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn url(&self) -> &str {
        &self.reading.url
    }

    /// Bytes of memory that rows take.
    pub fn memory_used(&self) -> usize {
        self.reading.memory.used()
    }

    /// Bytes of the disk that the cache takes, where there is one.
    pub fn disk_used(&self) -> Option<u64> {
        self.reading.disk.as_ref().map(Disk::used)
    }

    /// What the pack says of a row.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn entry(&self, row: u32) -> Result<Entry, PackError> {
        let shard = self.shard(row);
        let rows = self.block_on(self.reading.rows(shard, &self.shards[shard]))?;
        let place = row - self.shards[shard].first_row;
        Ok(self.reading.named(&rows, place as usize))
    }

    /// The files of `rows` in their order, read side by side.
    pub fn fetch(&self, rows: &[u32]) -> Vec<Result<Bytes, PackError>> {
        let reading = &*self.reading;
        let files = rows.iter().map(|row| {
            let number = self.shard(*row);
            let shard = &self.shards[number];
            let place = (row - shard.first_row) as usize;
            let broken = self.broken.get(row).cloned();
            async move { reading.file(number, shard, place, broken).await }
        });
        let files: Vec<_> = files.collect();
        self.block_on(stream::iter(files).buffered(AT_ONCE).collect())
    }

    /// Why a sample cannot be used, if it cannot.
    pub(crate) fn problem(
        &self,
        row: u32,
        max_pixels: u64,
    ) -> Result<Option<PictureError>, PackError> {
        if let Some(reason) = self.broken.get(&row) {
            return Ok(Some(PictureError::Recorded(reason.clone())));
        }
        if self.header.largest_pixels <= max_pixels {
            return Ok(None);
        }
        let entry = self.entry(row)?;
        Ok(
            (entry.pixels() > max_pixels).then_some(PictureError::TooLarge {
                width: entry.width,
                height: entry.height,
                max_pixels,
            }),
        )
    }

    /// The fingerprint, where the samples are just those for which the header has it.
    pub(crate) fn known_fingerprint(&self, train: &[Sample], val: &[Sample]) -> Option<&str> {
        let first_val = self.header.train.samples() as u32;
        let last = self.header.samples() as u32;
        let usable = |range: std::ops::Range<u32>, samples: &[Sample]| {
            let rows = range.filter(|row| !self.broken.contains_key(row));
            rows.eq(samples.iter().map(|sample| sample.id))
        };
        let same = usable(0..first_val, train) && usable(first_val..last, val);
        same.then_some(self.header.fingerprint.as_str())
    }

    fn shard(&self, row: u32) -> usize {
        let behind = (self.shards).partition_point(|shard| shard.first_row <= row);
        let shard = behind - 1;
        let found = &self.shards[shard];
        assert!(row - found.first_row < found.info.samples, "no row {row}");
        shard
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let runtime = self.runtime.as_ref().expect("it lives as long as the pack");
        runtime.block_on(future)
    }
}

impl Drop for Pack {
    /// Waits for nothing, so that a pack may end anywhere.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

// === impl Reading ===

impl Reading {
    /// The rows of a shard, from memory, the disk or the store.
    async fn rows(&self, number: usize, shard: &Shard) -> Result<Arc<Rows>, PackError> {
        let load = async {
            let malformed = |reason: String| self.malformed(&shard.rows_name, reason);
            let (len, expected) = (shard.info.rows_bytes, &shard.info.rows_sha256);
            let hash = |bytes: &[u8]| hex(&Sha256::digest(bytes));
            let kept = self.kept(&shard.rows_name, 0, len);
            let bytes = match kept.filter(|bytes| hash(bytes) == *expected) {
                Some(bytes) => bytes,
                None => {
                    let bytes = self.read_range(&shard.rows_name, 0..len).await;
                    let bytes = bytes.map_err(|source| self.failed(source))?;
                    let found = hash(&bytes);
                    if found != *expected {
                        return Err(malformed(format!(
                            "its SHA-256 is `{found}` instead of `{expected}`"
                        )));
                    }
                    self.keep(&shard.rows_name, 0, &bytes);
                    bytes
                }
            };
            let rows = Rows::decode(bytes, shard.info.bytes).map_err(malformed)?;
            shard.check(&rows).map_err(malformed)?;
            Ok(rows)
        };
        self.memory.get(number, load).await
    }

    /// The file of a sample, with the hash that it must have.
    async fn file(
        &self,
        number: usize,
        shard: &Shard,
        place: usize,
        broken: Option<String>,
    ) -> Result<Bytes, PackError> {
        let rows = self.rows(number, shard).await?;
        let entry = self.named(&rows, place);
        if let Some(reason) = broken {
            return Err(PackError::Broken {
                pack: self.url.clone(),
                sample: entry.relative,
                reason,
            });
        }
        if entry.is_broken() {
            let reason = format!("`{}` is in no shard", entry.relative);
            return Err(self.malformed(&shard.rows_name, reason));
        }
        let hash = |bytes: &[u8]| -> [u8; 32] { Sha256::digest(bytes).into() };
        if let Some(bytes) = self.kept(&shard.name, entry.offset, entry.bytes)
            && hash(&bytes) == entry.sha256
        {
            return Ok(bytes);
        }
        let range = entry.offset..entry.offset + entry.bytes;
        let mut found = [0; 32];
        // What was damaged on its way comes whole the second time.
        for _ in 0..2 {
            let read = self.read_range(&shard.name, range.clone()).await;
            let bytes = read.map_err(|source| PackError::Sample {
                pack: self.url.clone().into(),
                sample: entry.relative.clone().into(),
                source,
            })?;
            found = hash(&bytes);
            if found == entry.sha256 {
                self.keep(&shard.name, entry.offset, &bytes);
                return Ok(bytes);
            }
        }
        Err(PackError::Damaged {
            pack: self.url.clone(),
            sample: entry.relative,
            object: shard.name.clone().into(),
            offset: entry.offset,
            bytes: entry.bytes,
            found: hex(&found).into(),
            expected: hex(&entry.sha256).into(),
        })
    }

    /// A row with the name of its class.
    fn named(&self, rows: &Rows, place: usize) -> Entry {
        let mut entry = rows.entry(place);
        let class = &self.classes[entry.class as usize];
        entry.relative = format!("{class}/{}", entry.relative);
        entry
    }

    async fn read_range(
        &self,
        name: &str,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes, StoreError> {
        self.store.read_range(name, range).await
    }

    fn kept(&self, name: &str, offset: u64, len: u64) -> Option<Bytes> {
        Some(self.disk.as_ref()?.read(name, offset, len)?.into())
    }

    fn keep(&self, name: &str, offset: u64, bytes: &[u8]) {
        if let Some(disk) = &self.disk {
            disk.write(name, offset, bytes);
        }
    }

    fn malformed(&self, object: &str, reason: String) -> PackError {
        PackError::Malformed {
            pack: self.url.clone(),
            object: object.to_string(),
            reason,
        }
    }

    fn failed(&self, source: StoreError) -> PackError {
        PackError::Store {
            pack: self.url.clone(),
            source,
        }
    }
}

// === impl Shard ===

impl Shard {
    /// Whether the rows are those that the header counts.
    fn check(&self, rows: &Rows) -> Result<(), String> {
        if rows.len() != self.info.samples as usize {
            let (found, expected) = (rows.len(), self.info.samples);
            return Err(format!("it has {found} rows instead of {expected}"));
        }
        let classes = self.classes.iter();
        let expected =
            classes.flat_map(|(class, count)| std::iter::repeat_n(*class, *count as usize));
        for (row, expected) in (0..rows.len()).zip(expected) {
            let (name, found) = (rows.name(row).escape_debug(), rows.class(row));
            if found != expected {
                return Err(format!(
                    "`{name}` is of class {found} where `{HEADER}` counts one of class {expected}"
                ));
            }
        }
        Ok(())
    }
}

/// The store of a pack, which must be there. Creates nothing.
pub(super) fn open_existing(url: &str) -> Result<Store, PackError> {
    let folder = url.strip_prefix("file://").unwrap_or(url);
    if !folder.contains("://") && !Path::new(folder).is_dir() {
        return Err(PackError::Missing {
            pack: url.to_string(),
        });
    }
    Store::open(url).map_err(|source| PackError::Store {
        pack: url.to_string(),
        source,
    })
}

/// The header of the pack in `store`.
pub(super) async fn read_header(url: &str, store: &Store) -> Result<Header, PackError> {
    let pack = || url.to_string();
    let failed = |source| PackError::Store {
        pack: pack(),
        source,
    };
    let malformed = |reason: String| PackError::Malformed {
        pack: pack(),
        object: HEADER.to_string(),
        reason,
    };
    let Some(size) = store.size(HEADER).await.map_err(failed)? else {
        return Err(PackError::Missing { pack: pack() });
    };
    if size > LONGEST_HEADER {
        return Err(malformed(format!("it has {size} bytes")));
    }
    let bytes = store.read_range(HEADER, 0..size).await.map_err(failed)?;
    Header::decode(&bytes).map_err(malformed)
}

/// The shards in the order of their rows.
fn shards(header: &Header) -> Vec<Shard> {
    let mut shards = Vec::new();
    let mut first_row = 0;
    for side in Side::BOTH {
        let SideIndex {
            class_counts,
            shards: infos,
        } = header.side(side);
        let mut left = (0u32..).zip(class_counts.iter().copied());
        let mut class = left.next();
        for (number, info) in infos.iter().enumerate() {
            let mut classes = Vec::new();
            let mut wanted = u64::from(info.samples);
            while let (1.., Some((label, count))) = (wanted, class.as_mut()) {
                let taken = wanted.min(*count);
                if taken > 0 {
                    classes.push((*label, taken));
                }
                wanted -= taken;
                *count -= taken;
                if *count == 0 {
                    class = left.next();
                }
            }
            shards.push(Shard {
                name: shard_name(side, number),
                rows_name: rows_name(side, number),
                info: info.clone(),
                first_row,
                classes,
            });
            first_row += info.samples;
        }
    }
    shards
}

/// The user's cache folder.
fn default_cache() -> PathBuf {
    let folder = |variable: &str| {
        let folder = std::env::var_os(variable).map(PathBuf::from);
        folder.filter(|folder| folder.is_absolute())
    };
    folder("XDG_CACHE_HOME")
        .or_else(|| Some(folder("HOME")?.join(".cache")))
        .map_or_else(
            || std::env::temp_dir().join("perennial-cache"),
            |cache| cache.join("perennial"),
        )
}
