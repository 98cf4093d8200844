//! Tokens: what a person shows instead of a certificate. A token is 256 random bits; of those that a
//! coordinator takes it has the SHA-256 alone.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::SecurityError;
use crate::files::{read, warn_if_open};
use crate::role::{Caller, Role, check_name};

const PREFIX: &str = "perennial-";
const BYTES: usize = 32;
/// A file of hashes is small; more is no such file.
const LARGEST_FILE: u64 = 1 << 20;

/// A secret that says who a person is.
#[derive(Clone)]
pub struct Token(String);

/// What is kept of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenEntry {
    /// Whose it is, for logs and to find it again.
    pub name: String,
    pub role: Role,
    /// The one job that it opens; none: every job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Of the token, in hexadecimal.
    pub sha256: String,
}

/// The tokens that a coordinator takes: a file with one JSON [`TokenEntry`] a line, read again whenever it
/// has changed. A line that is taken out ends its token at once.
pub struct Tokens {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    version: Option<(SystemTime, u64)>,
    entries: Vec<TokenEntry>,
}

// === impl Token ===

impl Token {
    /// A new one.
    pub fn new() -> Result<Self, SecurityError> {
        let mut bytes = [0; BYTES];
        let random = aws_lc_rs::default_provider().secure_random;
        let filled = random.fill(&mut bytes);
        filled.map_err(|_| SecurityError::Making("the system has no random numbers".into()))?;
        Ok(Self(format!("{PREFIX}{}", hex(&bytes))))
    }

    /// What `origin` (a file or a variable) holds.
    pub fn parse(text: &str, origin: impl Into<String>) -> Result<Self, SecurityError> {
        let text = text.trim();
        let digits = text.strip_prefix(PREFIX).unwrap_or_default();
        let whole = digits.len() == 2 * BYTES && digits.bytes().all(|b| b.is_ascii_hexdigit());
        if whole {
            Ok(Self(text.to_string()))
        } else {
            let origin = origin.into();
            Err(SecurityError::NotAToken { origin })
        }
    }

    pub fn read(path: &Path) -> Result<Self, SecurityError> {
        let token = Self::parse(&read(path)?, format!("`{}`", path.display()))?;
        warn_if_open(path);
        Ok(token)
    }

    /// The secret itself, for whom it was made and for the wire.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn entry(
        &self,
        name: &str,
        role: Role,
        job: Option<String>,
    ) -> Result<TokenEntry, SecurityError> {
        check_name(name)?;
        if !matches!(role, Role::Operator | Role::Viewer) {
            return Err(SecurityError::TokenRole(role));
        }
        Ok(TokenEntry {
            name: name.to_string(),
            role,
            job,
            sha256: sha256(&self.0),
        })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

// === impl Tokens ===

impl Tokens {
    /// The tokens of a file that is there and can be read now.
    pub fn open(path: &Path) -> Result<Self, SecurityError> {
        let tokens = Self {
            path: path.to_path_buf(),
            known: Mutex::default(),
        };
        tokens.refresh(&mut Known::default())?;
        Ok(tokens)
    }

    /// Who shows `token`, if it is known. Takes as long whichever token it is like.
    pub fn caller(&self, token: &str) -> Option<Caller> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.refresh(&mut known) {
            // Better nobody than somebody whose token was taken away.
            known.entries.clear();
            known.version = None;
            tracing::warn!("no token is taken: {error}");
        }
        let shown = sha256(token);
        let mut found = None;
        for entry in &known.entries {
            if bool::from(shown.as_bytes().ct_eq(entry.sha256.as_bytes())) {
                found = Some(entry);
            }
        }
        found.map(|entry| Caller {
            role: entry.role,
            name: entry.name.clone(),
            job: entry.job.clone(),
        })
    }

    fn refresh(&self, known: &mut Known) -> Result<(), SecurityError> {
        let cannot_read = |source| SecurityError::Read {
            path: self.path.clone(),
            source,
        };
        let metadata = std::fs::metadata(&self.path).map_err(cannot_read)?;
        let modified = metadata.modified().map_err(cannot_read)?;
        let version = (modified, metadata.len());
        if known.version == Some(version) {
            return Ok(());
        }
        if metadata.len() > LARGEST_FILE {
            return Err(self.refused(format!("it has more than {LARGEST_FILE} bytes")));
        }
        let text = read(&self.path)?;
        let mut entries = Vec::new();
        for (number, line) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.is_empty())
        {
            // What the line holds is not told: it may be a token.
            let entry: TokenEntry = serde_json::from_str(line)
                .map_err(|_| self.refused(format!("line {} is no entry", number + 1)))?;
            if !matches!(entry.role, Role::Operator | Role::Viewer) {
                return Err(SecurityError::TokenRole(entry.role));
            }
            entries.push(entry);
        }
        known.entries = entries;
        known.version = Some(version);
        Ok(())
    }

    fn refused(&self, reason: String) -> SecurityError {
        SecurityError::Tokens {
            path: self.path.clone(),
            reason,
        }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.path.display())
    }
}

fn sha256(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
