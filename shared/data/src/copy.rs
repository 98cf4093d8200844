//! Splitting a folder on disk: `CLASS/*` to `train/CLASS/*` and `val/CLASS/*`. The source is never changed.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::DataError;
use crate::folder::validation_members;
use crate::listing::{Found, is_split, list};
use crate::pack::is_pack;

/// What [`split_folder`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SplitSummary {
    pub classes: Vec<String>,
    /// Pictures that train, a class.
    pub train: Vec<usize>,
    /// Pictures that validate, a class.
    pub val: Vec<usize>,
    /// How many were copied because `to` is on another disk; the others share their bytes with `from`.
    pub copied: usize,
    /// Class folders of `from` without a picture.
    pub empty_folders: Vec<String>,
}

/// Puts each picture of `from/CLASS` into `to/train/CLASS` or `to/val/CLASS`, by hard link where the disk
/// allows it and by copy otherwise. `to` must be missing or empty, and outside of `from`.
pub fn split_folder(
    from: &Path,
    to: &Path,
    val_fraction: f64,
    seed: u32,
    stratify: bool,
) -> Result<SplitSummary, DataError> {
    if is_pack(&from.to_string_lossy()) {
        return Err(DataError::NoFolder(from.to_path_buf()));
    }
    if !from.is_dir() {
        return Err(DataError::MissingFolder(from.to_path_buf()));
    }
    if is_split(from)? {
        return Err(DataError::AlreadySplit {
            dir: from.to_path_buf(),
        });
    }
    refuse_inside(from, to)?;
    refuse_used(to)?;
    let found = list(from)?;
    if found.pictures.is_empty() {
        return Err(DataError::NoPictures(from.to_path_buf()));
    }
    let labels: Vec<u32> = found.pictures.iter().map(|found| found.class).collect();
    let in_val = validation_members(from, &labels, val_fraction, seed, stratify)?;

    let mut summary = SplitSummary {
        train: vec![0; found.classes.len()],
        val: vec![0; found.classes.len()],
        classes: found.classes,
        copied: 0,
        empty_folders: found.empty_folders,
    };
    if let Err(error) = fill(to, &found.pictures, &in_val, &mut summary) {
        // Nothing half-written stays. `to` was empty, so both folders are ours.
        let _ = fs::remove_dir_all(to.join("train"));
        let _ = fs::remove_dir_all(to.join("val"));
        return Err(error);
    }
    Ok(summary)
}

fn fill(
    to: &Path,
    pictures: &[Found],
    in_val: &[bool],
    summary: &mut SplitSummary,
) -> Result<(), DataError> {
    for side in ["train", "val"] {
        for class in &summary.classes {
            let folder = to.join(side).join(class);
            fs::create_dir_all(&folder).map_err(DataError::io("create", &folder))?;
        }
    }
    for (Found { file, class }, in_val) in pictures.iter().zip(in_val) {
        let (side, counts) = if *in_val {
            ("val", &mut summary.val)
        } else {
            ("train", &mut summary.train)
        };
        counts[*class as usize] += 1;
        let target = to.join(side).join(&file.relative);
        // A link to a symbolic link would share the link, not the picture.
        let source = fs::canonicalize(&file.path).map_err(DataError::io("read", &file.path))?;
        if fs::hard_link(&source, &target).is_err() {
            fs::copy(&source, &target).map_err(DataError::io("write", &target))?;
            summary.copied += 1;
        }
    }
    Ok(())
}

/// An error when `dir` has anything in it. It need not exist.
pub(crate) fn refuse_used(dir: &Path) -> Result<(), DataError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(DataError::NotEmpty(dir.to_path_buf())),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DataError::io("list", dir)(error)),
    }
}

pub(crate) fn refuse_inside(outer: &Path, inner: &Path) -> Result<(), DataError> {
    let resolved_outer = fs::canonicalize(outer).map_err(DataError::io("read", outer))?;
    if resolve_missing(inner)?.starts_with(&resolved_outer) {
        return Err(DataError::Inside {
            inner: inner.to_path_buf(),
            outer: outer.to_path_buf(),
        });
    }
    Ok(())
}

/// The absolute path of what may not exist yet: its nearest existing ancestor resolved, the rest appended.
fn resolve_missing(path: &Path) -> Result<PathBuf, DataError> {
    let absolute = std::path::absolute(path).map_err(DataError::io("resolve", path))?;
    for ancestor in absolute.ancestors() {
        if let Ok(resolved) = fs::canonicalize(ancestor) {
            let rest = absolute
                .strip_prefix(ancestor)
                .expect("an ancestor is a prefix");
            return Ok(resolved.join(rest));
        }
    }
    Ok(absolute)
}
