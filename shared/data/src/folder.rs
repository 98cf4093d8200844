//! A folder of pictures: one folder a class, or `train/` and `val/` with one folder a class in each.

use std::path::Path;
use std::sync::Arc;

use perennial_plan::spec::DataSpec;

use crate::data_set::{DataSet, Sample, Source};
use crate::error::DataError;
use crate::listing::{Found, is_split, list};
use crate::split::{stratified_split, train_test_split};

/// See [`DataSet::open`].
pub(crate) fn open(spec: &DataSpec) -> Result<DataSet, DataError> {
    let dir = Path::new(&spec.dir);
    if !dir.is_dir() {
        return Err(DataError::MissingFolder(dir.to_path_buf()));
    }
    if is_split(dir)? {
        from_split(dir)
    } else {
        from_classes(dir, spec)
    }
}

/// See [`DataSet::all_of`].
pub(crate) fn all_of(dir: &Path) -> Result<DataSet, DataError> {
    if !dir.is_dir() {
        return Err(DataError::MissingFolder(dir.to_path_buf()));
    }
    let dir = if is_split(dir)? {
        dir.join("val")
    } else {
        dir.to_path_buf()
    };
    let found = list(&dir)?;
    if found.pictures.is_empty() {
        return Err(DataError::NoPictures(dir));
    }
    let (classes, empty) = (found.classes, found.empty_folders);
    Ok(data_set(&dir, classes, empty, Vec::new(), found.pictures))
}

fn from_split(dir: &Path) -> Result<DataSet, DataError> {
    let (train_dir, val_dir) = (dir.join("train"), dir.join("val"));
    let train = list(&train_dir)?;
    let mut val = list(&val_dir)?;
    for (listing, dir) in [(&train, &train_dir), (&val, &val_dir)] {
        if listing.pictures.is_empty() {
            return Err(DataError::NoPictures(dir.clone()));
        }
    }
    for found in &mut val.pictures {
        let class = &val.classes[found.class as usize];
        let Ok(place) = train.classes.binary_search(class) else {
            return Err(DataError::ClassNotInTrain {
                dir: val_dir,
                class: class.clone(),
            });
        };
        found.class = place as u32;
    }
    let (classes, empty) = (train.classes, train.empty_folders);
    Ok(data_set(dir, classes, empty, train.pictures, val.pictures))
}

fn from_classes(dir: &Path, spec: &DataSpec) -> Result<DataSet, DataError> {
    let found = list(dir)?;
    if found.pictures.is_empty() {
        return Err(DataError::NoPictures(dir.to_path_buf()));
    }
    let labels: Vec<u32> = found.pictures.iter().map(|found| found.class).collect();
    let in_val = validation_members(
        dir,
        &labels,
        spec.val_fraction,
        spec.split_seed,
        spec.stratify,
    )?;
    let (mut train, mut val) = (Vec::new(), Vec::new());
    for (found, in_val) in found.pictures.into_iter().zip(in_val) {
        if in_val {
            val.push(found);
        } else {
            train.push(found);
        }
    }
    let (classes, empty) = (found.classes, found.empty_folders);
    Ok(data_set(dir, classes, empty, train, val))
}

fn data_set(
    dir: &Path,
    classes: Vec<String>,
    empty_folders: Vec<String>,
    train: Vec<Found>,
    val: Vec<Found>,
) -> DataSet {
    let mut files = Vec::with_capacity(train.len() + val.len());
    let mut samples = |pictures: Vec<Found>| -> Vec<Sample> {
        let sample = |found: Found| {
            let id = files.len() as u32;
            files.push(found.file);
            Sample {
                id,
                class: found.class,
            }
        };
        pictures.into_iter().map(sample).collect()
    };
    let (train, val) = (samples(train), samples(val));
    DataSet {
        dir: dir.to_path_buf(),
        classes,
        train,
        val,
        skipped: 0,
        empty_folders,
        source: Source::Files(Arc::new(files)),
    }
}

/// Whether each picture validates; `labels` are their classes, in the order of the sorted listing.
pub(crate) fn validation_members(
    dir: &Path,
    labels: &[u32],
    val_fraction: f64,
    seed: u32,
    stratify: bool,
) -> Result<Vec<bool>, DataError> {
    let split = if stratify {
        stratified_split(labels, val_fraction, seed)
    } else {
        train_test_split(labels.len(), val_fraction, seed)
    };
    let split = split.map_err(|source| DataError::Split {
        dir: dir.to_path_buf(),
        source,
    })?;
    let mut in_val = vec![false; labels.len()];
    split.test.iter().for_each(|place| in_val[*place] = true);
    Ok(in_val)
}
