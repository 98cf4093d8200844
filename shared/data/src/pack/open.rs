//! From a pack to the data set of the folder that it was made of.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use perennial_plan::spec::DataSpec;

use super::HEADER;
use super::error::PackError;
use super::header::{Header, Split};
use super::reader::Pack;
use crate::data_set::{DataSet, Sample, Side, Source};
use crate::error::DataError;
use crate::folder::validation_members;

/// See [`DataSet::open`].
pub(crate) fn open(spec: &DataSpec) -> Result<DataSet, DataError> {
    data_set(Pack::open(spec)?, spec)
}

/// See [`DataSet::of_pack`].
pub(crate) fn data_set(pack: Pack, spec: &DataSpec) -> Result<DataSet, DataError> {
    let header = pack.header();
    let as_asked = header.split == Split::Folder || header.split == Split::of(spec);
    let (train, val) = if as_asked {
        (side(header, Side::Train), side(header, Side::Val))
    } else {
        cut_anew(&pack, spec)?
    };
    Ok(with_sides(pack, train, val))
}

/// See [`DataSet::all_of`].
pub(crate) fn all_of(spec: &DataSpec) -> Result<DataSet, DataError> {
    let pack = Pack::open(spec)?;
    let val = match pack.header().split {
        Split::Folder => side(pack.header(), Side::Val),
        Split::Fraction { .. } => listed(&pack)?,
    };
    Ok(with_sides(pack, Vec::new(), val))
}

fn with_sides(pack: Pack, train: Vec<Sample>, val: Vec<Sample>) -> DataSet {
    DataSet {
        dir: PathBuf::from(pack.url()),
        classes: pack.header().classes.clone(),
        train,
        val,
        skipped: 0,
        empty_folders: pack.header().empty_folders.clone(),
        source: Source::Pack(Arc::new(pack)),
    }
}

/// The samples of a side as they are packed.
fn side(header: &Header, side: Side) -> Vec<Sample> {
    let first = match side {
        Side::Train => 0,
        Side::Val => header.train.samples() as u32,
    };
    let counts = (0u32..).zip(&header.side(side).class_counts);
    let classes = counts.flat_map(|(class, count)| std::iter::repeat_n(class, *count as usize));
    (first..)
        .zip(classes)
        .map(|(id, class)| Sample { id, class })
        .collect()
}

/// All samples in the order of the folder's listing, by doing again how they came to their sides.
fn listed(pack: &Pack) -> Result<Vec<Sample>, DataError> {
    let header = pack.header();
    let (train, val) = (side(header, Side::Train), side(header, Side::Val));
    let Split::Fraction {
        val_fraction,
        seed,
        stratify,
    } = header.split
    else {
        return Ok(train.into_iter().chain(val).collect());
    };
    let counts = header
        .train
        .class_counts
        .iter()
        .zip(&header.val.class_counts);
    let labels: Vec<u32> = ((0u32..).zip(counts))
        .flat_map(|(class, (train, val))| std::iter::repeat_n(class, (train + val) as usize))
        .collect();
    let in_val = validation_members(Path::new(pack.url()), &labels, val_fraction, seed, stratify)?;
    let (mut train, mut val) = (train.into_iter(), val.into_iter());
    let mut listed = Vec::with_capacity(labels.len());
    for (label, in_val) in labels.into_iter().zip(in_val) {
        let sample = if in_val { val.next() } else { train.next() };
        match sample.filter(|sample| sample.class == label) {
            Some(sample) => listed.push(sample),
            None => {
                return Err(DataError::Pack(PackError::Malformed {
                    pack: pack.url().to_string(),
                    object: HEADER.to_string(),
                    reason: "its sides are not what its `split` says".to_string(),
                }));
            }
        }
    }
    Ok(listed)
}

/// The sides as a job wants them that splits otherwise.
fn cut_anew(pack: &Pack, spec: &DataSpec) -> Result<(Vec<Sample>, Vec<Sample>), DataError> {
    let listed = listed(pack)?;
    let labels: Vec<u32> = listed.iter().map(|sample| sample.class).collect();
    let in_val = validation_members(
        Path::new(pack.url()),
        &labels,
        spec.val_fraction,
        spec.split_seed,
        spec.stratify,
    )?;
    let (mut train, mut val) = (Vec::new(), Vec::new());
    for (sample, in_val) in listed.into_iter().zip(in_val) {
        if in_val {
            val.push(sample);
        } else {
            train.push(sample);
        }
    }
    Ok((train, val))
}
