//! The header of a pack.

use perennial_plan::spec::DataSpec;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::refuse_name;
use super::rows::{MOST_ROWS, Rows};
use crate::data_set::{Side, hex};

/// The version that this program writes, and the only one it reads.
const FORMAT_VERSION: u32 = 1;

/// More samples are refused: their list alone would take half a gigabyte.
const MOST_SAMPLES: u64 = 1 << 26;

/// What a pack holds. Everything else is read when it is needed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    pub format_version: u32,
    /// Folders with pictures, in ascending byte order.
    pub classes: Vec<String>,
    /// Class folders without a picture.
    pub empty_folders: Vec<String>,
    pub split: Split,
    pub train: SideIndex,
    pub val: SideIndex,
    /// Samples that cannot be decoded, ascending by row. They have rows, and are in no shard.
    pub broken: Vec<Broken>,
    /// Of the largest picture.
    pub largest_pixels: u64,
    /// That of the folder, split as `split` says, without what is broken.
    pub fingerprint: String,
    /// Of this header's JSON with nothing here.
    pub sha256: String,
}

/// How the samples came to their sides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "lowercase", deny_unknown_fields)]
pub enum Split {
    /// The folder has `train` and `val`.
    Folder,
    /// As scikit-learn would; a job that says something else cuts anew.
    Fraction {
        val_fraction: f64,
        seed: u32,
        stratify: bool,
    },
}

/// One side: its samples in ascending order of class and file name, shard after shard.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SideIndex {
    /// Samples of each class.
    pub class_counts: Vec<u64>,
    pub shards: Vec<ShardInfo>,
}

/// A shard and its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardInfo {
    pub samples: u32,
    /// The size of the tar file.
    pub bytes: u64,
    /// SHA-256 of its rows.
    pub rows_sha256: String,
    pub rows_bytes: u64,
}

/// A sample that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broken {
    /// Rows are numbered through both sides, those that train first.
    pub row: u32,
    pub reason: String,
}

// === impl Split ===

impl Split {
    /// As a job splits that does not find `train` and `val`.
    pub fn of(spec: &DataSpec) -> Self {
        Self::Fraction {
            val_fraction: spec.val_fraction,
            seed: spec.split_seed,
            stratify: spec.stratify,
        }
    }
}

// === impl SideIndex ===

impl SideIndex {
    pub fn samples(&self) -> u64 {
        self.shards
            .iter()
            .map(|shard| u64::from(shard.samples))
            .sum()
    }

    fn check(&self, classes: usize) -> Result<(), String> {
        if self.class_counts.len() != classes {
            let found = self.class_counts.len();
            return Err(format!(
                "it counts the samples of {found} classes where there are {classes}"
            ));
        }
        for (number, shard) in self.shards.iter().enumerate() {
            let rows = shard.samples;
            if rows == 0 || rows > MOST_ROWS {
                return Err(format!(
                    "shard {number} has {rows} samples, but 1 to {MOST_ROWS} may be"
                ));
            }
            if !Rows::may_have(shard.rows_bytes, rows) {
                let bytes = shard.rows_bytes;
                return Err(format!(
                    "the {rows} rows of shard {number} cannot have {bytes} bytes"
                ));
            }
        }
        let listed = self.samples();
        let counted = self
            .class_counts
            .iter()
            .try_fold(0u64, |sum, n| sum.checked_add(*n));
        if counted != Some(listed) {
            return Err(format!(
                "its shards have {listed} samples, its classes another number"
            ));
        }
        if listed == 0 {
            return Err("a side has no sample".to_string());
        }
        Ok(())
    }
}

// === impl Header ===

impl Header {
    pub fn new(classes: Vec<String>, empty_folders: Vec<String>, split: Split) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            classes,
            empty_folders,
            split,
            train: SideIndex::default(),
            val: SideIndex::default(),
            broken: Vec::new(),
            largest_pixels: 0,
            fingerprint: String::new(),
            sha256: String::new(),
        }
    }

    pub fn side(&self, side: Side) -> &SideIndex {
        match side {
            Side::Train => &self.train,
            Side::Val => &self.val,
        }
    }

    pub fn side_mut(&mut self, side: Side) -> &mut SideIndex {
        match side {
            Side::Train => &mut self.train,
            Side::Val => &mut self.val,
        }
    }

    /// Samples of both sides.
    pub fn samples(&self) -> u64 {
        self.train.samples() + self.val.samples()
    }

    /// Those of both sides.
    pub fn shards(&self) -> impl Iterator<Item = &ShardInfo> {
        self.train.shards.iter().chain(&self.val.shards)
    }

    /// Bytes of all shards.
    pub fn bytes(&self) -> u64 {
        self.shards()
            .fold(0, |sum, shard| sum.saturating_add(shard.bytes))
    }

    /// As it is written, with its hash.
    pub fn encode(mut self) -> (Self, Vec<u8>) {
        self.sha256 = self.own_sha256();
        let mut json = serde_json::to_vec_pretty(&self).expect("a header is plain data");
        json.push(b'\n');
        (self, json)
    }

    /// Reads a header and refuses one that cannot be; the reason is for the middle of a sentence.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let version: Version = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if version.format_version != FORMAT_VERSION {
            let found = version.format_version;
            return Err(format!(
                "it has format version {found}, this program reads {FORMAT_VERSION}"
            ));
        }
        let header: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let found = header.own_sha256();
        if found != header.sha256 {
            let expected = header.sha256.escape_debug();
            return Err(format!(
                "its SHA-256 is `{found}` where it says `{expected}`"
            ));
        }
        header.check()?;
        Ok(header)
    }

    fn own_sha256(&self) -> String {
        let bare = Self {
            sha256: String::new(),
            ..self.clone()
        };
        let json = serde_json::to_vec(&bare).expect("a header is plain data");
        hex(&Sha256::digest(json))
    }

    fn check(&self) -> Result<(), String> {
        for class in &self.classes {
            refuse_name(class)?;
        }
        if !self.classes.is_sorted_by(|one, next| one < next) {
            return Err("its classes are not in order".to_string());
        }
        for side in Side::BOTH {
            let checked = self.side(side).check(self.classes.len());
            checked.map_err(|reason| format!("`{}`: {reason}", side.folder()))?;
        }
        let samples = self.samples();
        if samples > MOST_SAMPLES {
            return Err(format!(
                "it has {samples} samples, more than {MOST_SAMPLES}"
            ));
        }
        if !self.broken.is_sorted_by(|one, next| one.row < next.row) {
            return Err("its broken samples are not in order".to_string());
        }
        match self.broken.last() {
            Some(last) if u64::from(last.row) >= samples => Err(format!(
                "row {} is broken, but there are {samples}",
                last.row
            )),
            _ => Ok(()),
        }
    }
}

/// What every version's header has.
#[derive(Deserialize)]
struct Version {
    format_version: u32,
}
