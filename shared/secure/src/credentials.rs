//! From PEM files to what TLS needs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore, ServerConfig};

use crate::error::{SecurityError, of_certificate};
use crate::files::{read, warn_if_open};
use crate::peers::{Dialed, Dialing};
use crate::role::{Caller, Role};

/// What a coordinator's port understands: gRPC, and HTTP/1 for a Prometheus server.
const CONTROL: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// What workers speak with each other: a connection that was meant for another port is none.
const MESH: &[u8] = b"perennial-mesh";

/// Whom a party trusts, and who it is itself where it has a certificate. TLS 1.3 alone, and each connection
/// with a handshake of its own: what was recorded cannot be played again.
#[derive(Debug)]
pub struct Credentials {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    path: PathBuf,
    caller: Caller,
    chain: Vec<CertificateDer<'static>>,
    /// Hides itself in `Debug`.
    key: PrivateKeyDer<'static>,
}

// === impl Credentials ===

impl Credentials {
    /// Reads the authority and, where there are any, the own certificate and its key. What could not be used
    /// later is told now.
    pub fn read(ca: &Path, own: Option<(&Path, &Path)>) -> Result<Self, SecurityError> {
        let mut roots = RootCertStore::empty();
        for root in certificates(ca)? {
            roots.add(root).map_err(|error| unusable(ca, &error))?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = Arc::new(roots);
        let mut credentials = Self {
            provider,
            roots,
            own: None,
        };
        if let Some((certificate, key)) = own {
            credentials.own = Some(credentials.read_own(certificate, key)?);
        }
        Ok(credentials)
    }

    fn read_own(&self, path: &Path, key_path: &Path) -> Result<Own, SecurityError> {
        let chain = certificates(path)?;
        let (leaf, intermediates) = chain.split_first().ok_or_else(|| SecurityError::NotPem {
            path: path.to_path_buf(),
            wanted: "certificate",
        })?;
        let valid = self
            .any_client()?
            .verify_client_cert(leaf, intermediates, UnixTime::now());
        match valid.map(|_| ()) {
            // One that is for servers alone serves a coordinator well.
            Err(Error::InvalidCertificate(
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
            ))
            | Ok(()) => {}
            Err(error) => return Err(unusable(path, &error)),
        }
        let caller = Caller::of_certificate(leaf).ok_or_else(|| SecurityError::NoRole {
            path: path.to_path_buf(),
        })?;
        let text = read(key_path)?;
        warn_if_open(key_path);
        let key =
            PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| SecurityError::NotPem {
                path: key_path.to_path_buf(),
                wanted: "private key",
            })?;
        CertifiedKey::from_der(chain.clone(), key.clone_key(), &self.provider).map_err(
            |error| {
                let reason = match error {
                    Error::InconsistentKeys(_) => {
                        format!("it does not belong to `{}`", path.display())
                    }
                    other => other.to_string(),
                };
                SecurityError::Key {
                    path: key_path.to_path_buf(),
                    reason,
                }
            },
        )?;
        Ok(Own {
            path: path.to_path_buf(),
            caller,
            chain,
            key,
        })
    }

    /// Refuses when the own certificate is not that of a `role`.
    pub fn require(&self, role: Role) -> Result<(), SecurityError> {
        let own = self.own(role)?;
        if own.caller.role == role {
            return Ok(());
        }
        Err(SecurityError::WrongRole {
            path: own.path.clone(),
            found: own.caller.role,
            wanted: role,
        })
    }

    fn own(&self, role: Role) -> Result<&Own, SecurityError> {
        self.own.as_ref().ok_or(SecurityError::NoCertificate(role))
    }

    /// For a coordinator's port: whoever shows a certificate is held to it; who shows none must bring a token.
    pub fn coordinator(&self) -> Result<Arc<ServerConfig>, SecurityError> {
        self.require(Role::Coordinator)?;
        let clients =
            WebPkiClientVerifier::builder_with_provider(self.roots.clone(), self.provider.clone());
        let clients = clients.allow_unauthenticated().build().map_err(cannot)?;
        let protocols = CONTROL.map(<[u8]>::to_vec).to_vec();
        self.server(Role::Coordinator, clients, protocols)
    }

    /// To dial a coordinator.
    pub fn to_coordinator(&self) -> Result<Arc<ClientConfig>, SecurityError> {
        self.client(Role::Coordinator, vec![CONTROL[0].to_vec()])
    }

    /// For a worker's ports: only workers are heard.
    pub fn worker(&self) -> Result<Arc<ServerConfig>, SecurityError> {
        self.require(Role::Worker)?;
        let clients = Arc::new(Dialing {
            signed: self.any_client()?,
            role: Role::Worker,
        });
        self.server(Role::Worker, clients, vec![MESH.to_vec()])
    }

    /// To dial a worker.
    pub fn to_worker(&self) -> Result<Arc<ClientConfig>, SecurityError> {
        self.client(Role::Worker, vec![MESH.to_vec()])
    }

    fn any_client(
        &self,
    ) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, SecurityError> {
        let builder =
            WebPkiClientVerifier::builder_with_provider(self.roots.clone(), self.provider.clone());
        builder.build().map_err(cannot)
    }

    fn server(
        &self,
        role: Role,
        clients: Arc<dyn rustls::server::danger::ClientCertVerifier>,
        protocols: Vec<Vec<u8>>,
    ) -> Result<Arc<ServerConfig>, SecurityError> {
        let own = self.own(role)?;
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(cannot)?
            .with_client_cert_verifier(clients)
            .with_single_cert(own.chain.clone(), own.key.clone_key())
            .map_err(cannot)?;
        config.alpn_protocols = protocols;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    fn client(
        &self,
        role: Role,
        protocols: Vec<Vec<u8>>,
    ) -> Result<Arc<ClientConfig>, SecurityError> {
        let by_name =
            WebPkiServerVerifier::builder_with_provider(self.roots.clone(), self.provider.clone());
        let verifier = Dialed {
            roots: self.roots.clone(),
            by_name: by_name.build().map_err(cannot)?,
            algorithms: self.provider.signature_verification_algorithms,
            role,
        };
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(cannot)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.own {
            Some(own) => builder
                .with_client_auth_cert(own.chain.clone(), own.key.clone_key())
                .map_err(cannot)?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols;
        config.resumption = Resumption::disabled();
        config.enable_sni = role == Role::Coordinator;
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SecurityError> {
    let text = read(path)?;
    let not_pem = || SecurityError::NotPem {
        path: path.to_path_buf(),
        wanted: "certificate",
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let found = found.map_err(|_| not_pem())?;
    if found.is_empty() {
        return Err(not_pem());
    }
    Ok(found)
}

fn unusable(path: &Path, error: &Error) -> SecurityError {
    let reason = match error {
        Error::InvalidCertificate(why) => format!("it {}", of_certificate(why)),
        other => other.to_string(),
    };
    SecurityError::Certificate {
        path: path.to_path_buf(),
        reason,
    }
}

fn cannot(error: impl ToString) -> SecurityError {
    SecurityError::Making(error.to_string())
}
