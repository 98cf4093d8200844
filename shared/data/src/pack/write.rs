//! From a folder to a pack.

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use perennial_plan::spec::DataSpec;
use perennial_store::{Store, StoreError};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::error::PackError;
use super::header::{Broken, Header, ShardInfo, Split};
use super::plan::plan;
use super::reader::read_header;
use super::rows::{Entry, Rows};
use super::shard::ShardFile;
use super::{HEADER, is_pack, rows_name, shard_name};
use crate::copy::refuse_inside;
use crate::data_set::{DataSet, Sample, Side, Source};
use crate::decode::{decode, read_file};
use crate::error::DataError;
use crate::listing::{File, is_split};

/// What is written is compared with what is there in pieces of this many bytes.
const PIECE: u64 = 8 << 20;

/// Files that are read, decoded and hashed at a time are of up to so many bytes, or one. Beside them a shard in the making
/// is in memory, and the one before it, which is written: so much, and not what the folder holds.
const BATCH: u64 = 16 << 20;

/// What to pack, and how.
#[derive(Debug, Clone)]
pub struct Packing {
    /// The folder, how it is split where it is not, and what is too large to be decoded.
    pub data: DataSpec,
    /// How large a shard may grow.
    pub shard_bytes: u64,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    pub samples: u64,
    pub of_samples: u64,
    /// Of files.
    pub bytes: u64,
    pub of_bytes: u64,
}

/// A pack that is complete.
#[derive(Debug, Clone, PartialEq)]
pub struct Packed {
    pub header: Header,
    /// Shards that were there already.
    pub found: usize,
    /// `CLASS/FILE` and reason of each picture that cannot be decoded, which is in no shard.
    pub broken: Vec<(String, String)>,
}

/// One shard to be: some samples of a side.
struct Planned {
    side: Side,
    number: usize,
    /// Places on the side.
    places: Range<usize>,
    /// The row of the first of them.
    first_row: u32,
}

/// What a shard turned out to be.
struct Made {
    entries: Vec<Entry>,
    /// The reasons of the broken ones, in order.
    reasons: Vec<String>,
    bytes: u64,
}

/// A pack in the making.
struct Writer<'a> {
    store: Store,
    data: &'a DataSet,
    files: &'a [File],
    max_pixels: u64,
    runtime: Runtime,
}

/// Packs the folder `packing.data.dir` into the store at `url`. What is there of the same pack stays: so one
/// that was interrupted is gone on with.
pub fn pack_folder(
    packing: &Packing,
    url: &str,
    progress: impl FnMut(Progress),
) -> Result<Packed, DataError> {
    // Opening a store makes its folder: what is wrong is told before.
    let data = source(packing)?;
    let folder = url.strip_prefix("file://").unwrap_or(url);
    if !folder.contains("://") {
        refuse_inside(&data.dir, Path::new(folder))?;
    }
    let store = Store::open(url).map_err(|source| failed(url, source))?;
    write(packing, &data, store, progress)
}

/// As [`pack_folder`], into a store that is open.
pub fn pack_into(
    packing: &Packing,
    store: Store,
    progress: impl FnMut(Progress),
) -> Result<Packed, DataError> {
    write(packing, &source(packing)?, store, progress)
}

/// The folder to pack.
fn source(packing: &Packing) -> Result<DataSet, DataError> {
    if is_pack(&packing.data.dir) {
        return Err(DataError::NoFolder(packing.data.dir.clone().into()));
    }
    DataSet::open(&packing.data)
}

fn write(
    packing: &Packing,
    data: &DataSet,
    store: Store,
    mut progress: impl FnMut(Progress),
) -> Result<Packed, DataError> {
    let spec = &packing.data;
    let Source::Files(files) = &data.source else {
        return Err(DataError::NoFolder(data.dir.clone()));
    };
    if let Some(file) = files.iter().find(|file| u32::try_from(file.bytes).is_err()) {
        return Err(DataError::Pack(PackError::TooLong {
            path: file.path.display().to_string(),
            bytes: file.bytes,
        }));
    }
    let split = if is_split(&data.dir)? {
        Split::Folder
    } else {
        Split::of(spec)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(PackError::Thread)?;
    let writer = Writer {
        store,
        data,
        files,
        max_pixels: spec.max_pixels,
        runtime,
    };
    writer.pack(split, packing.shard_bytes, &mut progress)
}

// === impl Writer ===

impl Writer<'_> {
    fn pack(
        &self,
        split: Split,
        shard_bytes: u64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Packed, DataError> {
        let checked = self.runtime.block_on(self.store.check_write());
        checked.map_err(|source| self.failed(source))?;
        let complete = match self.runtime.block_on(read_header(self.url(), &self.store)) {
            Ok(header) => Some(header),
            Err(PackError::Missing { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let data = self.data;
        if let Some(complete) = &complete {
            // Nothing is added to the pack of another folder; what this one has lost comes back.
            let same = complete.samples() == data.len() as u64
                && complete.split == split
                && complete.fingerprint == self.fingerprint(complete)?;
            if !same {
                return Err(self.complete().into());
            }
        }
        let header = Header::new(data.classes.clone(), data.empty_folders.clone(), split);
        let mut packed = Packed {
            header,
            found: 0,
            broken: Vec::new(),
        };
        let mut done = Progress {
            of_samples: data.len() as u64,
            of_bytes: self.files.iter().map(|file| file.bytes).sum(),
            ..Progress::default()
        };
        progress(done);
        let mut upload: Option<JoinHandle<Result<(), PackError>>> = None;
        for shard in self.planned(shard_bytes) {
            let made = match self.found(&shard)? {
                Some(made) => {
                    packed.found += 1;
                    made
                }
                None => {
                    let (made, bytes) = self.make(&shard)?;
                    // One is written while the next one is made.
                    self.join(upload.take())?;
                    upload = Some(self.upload(&shard, &made, bytes));
                    made
                }
            };
            done.samples += made.entries.len() as u64;
            done.bytes += made.entries.iter().map(|entry| entry.bytes).sum::<u64>();
            self.record(&shard, made, &mut packed);
            progress(done);
        }
        self.join(upload)?;
        let fingerprint = self.fingerprint(&packed.header)?;
        packed.header.fingerprint = fingerprint;
        let (header, json) = packed.header.encode();
        packed.header = header;
        match complete {
            Some(complete) if complete == packed.header => return Ok(packed),
            Some(_) => return Err(self.complete().into()),
            None => {}
        }
        let created = self.store.create_or_same(HEADER, json.into());
        let created = self.runtime.block_on(created);
        created.map_err(|source| self.taken(HEADER, source))?;
        Ok(packed)
    }

    fn planned(&self, shard_bytes: u64) -> Vec<Planned> {
        let mut planned = Vec::new();
        let mut first_row = 0;
        for side in Side::BOTH {
            let sizes = self
                .data
                .side(side)
                .iter()
                .map(|sample| self.file(sample).bytes);
            let sizes: Vec<u64> = sizes.collect();
            for (number, places) in plan(&sizes, shard_bytes).into_iter().enumerate() {
                let rows = places.len() as u32;
                planned.push(Planned {
                    side,
                    number,
                    places,
                    first_row,
                });
                first_row += rows;
            }
        }
        planned
    }

    fn file(&self, sample: &Sample) -> &File {
        &self.files[sample.id as usize]
    }

    fn samples(&self, shard: &Planned) -> &[Sample] {
        &self.data.side(shard.side)[shard.places.clone()]
    }

    /// The shard as an earlier run left it; none where it did not come so far. Rows are written after their
    /// shard, so a shard with rows is whole.
    fn found(&self, shard: &Planned) -> Result<Option<Made>, DataError> {
        let (name, rows_name) = shard.names();
        let found = self.runtime.block_on(async {
            let Some(bytes) = self.store.size(&name).await? else {
                return Ok::<_, StoreError>(None);
            };
            if self.store.size(&rows_name).await?.is_none() {
                return Ok(None);
            }
            Ok(Some((bytes, self.store.read(&rows_name).await?)))
        });
        let Some((bytes, rows)) = found.map_err(|source| self.failed(source))? else {
            return Ok(None);
        };
        let taken = || PackError::Taken {
            pack: self.url().to_string(),
            object: rows_name.clone(),
        };
        let rows = Rows::decode(rows, bytes).map_err(|_| taken())?;
        let samples = self.samples(shard);
        if rows.len() != samples.len() {
            return Err(taken().into());
        }
        let mut reasons = Vec::new();
        for (entry, sample) in rows.entries().zip(samples) {
            let file = self.file(sample);
            let same = entry.class == sample.class
                && entry.bytes == file.bytes
                && entry.relative == file_name(&file.relative);
            if !same {
                return Err(taken().into());
            }
            if entry.is_broken() {
                // Only the folder says why.
                let problem = self.data.picture(sample, self.max_pixels).err();
                let reason = match problem {
                    Some(DataError::Picture { source, .. }) => source.to_string(),
                    Some(other) => other.to_string(),
                    None => return Err(taken().into()),
                };
                reasons.push(reason);
            }
        }
        Ok(Some(Made {
            entries: rows.entries().collect(),
            reasons,
            bytes,
        }))
    }

    /// Reads, decodes and hashes the samples of a shard on all cores, and puts them into one file.
    fn make(&self, shard: &Planned) -> Result<(Made, Vec<u8>), DataError> {
        let samples = self.samples(shard);
        let read = |sample: &Sample| -> Result<_, DataError> {
            let file = self.file(sample);
            let bytes = read_file(&file.path)?;
            if bytes.len() as u64 != file.bytes {
                return Err(DataError::Pack(PackError::Changed {
                    path: file.path.display().to_string(),
                    expected: file.bytes,
                    found: bytes.len() as u64,
                }));
            }
            let sha256: [u8; 32] = Sha256::digest(&bytes).into();
            let size =
                decode(&bytes, self.max_pixels).map(|picture| (picture.width, picture.height));
            Ok((bytes, sha256, size))
        };
        let sizes: Vec<u64> = (samples.iter())
            .map(|sample| self.file(sample).bytes)
            .collect();
        let mut file = ShardFile::with_room_for(&sizes);
        let mut made = Made {
            entries: Vec::with_capacity(samples.len()),
            reasons: Vec::new(),
            bytes: 0,
        };
        let mut places = shard.places.clone();
        for batch in plan(&sizes, BATCH) {
            let batch = &samples[batch];
            let read: Result<Vec<_>, DataError> = batch.par_iter().map(read).collect();
            let placed = batch.iter().zip(places.by_ref());
            for ((sample, place), (bytes, sha256, size)) in placed.zip(read?) {
                let name = file_name(&self.file(sample).relative);
                let (offset, (width, height)) = match size {
                    Ok(size) => (file.add(place, name, &bytes, sample.class), size),
                    Err(reason) => {
                        made.reasons.push(reason.to_string());
                        (0, (0, 0))
                    }
                };
                made.entries.push(Entry {
                    relative: name.to_string(),
                    class: sample.class,
                    offset,
                    bytes: bytes.len() as u64,
                    width,
                    height,
                    sha256,
                });
            }
        }
        let bytes = file.finish();
        made.bytes = bytes.len() as u64;
        Ok((made, bytes))
    }

    /// Writes a shard and then its rows, in the background.
    fn upload(
        &self,
        shard: &Planned,
        made: &Made,
        bytes: Vec<u8>,
    ) -> JoinHandle<Result<(), PackError>> {
        let (name, rows_name) = shard.names();
        let rows = Rows::encode(made.entries.iter());
        let store = self.store.clone();
        self.runtime.spawn(async move {
            create_or_same(&store, &name, bytes.into()).await?;
            create_or_same(&store, &rows_name, rows.into()).await
        })
    }

    fn join(&self, upload: Option<JoinHandle<Result<(), PackError>>>) -> Result<(), PackError> {
        let Some(upload) = upload else { return Ok(()) };
        let joined = self.runtime.block_on(upload);
        joined.map_err(|error| PackError::Thread(error.into()))?
    }

    /// Puts a shard that is written into the header.
    fn record(&self, shard: &Planned, made: Made, packed: &mut Packed) {
        let rows = Rows::encode(made.entries.iter());
        let header = &mut packed.header;
        let classes = header.classes.len();
        let mut reasons = made.reasons.into_iter();
        for ((row, entry), sample) in (shard.first_row..)
            .zip(&made.entries)
            .zip(self.samples(shard))
        {
            header.largest_pixels = header.largest_pixels.max(entry.pixels());
            if entry.is_broken() {
                let reason = reasons.next().expect("a reason for each broken sample");
                let relative = self.file(sample).relative.clone();
                packed.broken.push((relative, reason.clone()));
                header.broken.push(Broken { row, reason });
            }
        }
        let side = header.side_mut(shard.side);
        side.class_counts.resize(classes, 0);
        for entry in &made.entries {
            side.class_counts[entry.class as usize] += 1;
        }
        side.shards.push(ShardInfo {
            samples: made.entries.len() as u32,
            bytes: made.bytes,
            rows_sha256: crate::data_set::hex(&Sha256::digest(&rows)),
            rows_bytes: rows.len() as u64,
        });
    }

    /// That of the folder without what is broken.
    fn fingerprint(&self, header: &Header) -> Result<String, DataError> {
        let mut usable = self.data.clone();
        let first_val = self.data.train.len();
        let mut keep = [vec![true; first_val], vec![true; self.data.val.len()]];
        for broken in &header.broken {
            let row = broken.row as usize;
            match row.checked_sub(first_val) {
                None => keep[0][row] = false,
                Some(row) => keep[1][row] = false,
            }
        }
        for (samples, keep) in [&mut usable.train, &mut usable.val].into_iter().zip(keep) {
            let mut keep = keep.into_iter();
            samples.retain(|_| keep.next() == Some(true));
        }
        usable.fingerprint()
    }

    fn url(&self) -> &str {
        self.store.url()
    }

    fn failed(&self, source: StoreError) -> PackError {
        failed(self.url(), source)
    }

    fn complete(&self) -> PackError {
        PackError::Complete {
            pack: self.url().to_string(),
        }
    }

    fn taken(&self, object: &str, source: StoreError) -> PackError {
        taken(&self.store, object, source)
    }
}

// === impl Planned ===

impl Planned {
    /// Of the shard and of its rows.
    fn names(&self) -> (String, String) {
        let (side, number) = (self.side, self.number);
        (shard_name(side, number), rows_name(side, number))
    }
}

/// Writes an object; one that is there must have the same bytes, and is compared piece by piece.
async fn create_or_same(store: &Store, name: &str, bytes: Bytes) -> Result<(), PackError> {
    match store.create(name, bytes.clone()).await {
        Ok(()) => return Ok(()),
        Err(StoreError::Exists { .. }) => {}
        Err(source) => return Err(failed(store.url(), source)),
    }
    let exists = || StoreError::Exists {
        path: name.to_string(),
    };
    let size = store
        .size(name)
        .await
        .map_err(|source| failed(store.url(), source))?;
    let len = bytes.len() as u64;
    if size != Some(len) {
        return Err(taken(store, name, exists()));
    }
    for start in (0..len).step_by(PIECE as usize) {
        let range = start..len.min(start + PIECE);
        let piece = bytes.slice(range.start as usize..range.end as usize);
        let there = store.read_range(name, range).await;
        if there.map_err(|source| failed(store.url(), source))? != piece {
            return Err(taken(store, name, exists()));
        }
    }
    Ok(())
}

fn failed(url: &str, source: StoreError) -> PackError {
    PackError::Store {
        pack: url.to_string(),
        source,
    }
}

fn taken(store: &Store, object: &str, source: StoreError) -> PackError {
    match source {
        StoreError::Exists { .. } => PackError::Taken {
            pack: store.url().to_string(),
            object: object.to_string(),
        },
        source => failed(store.url(), source),
    }
}

/// Of `CLASS/FILE`.
fn file_name(relative: &str) -> &str {
    relative.split_once('/').map_or(relative, |(_, file)| file)
}
