//! What lies in a folder of pictures: classes and files in ascending byte order. Hidden ones are ignored.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::DataError;

const EXTENSIONS: [&str; 5] = ["jpg", "jpeg", "png", "webp", "gif"];

/// Whether `dir` has `train` and `val` folders; one without the other is refused when it holds folders.
pub(crate) fn is_split(dir: &Path) -> Result<bool, DataError> {
    let (train, val) = (dir.join("train"), dir.join("val"));
    let half = |present: &'static str, missing: &'static str| DataError::HalfSplit {
        dir: dir.to_path_buf(),
        present,
        missing,
    };
    match (train.is_dir(), val.is_dir()) {
        (true, true) => Ok(true),
        (true, false) if !folders(&train)?.is_empty() => Err(half("train", "val")),
        (false, true) if !folders(&val)?.is_empty() => Err(half("val", "train")),
        _ => Ok(false),
    }
}

/// A picture in a folder.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub file: File,
    /// Its place in [`Listing::classes`].
    pub class: u32,
}

/// A file with a picture.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub path: PathBuf,
    /// `CLASS/FILE`, the same whether the folder is split or not.
    pub relative: String,
    pub bytes: u64,
}

/// The classes of a folder and their pictures, both in ascending byte order.
#[derive(Debug)]
pub(crate) struct Listing {
    pub classes: Vec<String>,
    pub pictures: Vec<Found>,
    pub empty_folders: Vec<String>,
}

/// Lists `dir/CLASS/FILE`.
pub(crate) fn list(dir: &Path) -> Result<Listing, DataError> {
    let mut listing = Listing {
        classes: Vec::new(),
        pictures: Vec::new(),
        empty_folders: Vec::new(),
    };
    for class in folders(dir)? {
        let files = pictures(&dir.join(&class))?;
        if files.is_empty() {
            listing.empty_folders.push(class);
            continue;
        }
        for (file, bytes) in files {
            let file = File {
                path: dir.join(&class).join(&file),
                relative: format!("{class}/{file}"),
                bytes,
            };
            let class = listing.classes.len() as u32;
            listing.pictures.push(Found { file, class });
        }
        listing.classes.push(class);
    }
    Ok(listing)
}

fn folders(dir: &Path) -> Result<BTreeSet<String>, DataError> {
    let mut names = BTreeSet::new();
    for path in visible_entries(dir)? {
        if path.is_dir() {
            names.insert(utf8_name(&path)?);
        }
    }
    Ok(names)
}

fn pictures(dir: &Path) -> Result<BTreeSet<(String, u64)>, DataError> {
    let mut files = BTreeSet::new();
    for path in visible_entries(dir)? {
        if !is_picture(&path) {
            continue;
        }
        let metadata = fs::metadata(&path).map_err(DataError::io("read", &path))?;
        if metadata.is_file() {
            files.insert((utf8_name(&path)?, metadata.len()));
        }
    }
    Ok(files)
}

/// Whether the file's name ends as a picture's does.
pub fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| {
        EXTENSIONS
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    })
}

fn visible_entries(dir: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(DataError::io("list", dir))? {
        let entry = entry.map_err(DataError::io("list", dir))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

fn utf8_name(path: &Path) -> Result<String, DataError> {
    path.file_name()
        .and_then(|name| name.to_str())
        .map(str::to_string)
        .ok_or_else(|| DataError::Name(path.to_path_buf()))
}
