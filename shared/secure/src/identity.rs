//! From PEM files to what TLS needs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientCertVerifierBuilder, NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore, ServerConfig};
use webpki::{CertRevocationList, EndEntityCert, OwnedCertRevocationList};

use crate::credentials::Files;
use crate::error::{SecurityError, of_certificate};
use crate::files::{read, warn_if_open};
use crate::peers::{Dialed, Dialing};
use crate::role::{Caller, Role};

/// What a coordinator's port understands: gRPC, and HTTP/1 for a Prometheus server.
const CONTROL: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// What workers speak with each other: a connection that was meant for another port is none.
const MESH: &[u8] = b"perennial-mesh";

/// The files of a party as they were once.
pub(crate) struct Identity {
    own: Option<(PathBuf, Caller)>,
    /// For the ports of a coordinator or a worker, whichever the own certificate is for.
    server: Option<Arc<ServerConfig>>,
    pub to_coordinator: Arc<ClientConfig>,
    pub to_worker: Arc<ClientConfig>,
    revoked: Vec<CertRevocationList<'static>>,
}

/// What the authority says: its certificates, and those of others that it has taken back.
struct Trust {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    /// For handshakes, and to look something up.
    revoked: Vec<CertificateRevocationListDer<'static>>,
    lists: Vec<CertRevocationList<'static>>,
}

struct Own {
    caller: Caller,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

// === impl Identity ===

impl Identity {
    pub fn read(files: &Files) -> Result<Self, SecurityError> {
        let trust = Trust::read(files)?;
        let own = files.own.as_ref();
        let own = own.map(|(certificate, key)| Own::read(certificate, key, &trust));
        let own = own.transpose()?;
        let server = match &own {
            Some(own) => own.server(&trust)?,
            None => None,
        };
        Ok(Self {
            server,
            to_coordinator: trust.client(Role::Coordinator, own.as_ref(), CONTROL[0])?,
            to_worker: trust.client(Role::Worker, own.as_ref(), MESH)?,
            own: files
                .own
                .as_ref()
                .zip(own)
                .map(|((path, _), own)| (path.clone(), own.caller)),
            revoked: trust.lists,
        })
    }

    /// Itself, where a process that was `before` may go on with it.
    pub fn in_place_of(self, before: &Self, files: &Files) -> Result<Self, SecurityError> {
        if !before.revoked.is_empty() && self.revoked.is_empty() {
            // What was revoked must not come back because a file is missing.
            return Err(SecurityError::NoLongerThere(files.revoked.clone()));
        }
        if let Some((_, caller)) = &before.own {
            self.require(caller.role)?;
        }
        Ok(self)
    }

    /// Refuses when the own certificate is not that of a `role`.
    pub fn require(&self, role: Role) -> Result<(), SecurityError> {
        let own = self.own.as_ref();
        let (path, caller) = own.ok_or(SecurityError::NoCertificate(role))?;
        if caller.role == role {
            return Ok(());
        }
        Err(SecurityError::WrongRole {
            path: path.clone(),
            found: caller.role,
            wanted: role,
        })
    }

    /// Whether the authority has taken back a certificate of this chain.
    pub fn has_revoked(&self, chain: &[CertificateDer<'_>]) -> bool {
        let is_listed = |certificate: &CertificateDer<'_>| {
            let Ok(certificate) = EndEntityCert::try_from(certificate) else {
                return false;
            };
            self.revoked.iter().any(|list| {
                let listed = list.find_serial(certificate.serial());
                list.issuer() == certificate.issuer() && matches!(listed, Ok(Some(_)))
            })
        };
        chain.iter().any(is_listed)
    }

    /// For the ports of a coordinator or a worker.
    pub fn server(&self, role: Role) -> Result<Arc<ServerConfig>, SecurityError> {
        self.require(role)?;
        let server = self.server.clone();
        server.ok_or(SecurityError::NoCertificate(role))
    }
}

// === impl Trust ===

impl Trust {
    fn read(files: &Files) -> Result<Self, SecurityError> {
        let mut roots = RootCertStore::empty();
        for root in certificates(&files.ca)? {
            roots
                .add(root)
                .map_err(|error| unusable(&files.ca, &error))?;
        }
        let (revoked, lists) = match files.revoked.exists() {
            true => revoked(&files.revoked, &roots)?,
            false => Default::default(),
        };
        Ok(Self {
            provider: Arc::new(aws_lc_rs::default_provider()),
            roots: Arc::new(roots),
            revoked,
            lists,
        })
    }

    /// An authority that has revoked nothing has no list.
    fn clients(&self) -> ClientCertVerifierBuilder {
        WebPkiClientVerifier::builder_with_provider(self.roots.clone(), self.provider.clone())
            .with_crls(self.revoked.iter().cloned())
            .allow_unknown_revocation_status()
    }

    fn any_client(&self) -> Result<Arc<dyn ClientCertVerifier>, SecurityError> {
        self.clients().build().map_err(cannot)
    }

    fn client(
        &self,
        role: Role,
        own: Option<&Own>,
        protocol: &[u8],
    ) -> Result<Arc<ClientConfig>, SecurityError> {
        let by_name =
            WebPkiServerVerifier::builder_with_provider(self.roots.clone(), self.provider.clone())
                .with_crls(self.revoked.iter().cloned())
                .allow_unknown_revocation_status();
        let verifier = Dialed {
            roots: self.roots.clone(),
            by_name: by_name.build().map_err(cannot)?,
            unrevoked: self.any_client()?,
            algorithms: self.provider.signature_verification_algorithms,
            role,
        };
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(cannot)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match own {
            Some(own) => builder
                .with_client_auth_cert(own.chain.clone(), own.key.clone_key())
                .map_err(cannot)?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = role == Role::Coordinator;
        Ok(Arc::new(config))
    }
}

// === impl Own ===

impl Own {
    fn read(path: &Path, key_path: &Path, trust: &Trust) -> Result<Self, SecurityError> {
        let chain = certificates(path)?;
        let (leaf, intermediates) = chain.split_first().ok_or_else(|| SecurityError::NotPem {
            path: path.to_path_buf(),
            wanted: "certificate",
        })?;
        let valid = trust
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
        CertifiedKey::from_der(chain.clone(), key.clone_key(), &trust.provider).map_err(
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
        Ok(Self { caller, chain, key })
    }

    /// None for a person, who is never dialed.
    fn server(&self, trust: &Trust) -> Result<Option<Arc<ServerConfig>>, SecurityError> {
        let (clients, protocols): (Arc<dyn ClientCertVerifier>, _) = match self.caller.role {
            Role::Coordinator => {
                let clients = trust.clients().allow_unauthenticated();
                let protocols = CONTROL.map(<[u8]>::to_vec).to_vec();
                (clients.build().map_err(cannot)?, protocols)
            }
            Role::Worker => {
                let clients = Dialing {
                    signed: trust.any_client()?,
                    role: Role::Worker,
                };
                (Arc::new(clients), vec![MESH.to_vec()])
            }
            Role::Operator | Role::Viewer => return Ok(None),
        };
        let mut config = ServerConfig::builder_with_provider(trust.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(cannot)?
            .with_client_cert_verifier(clients)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(cannot)?;
        config.alpn_protocols = protocols;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Some(Arc::new(config)))
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

/// The same lists in two forms.
type Lists = (
    Vec<CertificateRevocationListDer<'static>>,
    Vec<CertRevocationList<'static>>,
);

/// The lists of `path`, each of which is of one of the `roots`: another one would have no effect.
fn revoked(path: &Path, roots: &RootCertStore) -> Result<Lists, SecurityError> {
    let text = read(path)?;
    let not_pem = || SecurityError::NotPem {
        path: path.to_path_buf(),
        wanted: "list of revoked certificates",
    };
    let unusable = |reason: &str| SecurityError::Revoked {
        path: path.to_path_buf(),
        reason: reason.into(),
    };
    let found = CertificateRevocationListDer::pem_slice_iter(text.as_bytes());
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|_| not_pem())?;
    if found.is_empty() {
        return Err(not_pem());
    }
    let mut lists = Vec::new();
    for list in &found {
        let list = OwnedCertRevocationList::from_der(list)
            .map_err(|_| unusable("it is damaged; write it again with `perennial certs revoke`"))?;
        let list = CertRevocationList::from(list);
        let is_of = |root: &rustls::pki_types::TrustAnchor<'_>| *root.subject == *list.issuer();
        if !roots.roots.iter().any(is_of) {
            return Err(unusable("it is of another authority than --tls-ca names"));
        }
        lists.push(list);
    }
    Ok((found, lists))
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
