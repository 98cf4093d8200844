//! What an authority has issued and revoked: a file beside its key, a JSON [`Issued`] a line.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::error::SecurityError;
use crate::files::{read, replace};
use crate::role::Role;

const FILE: &str = "issued";

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issued {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// In hexadecimal.
    pub serial: String,
    /// Seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<i64>,
}

/// All of an authority, the oldest first.
pub(crate) struct Register {
    path: PathBuf,
    pub entries: Vec<Issued>,
}

// === impl Issued ===

impl Issued {
    pub(crate) fn serial_bytes(&self) -> Option<Vec<u8>> {
        let digits = self.serial.as_bytes().chunks(2);
        let bytes = digits.map(|pair| {
            let pair = std::str::from_utf8(pair)
                .ok()
                .filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        });
        bytes.collect()
    }
}

// === impl Register ===

impl Register {
    /// That of the authority in `folder`; empty where nothing was written yet.
    pub fn open(folder: &Path) -> Result<Self, SecurityError> {
        let path = folder.join(FILE);
        let text = match path.exists() {
            true => read(&path)?,
            false => String::new(),
        };
        let mut entries = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let entry: Option<Issued> = serde_json::from_str(line).ok();
            let entry = entry.filter(|entry| entry.serial_bytes().is_some());
            entries.push(entry.ok_or_else(|| SecurityError::Register {
                path: path.clone(),
                reason: format!("line {number} is no certificate"),
            })?);
        }
        Ok(Self { path, entries })
    }

    /// Puts a certificate in that is not there.
    pub fn add(&mut self, name: &str, role: Option<Role>, serial: &[u8]) {
        let serial: String = serial.iter().map(|byte| format!("{byte:02x}")).collect();
        if self.entries.iter().any(|entry| entry.serial == serial) {
            return;
        }
        self.entries.push(Issued {
            name: name.to_string(),
            role,
            serial,
            revoked: None,
        });
    }

    /// Marks all certificates of `name`; those that were not marked yet are returned.
    pub fn revoke(&mut self, name: &str) -> Vec<Issued> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let theirs = self
            .entries
            .iter_mut()
            .filter(|entry| entry.name == name && entry.revoked.is_none());
        theirs
            .map(|entry| {
                entry.revoked = Some(now);
                entry.clone()
            })
            .collect()
    }

    pub fn knows(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name == name)
    }

    pub fn revoked(&self) -> impl Iterator<Item = (&Issued, i64)> {
        let entries = self.entries.iter();
        entries.filter_map(|entry| Some((entry, entry.revoked?)))
    }

    pub fn save(&self) -> Result<(), SecurityError> {
        let mut text = String::new();
        for entry in &self.entries {
            text += &serde_json::to_string(entry)
                .map_err(|error| SecurityError::Making(error.to_string()))?;
            text.push('\n');
        }
        replace(&self.path, &text, false)
    }
}
