//! Writing files that people name.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};

/// An error when there is something at `path`.
pub fn refuse_existing(path: &Path) -> anyhow::Result<()> {
    if path.symlink_metadata().is_ok() {
        bail!("`{}` exists already and is not overwritten", path.display());
    }
    Ok(())
}

/// Writes a file that is there as a whole or not at all.
pub fn write_new(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    refuse_existing(path)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let cannot = || format!("cannot write `{}`", path.display());
    if !folder.is_dir() {
        bail!(
            "cannot write `{}`: there is no folder `{}`; make it first",
            path.display(),
            folder.display()
        );
    }
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(cannot)?;
    file.write_all(content).with_context(cannot)?;
    file.as_file().sync_all().with_context(cannot)?;
    file.persist_noclobber(path).with_context(cannot)?;
    Ok(())
}
