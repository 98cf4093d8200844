//! The files by which a party is known, read again when they change.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ServerConfig};

use crate::error::SecurityError;
use crate::files::Version;
use crate::identity::Identity;
use crate::role::Role;

/// Whom a party trusts, and who it is itself where it has a certificate: files. Each connection looks whether they were
/// replaced; what is there then counts for it and all that follow. Files that cannot be used are told once, and what
/// was read before goes on, so that one that is half written disturbs nobody.
///
/// TLS 1.3 alone, and each connection with a handshake of its own: what was recorded cannot be played again.
pub struct Credentials {
    files: Files,
    current: Mutex<Current>,
}

/// Where everything lies.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub ca: PathBuf,
    /// What the authority has revoked; it may not be there.
    pub revoked: PathBuf,
    /// The own certificate and its key.
    pub own: Option<(PathBuf, PathBuf)>,
}

struct Current {
    identity: Arc<Identity>,
    /// Of the files when they were looked at last.
    seen: Vec<Option<Version>>,
}

// === impl Credentials ===

impl Credentials {
    /// Reads the authority and, where there are any, the own certificate and its key. What could not be used
    /// later is told now. What the authority has revoked is found beside it: `ca.crl` beside `ca.pem`.
    pub fn read(ca: &Path, own: Option<(&Path, &Path)>) -> Result<Self, SecurityError> {
        let files = Files {
            ca: ca.to_path_buf(),
            revoked: ca.with_extension("crl"),
            own: own.map(|(certificate, key)| (certificate.to_path_buf(), key.to_path_buf())),
        };
        let seen = files.versions();
        let identity = Arc::new(Identity::read(&files)?);
        Ok(Self {
            files,
            current: Mutex::new(Current { identity, seen }),
        })
    }

    /// Refuses when the own certificate is not that of a `role`.
    pub fn require(&self, role: Role) -> Result<(), SecurityError> {
        self.now().require(role)
    }

    /// For a connection to a coordinator's port: whoever shows a certificate is held to it; who shows none must bring
    /// a token.
    pub fn coordinator(&self) -> Result<Arc<ServerConfig>, SecurityError> {
        self.now().server(Role::Coordinator)
    }

    /// To dial a coordinator.
    pub fn to_coordinator(&self) -> Arc<ClientConfig> {
        self.now().to_coordinator.clone()
    }

    /// For a connection to one of a worker's ports: only workers are heard.
    pub fn worker(&self) -> Result<Arc<ServerConfig>, SecurityError> {
        self.now().server(Role::Worker)
    }

    /// To dial a worker.
    pub fn to_worker(&self) -> Arc<ClientConfig> {
        self.now().to_worker.clone()
    }

    /// Whether a certificate of the chain, with which somebody has opened a connection, was revoked since.
    pub fn has_revoked(&self, chain: &[CertificateDer<'_>]) -> bool {
        self.now().has_revoked(chain)
    }

    /// As the files are, or as they were when they could be used.
    fn now(&self) -> Arc<Identity> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // Before they are read: what changes meanwhile is seen the next time.
        let found = self.files.versions();
        if found != current.seen {
            current.seen = found;
            let read = Identity::read(&self.files);
            match read.and_then(|new| new.in_place_of(&current.identity, &self.files)) {
                Ok(identity) => {
                    let files = self.files.own.as_ref().map_or(&self.files.ca, |own| &own.0);
                    tracing::info!(
                        "certificates were replaced: from now on connections are made with `{}`",
                        files.display()
                    );
                    current.identity = Arc::new(identity);
                }
                Err(error) => {
                    tracing::warn!("{error}; the certificates that were read before go on");
                }
            }
        }
        current.identity.clone()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credentials").field(&self.files).finish()
    }
}

// === impl Files ===

impl Files {
    fn versions(&self) -> Vec<Option<Version>> {
        let own = self
            .own
            .iter()
            .flat_map(|(certificate, key)| [certificate, key]);
        let files = [&self.ca, &self.revoked].into_iter().chain(own);
        files.map(|path| Version::of(path)).collect()
    }
}
