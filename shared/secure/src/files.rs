//! Files with secrets: readable for their owner alone, never overwritten.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

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
