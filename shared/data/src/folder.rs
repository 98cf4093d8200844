//! A folder of pictures: one folder a class, or `train/` and `val/` with one folder a class in each.

use std::path::{Path, PathBuf};

use perennial_plan::spec::{DataSpec, OnBadImage};
use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::decode::{Picture, read_picture};
use crate::error::DataError;
use crate::listing::{is_split, list};
use crate::split::{stratified_split, train_test_split};

/// One picture of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Its place in the list of all pictures as found; it stays when other pictures are left out.
    pub id: u32,
    pub path: PathBuf,
    /// `CLASS/FILE`, the same whether the folder is split or not.
    pub relative: String,
    /// Its place in [`DataSet::classes`].
    pub class: u32,
    /// The size of its file.
    pub bytes: u64,
}

/// Which of the two lists of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Train,
    Val,
}

/// The pictures of a job, each side in ascending order of class name and file name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataSet {
    pub dir: PathBuf,
    /// In ascending byte order; a class is named by its folder.
    pub classes: Vec<String>,
    pub train: Vec<Sample>,
    pub val: Vec<Sample>,
    /// Pictures left out because they cannot be used.
    pub skipped: usize,
    /// Class folders without a picture; they are no classes.
    pub empty_folders: Vec<String>,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Train => "training",
            Self::Val => "validation",
        })
    }
}

/// A picture that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    pub relative: String,
    pub reason: String,
}

// === impl DataSet ===

impl DataSet {
    /// Lists the pictures of `spec.dir` and splits them as scikit-learn would, unless they are split.
    /// No picture is opened: see [`DataSet::verify`].
    pub fn open(spec: &DataSpec) -> Result<Self, DataError> {
        let dir = Path::new(&spec.dir);
        if !dir.is_dir() {
            return Err(DataError::MissingFolder(dir.to_path_buf()));
        }
        let mut data = if is_split(dir)? {
            Self::from_split(dir)?
        } else {
            Self::from_classes(dir, spec)?
        };
        if let [class] = data.classes.as_slice() {
            return Err(DataError::OneClass {
                dir: dir.to_path_buf(),
                class: class.clone(),
            });
        }
        for (id, sample) in data.train.iter_mut().chain(&mut data.val).enumerate() {
            sample.id = id as u32;
        }
        Ok(data)
    }

    /// The pictures of `dir`, one folder a class, all as validation: its `val` folder where it has one.
    pub fn all_of(dir: &Path) -> Result<Self, DataError> {
        if !dir.is_dir() {
            return Err(DataError::MissingFolder(dir.to_path_buf()));
        }
        let dir = if is_split(dir)? {
            dir.join("val")
        } else {
            dir.to_path_buf()
        };
        let mut found = list(&dir)?;
        if found.samples.is_empty() {
            return Err(DataError::NoPictures(dir));
        }
        for (id, sample) in found.samples.iter_mut().enumerate() {
            sample.id = id as u32;
        }
        Ok(Self {
            dir,
            classes: found.classes,
            train: Vec::new(),
            val: found.samples,
            skipped: 0,
            empty_folders: found.empty_folders,
        })
    }

    fn from_split(dir: &Path) -> Result<Self, DataError> {
        let (train_dir, val_dir) = (dir.join("train"), dir.join("val"));
        let train = list(&train_dir)?;
        let mut val = list(&val_dir)?;
        for (listing, dir) in [(&train, &train_dir), (&val, &val_dir)] {
            if listing.samples.is_empty() {
                return Err(DataError::NoPictures(dir.clone()));
            }
        }
        for sample in &mut val.samples {
            let class = &val.classes[sample.class as usize];
            let Ok(place) = train.classes.binary_search(class) else {
                return Err(DataError::ClassNotInTrain {
                    dir: val_dir,
                    class: class.clone(),
                });
            };
            sample.class = place as u32;
        }
        Ok(Self {
            dir: dir.to_path_buf(),
            classes: train.classes,
            train: train.samples,
            val: val.samples,
            skipped: 0,
            empty_folders: train.empty_folders,
        })
    }

    fn from_classes(dir: &Path, spec: &DataSpec) -> Result<Self, DataError> {
        let found = list(dir)?;
        if found.samples.is_empty() {
            return Err(DataError::NoPictures(dir.to_path_buf()));
        }
        let in_val = validation_members(
            dir,
            &found.samples,
            spec.val_fraction,
            spec.split_seed,
            spec.stratify,
        )?;
        let (mut train, mut val) = (Vec::new(), Vec::new());
        for (sample, in_val) in found.samples.into_iter().zip(in_val) {
            if in_val {
                val.push(sample);
            } else {
                train.push(sample);
            }
        }
        Ok(Self {
            dir: dir.to_path_buf(),
            classes: found.classes,
            train,
            val,
            skipped: 0,
            empty_folders: found.empty_folders,
        })
    }

    pub fn side(&self, side: Side) -> &[Sample] {
        match side {
            Side::Train => &self.train,
            Side::Val => &self.val,
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

    /// SHA-256 over name, size and side of every picture in order, in hexadecimal: two workers with equal
    /// fingerprints see the same data set. A folder has the same one before and after `data split`.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for (side, samples) in [(b't', &self.train), (b'v', &self.val)] {
            for sample in samples {
                hash.update([side]);
                hash.update(sample.relative.as_bytes());
                hash.update([0]);
                hash.update(sample.bytes.to_le_bytes());
            }
        }
        let digest = hash.finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Decodes every picture once, on all cores, and hands it to `keep`. One that cannot be used ends it
    /// with an error (the first in order) or is left out, as `on_bad_image` says; a picture keeps its side
    /// whatever happens to others. Returns what was left out.
    pub fn verify(
        &mut self,
        on_bad_image: OnBadImage,
        max_pixels: u64,
        keep: impl Fn(&Sample, Side, Picture) + Sync,
    ) -> Result<Vec<Skipped>, DataError> {
        let mut skipped = Vec::new();
        for side in [Side::Train, Side::Val] {
            let problems: Vec<Option<DataError>> = self
                .side(side)
                .par_iter()
                .map(|sample| match read_picture(&sample.path, max_pixels) {
                    Ok(picture) => {
                        keep(sample, side, picture);
                        None
                    }
                    Err(error) => Some(error),
                })
                .collect();
            let samples = match side {
                Side::Train => &mut self.train,
                Side::Val => &mut self.val,
            };
            let all = std::mem::take(samples);
            for (sample, problem) in all.into_iter().zip(problems) {
                match (problem, on_bad_image) {
                    (None, _) => samples.push(sample),
                    (Some(error), OnBadImage::Fail) => return Err(error),
                    (Some(error), OnBadImage::Skip) => {
                        let reason = match error {
                            DataError::Picture { source, .. } => source.to_string(),
                            other => other.to_string(),
                        };
                        skipped.push(Skipped {
                            relative: sample.relative,
                            reason,
                        });
                    }
                }
            }
            if samples.is_empty() {
                return Err(DataError::NothingLeft {
                    dir: self.dir.clone(),
                    side,
                });
            }
        }
        self.skipped += skipped.len();
        Ok(skipped)
    }
}

/// Whether each of `samples` (sorted) validates.
pub(crate) fn validation_members(
    dir: &Path,
    samples: &[Sample],
    val_fraction: f64,
    seed: u32,
    stratify: bool,
) -> Result<Vec<bool>, DataError> {
    let split = if stratify {
        let labels: Vec<u32> = samples.iter().map(|sample| sample.class).collect();
        stratified_split(&labels, val_fraction, seed)
    } else {
        train_test_split(samples.len(), val_fraction, seed)
    };
    let split = split.map_err(|source| DataError::Split {
        dir: dir.to_path_buf(),
        source,
    })?;
    let mut in_val = vec![false; samples.len()];
    split.test.iter().for_each(|place| in_val[*place] = true);
    Ok(in_val)
}
