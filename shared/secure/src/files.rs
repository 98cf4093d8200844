//! Files with secrets: readable for their owner alone, and never half written.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::SecurityError;

/// Writes a file that is not there yet; one with a `secret` is readable for its owner alone.
pub fn write_new(path: &Path, text: &str, secret: bool) -> Result<(), SecurityError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(if secret { 0o600 } else { 0o644 });
    }
    #[cfg(not(unix))]
    let _ = secret;
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| match source.kind() {
        ErrorKind::AlreadyExists => SecurityError::Exists(path.to_path_buf()),
        _ => SecurityError::Write {
            path: path.to_path_buf(),
            source,
        },
    })
}

/// Writes a file that may be there: whoever reads it finds the old text or the new one, and nothing between them.
pub(crate) fn replace(path: &Path, text: &str, secret: bool) -> Result<(), SecurityError> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.new", std::process::id()));
    let new: PathBuf = path.with_file_name(name);
    write_new(&new, text, secret)?;
    std::fs::rename(&new, path).map_err(|source| {
        let _ = std::fs::remove_file(&new);
        SecurityError::Write {
            path: path.to_path_buf(),
            source,
        }
    })
}

/// Of a file: another one has another version, wherever a link leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    modified: Option<SystemTime>,
    bytes: u64,
    /// The file's number, and when that was changed: a copy may keep its time and its size.
    #[cfg(unix)]
    identity: (u64, i64, i64),
}

impl Version {
    /// None where there is no such file.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        #[cfg(unix)]
        let identity = {
            use std::os::unix::fs::MetadataExt;
            (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
        };
        Some(Self {
            modified: metadata.modified().ok(),
            bytes: metadata.len(),
            #[cfg(unix)]
            identity,
        })
    }
}

/// Says so when others on this machine may read a secret. It is used all the same: clusters hand out
/// secrets as files of other modes.
pub(crate) fn warn_if_open(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
        if mode & 0o007 != 0 {
            let path = path.display();
            tracing::warn!(
                "`{path}` is a secret that everybody on this machine may read: chmod 600"
            );
        }
    }
    #[cfg(not(unix))]
    let _ = path;
}

pub(crate) fn read(path: &Path) -> Result<String, SecurityError> {
    std::fs::read_to_string(path).map_err(|source| SecurityError::Read {
        path: path.to_path_buf(),
        source,
    })
}
