//! The pictures of a job, wherever they lie: which there are, on which side, and their files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use perennial_plan::spec::{DataSpec, OnBadImage};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::decode::{Picture, decode, read_file};
use crate::error::DataError;
use crate::listing::File;
use crate::pack::{Pack, is_pack};
use crate::{folder, pack};

/// One picture of a data set. What it is called and how to read it, its [`DataSet`] knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Its place among all pictures as found; it stays when other pictures are left out.
    pub id: u32,
    /// Its place in [`DataSet::classes`].
    pub class: u32,
}

/// Which of the two lists of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Train,
    Val,
}

/// The pictures of a job, each side in ascending order of class name and file name.
#[derive(Debug, Clone)]
pub struct DataSet {
    /// The folder or the pack.
    pub dir: PathBuf,
    /// In ascending byte order; a class is named by its folder.
    pub classes: Vec<String>,
    pub train: Vec<Sample>,
    pub val: Vec<Sample>,
    /// Pictures left out because they cannot be used.
    pub skipped: usize,
    /// Class folders without a picture; they are no classes.
    pub empty_folders: Vec<String>,
    pub(crate) source: Source,
}

/// Where the files are. Samples' ids are places in it.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Files(Arc<Vec<File>>),
    Pack(Arc<Pack>),
}

/// A picture that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    pub relative: String,
    pub reason: String,
}

// === impl Side ===

impl Side {
    pub const BOTH: [Self; 2] = [Self::Train, Self::Val];

    /// The name of its folder.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
        }
    }
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Train => "training",
            Self::Val => "validation",
        })
    }
}

// === impl DataSet ===

impl DataSet {
    /// Lists the pictures of `spec.dir`, a folder or a pack, and splits them as scikit-learn would, unless
    /// they are split. No picture is opened: see [`DataSet::verify`].
    pub fn open(spec: &DataSpec) -> Result<Self, DataError> {
        let data = if is_pack(&spec.dir) {
            pack::open(spec)?
        } else {
            folder::open(spec)?
        };
        if let [class] = data.classes.as_slice() {
            return Err(DataError::OneClass {
                dir: data.dir,
                class: class.clone(),
            });
        }
        Ok(data)
    }

    /// The pictures of an open pack, split as `spec` says unless their folder was.
    pub fn of_pack(pack: Pack, spec: &DataSpec) -> Result<Self, DataError> {
        pack::data_set(pack, spec)
    }

    /// The pictures at `spec.dir`, all as validation: the side that validates where they are split.
    pub fn all_of(spec: &DataSpec) -> Result<Self, DataError> {
        if is_pack(&spec.dir) {
            pack::all_of(spec)
        } else {
            folder::all_of(Path::new(&spec.dir))
        }
    }

    pub fn side(&self, side: Side) -> &[Sample] {
        match side {
            Side::Train => &self.train,
            Side::Val => &self.val,
        }
    }

    fn side_mut(&mut self, side: Side) -> &mut Vec<Sample> {
        match side {
            Side::Train => &mut self.train,
            Side::Val => &mut self.val,
        }
    }

    /// Pictures of both sides.
    pub fn len(&self) -> usize {
        self.train.len() + self.val.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many pictures each class has on `side`.
    pub fn class_counts(&self, side: Side) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for sample in self.side(side) {
            counts[sample.class as usize] += 1;
        }
        counts
    }

    /// The pack that it is.
    pub fn pack(&self) -> Option<&Pack> {
        match &self.source {
            Source::Files(_) => None,
            Source::Pack(pack) => Some(pack.as_ref()),
        }
    }

    /// How large a sample of a pack is on average: its files are ranges of objects in a store, which are
    /// worth reading long before their use.
    pub(crate) fn mean_packed_bytes(&self) -> Option<u64> {
        let header = self.pack()?.header();
        Some(header.bytes() / header.samples().max(1))
    }

    /// `CLASS/FILE`, the same whether the pictures are split or packed or not.
    pub fn relative(&self, sample: &Sample) -> Result<String, DataError> {
        match &self.source {
            Source::Files(files) => Ok(files[sample.id as usize].relative.clone()),
            Source::Pack(pack) => Ok(pack.entry(sample.id)?.relative),
        }
    }

    /// Where the file is, for messages: in a pack its name behind the pack's address.
    pub fn path(&self, sample: &Sample) -> PathBuf {
        match &self.source {
            Source::Files(files) => files[sample.id as usize].path.clone(),
            Source::Pack(pack) => match pack.entry(sample.id) {
                Ok(entry) => self.dir.join(entry.relative),
                Err(_) => self.dir.clone(),
            },
        }
    }

    /// The files of `samples` in their order. What comes from a pack was checked against its hash.
    pub fn read_all(&self, samples: &[Sample]) -> Vec<Result<Bytes, DataError>> {
        match &self.source {
            Source::Files(files) => samples
                .iter()
                .map(|sample| Ok(read_file(&files[sample.id as usize].path)?.into()))
                .collect(),
            Source::Pack(pack) => {
                let rows: Vec<u32> = samples.iter().map(|sample| sample.id).collect();
                let files = pack.fetch(&rows).into_iter();
                files.map(|file| file.map_err(DataError::from)).collect()
            }
        }
    }

    /// The picture in `file`, which is that of `sample`.
    pub fn decoded(
        &self,
        sample: &Sample,
        file: &[u8],
        max_pixels: u64,
    ) -> Result<Picture, DataError> {
        decode(file, max_pixels).map_err(|error| DataError::picture(&self.path(sample), error))
    }

    /// Reads and decodes one picture.
    pub fn picture(&self, sample: &Sample, max_pixels: u64) -> Result<Picture, DataError> {
        let mut file = self.read_all(std::slice::from_ref(sample));
        let file = file.pop().expect("a result for each sample")?;
        self.decoded(sample, &file, max_pixels)
    }

    /// SHA-256 over name, size and side of every picture in order, in hexadecimal: two workers with equal
    /// fingerprints see the same data set. A folder has the same one before and after `data split`, and so
    /// has its pack.
    pub fn fingerprint(&self) -> Result<String, DataError> {
        if let Source::Pack(pack) = &self.source
            && let Some(known) = pack.known_fingerprint(&self.train, &self.val)
        {
            return Ok(known.to_string());
        }
        let mut hash = Sha256::new();
        for (side, samples) in [(b't', &self.train), (b'v', &self.val)] {
            for sample in samples {
                let mut add = |relative: &str, bytes: u64| {
                    hash.update([side]);
                    hash.update(relative.as_bytes());
                    hash.update([0]);
                    hash.update(bytes.to_le_bytes());
                };
                match &self.source {
                    Source::Files(files) => {
                        let file = &files[sample.id as usize];
                        add(&file.relative, file.bytes);
                    }
                    Source::Pack(pack) => {
                        let entry = pack.entry(sample.id)?;
                        add(&entry.relative, entry.bytes);
                    }
                }
            }
        }
        Ok(hex(&hash.finalize()))
    }

    /// Looks whether every picture can be used. One that cannot ends it with an error (the first in order)
    /// or is left out, as `on_bad_image` says; a picture keeps its side whatever happens to others. Returns
    /// what was left out.
    ///
    /// Files are decoded once, on all cores, and handed to `keep`. A pack knows it from its making, so
    /// nothing is read.
    pub fn verify(
        &mut self,
        on_bad_image: OnBadImage,
        max_pixels: u64,
        keep: impl Fn(&Sample, Side, Picture) + Sync,
    ) -> Result<Vec<Skipped>, DataError> {
        let mut skipped = Vec::new();
        for side in Side::BOTH {
            let problems = self.problems(side, max_pixels, &keep)?;
            let all = std::mem::take(self.side_mut(side));
            let mut usable = Vec::with_capacity(all.len());
            for (sample, problem) in all.into_iter().zip(problems) {
                match (problem, on_bad_image) {
                    (None, _) => usable.push(sample),
                    (Some(error), OnBadImage::Fail) => return Err(error),
                    (Some(error), OnBadImage::Skip) => {
                        let reason = match error {
                            DataError::Picture { source, .. } => source.to_string(),
                            other => other.to_string(),
                        };
                        let relative = self.relative(&sample)?;
                        skipped.push(Skipped { relative, reason });
                    }
                }
            }
            if usable.is_empty() {
                return Err(DataError::NothingLeft {
                    dir: self.dir.clone(),
                    side,
                });
            }
            *self.side_mut(side) = usable;
        }
        self.skipped += skipped.len();
        Ok(skipped)
    }

    /// What is wrong with each picture of a side.
    fn problems(
        &self,
        side: Side,
        max_pixels: u64,
        keep: &(impl Fn(&Sample, Side, Picture) + Sync),
    ) -> Result<Vec<Option<DataError>>, DataError> {
        if let Source::Pack(pack) = &self.source {
            let problem = |sample: &Sample| -> Result<Option<DataError>, DataError> {
                let problem = pack.problem(sample.id, max_pixels)?;
                Ok(problem.map(|reason| DataError::picture(&self.path(sample), reason)))
            };
            return self.side(side).iter().map(problem).collect();
        }
        let problem = |sample: &Sample| match self.picture(sample, max_pixels) {
            Ok(picture) => {
                keep(sample, side, picture);
                None
            }
            Err(error) => Some(error),
        };
        Ok(self.side(side).par_iter().map(problem).collect())
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
