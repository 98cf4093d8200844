use std::path::{Path, PathBuf};

use crate::data_set::Side;
use crate::decode::PictureError;
use crate::pack::PackError;

/// Why data cannot be used. Each message names the folder or file at fault.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("data folder `{0}` is not there")]
    MissingFolder(PathBuf),
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("file name `{0}` is not valid UTF-8: rename it")]
    Name(PathBuf),
    #[error(
        "no pictures in `{0}`: it must hold one folder a class with jpg, png, webp or gif files in it"
    )]
    NoPictures(PathBuf),
    #[error("only one class, `{class}`, in `{dir}`: a classifier needs at least two")]
    OneClass { dir: PathBuf, class: String },
    #[error("class `{class}` is in `{dir}` but has no pictures in `train`")]
    ClassNotInTrain { dir: PathBuf, class: String },
    #[error("`{dir}` has a `{present}` folder but no `{missing}` folder: make both or neither")]
    HalfSplit {
        dir: PathBuf,
        present: &'static str,
        missing: &'static str,
    },
    #[error("cannot split the pictures of `{dir}`: {source}")]
    Split { dir: PathBuf, source: SplitError },
    #[error("no {side} picture of `{dir}` can be used")]
    NothingLeft { dir: PathBuf, side: Side },
    #[error("picture `{path}` cannot be used: {source}")]
    Picture { path: PathBuf, source: PictureError },
    #[error("folder `{0}` is not empty: name a new or an empty one")]
    NotEmpty(PathBuf),
    #[error("destination `{inner}` lies inside of the source `{outer}`: choose one outside")]
    Inside { inner: PathBuf, outer: PathBuf },
    #[error("`{dir}` is split already: it has `train` and `val` folders")]
    AlreadySplit { dir: PathBuf },
    #[error("`{0}` is a pack: name the folder that it was made of")]
    NoFolder(PathBuf),
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error("cannot draw {asked} classes: at least 1 and at most {most}")]
    Classes { asked: usize, most: usize },
    #[error("cannot draw pictures of {asked} pixels a side: at least 16 and at most 1024")]
    Size { asked: u32 },
}

/// Why a list of samples cannot be split in two.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    #[error("{samples} samples leave one side empty")]
    EmptySide { samples: usize },
    #[error("class number {class} has only {count} sample: a stratified split needs 2 a class")]
    RareClass { class: usize, count: usize },
    #[error(
        "a stratified split needs at least {classes} samples a side, one a class, but there would be {side}"
    )]
    SmallSide { classes: usize, side: usize },
}

// === impl DataError ===

impl DataError {
    /// Whether it may be due to this machine alone.
    pub fn may_be_local(&self) -> bool {
        match self {
            Self::Io { .. } | Self::MissingFolder(_) => true,
            Self::Pack(error) => error.may_be_local(),
            _ => false,
        }
    }

    pub(crate) fn io<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(std::io::Error) -> DataError + use<'a> {
        move |source| DataError::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }

    pub(crate) fn picture(path: &Path, source: PictureError) -> DataError {
        DataError::Picture {
            path: path.to_path_buf(),
            source,
        }
    }
}
