//! A small authority of one's own: a key that signs certificates.

use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};
use webpki::{EndEntityCert, anchor_from_trusted_cert};

use crate::error::SecurityError;
use crate::files::{read, replace, warn_if_open, write_new};
use crate::register::{Issued, Register};
use crate::role::{Caller, Role, check_name};

const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";
/// What it has revoked; [`Credentials`](crate::Credentials) finds it beside the certificate.
pub const REVOKED: &str = "ca.crl";
/// The name of all authorities, and of those that were made when a key was not yet part of it.
const NAME: &str = "perennial authority";
/// Clocks of machines differ: a certificate is valid a little before it was made.
const CLOCKS: Duration = Duration::minutes(10);
const AUTHORITY: Duration = Duration::days(3650);
/// In names of certificates whose coordinator is also reached on its own machine.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A folder with `ca.pem`, which everybody gets, and `ca.key`, which nobody else does.
pub struct Authority {
    name: String,
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// What a certificate is to say.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub role: Role,
    pub name: String,
    /// Names and addresses at which its holder is reached. A coordinator's has those of its own machine anyway.
    pub hosts: Vec<String>,
    /// On which days it is valid, counted from now.
    pub days: Range<i64>,
}

// === impl Authority ===

impl Authority {
    /// A new authority in `folder`, which is made. One that is there is left alone.
    pub fn init(folder: &Path) -> Result<Self, SecurityError> {
        let path = folder.join(CERTIFICATE);
        if path.exists() {
            return Err(SecurityError::Exists(path));
        }
        std::fs::create_dir_all(folder).map_err(|source| SecurityError::Write {
            path: folder.to_path_buf(),
            source,
        })?;
        let (authority, key) = Self::made()?;
        write_new(&folder.join(KEY), &key, true)?;
        write_new(&path, &authority.certificate, false)?;
        Ok(authority)
    }

    /// The authority of `folder`.
    pub fn open(folder: &Path) -> Result<Self, SecurityError> {
        let path = folder.join(KEY);
        if !path.exists() {
            return Err(SecurityError::NoAuthority(folder.to_path_buf()));
        }
        let key = KeyPair::from_pem(&read(&path)?).map_err(|error| SecurityError::Key {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        warn_if_open(&path);
        let certificate = read(&folder.join(CERTIFICATE))?;
        let mut name = name_of(&key);
        if !is_called(&certificate, &name) {
            name = NAME.to_string();
        }
        Ok(Self {
            certificate,
            issuer: Issuer::new(params(&name), key),
            name,
        })
    }

    /// An authority in memory and its key.
    fn made() -> Result<(Self, String), SecurityError> {
        let key = KeyPair::generate().map_err(making)?;
        let pem = key.serialize_pem();
        let name = name_of(&key);
        let mut params = params(&name);
        let now = OffsetDateTime::now_utc();
        params.not_before = now - CLOCKS;
        params.not_after = now + AUTHORITY;
        let certificate = params.self_signed(&key).map_err(making)?.pem();
        let issuer = Issuer::new(params, key);
        Ok((
            Self {
                name,
                issuer,
                certificate,
            },
            pem,
        ))
    }

    /// What its certificates call their issuer.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The authority's own certificate in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A new certificate and its key, both in PEM.
    pub fn issue(&self, wanted: &Wanted) -> Result<(String, String), SecurityError> {
        let key = KeyPair::generate().map_err(making)?;
        let params = wanted.params()?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(making)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// Issues `NAME.pem` and `NAME.key` into `folder`, which are not there yet.
    pub fn issue_into(&self, folder: &Path, wanted: &Wanted) -> Result<(), SecurityError> {
        self.issue_files(folder, wanted, write_new)
    }

    /// The same in place of those that are there: a process that uses them takes the new ones up.
    pub fn replace_in(&self, folder: &Path, wanted: &Wanted) -> Result<(), SecurityError> {
        self.issue_files(folder, wanted, replace)
    }

    fn issue_files(
        &self,
        folder: &Path,
        wanted: &Wanted,
        write: fn(&Path, &str, bool) -> Result<(), SecurityError>,
    ) -> Result<(), SecurityError> {
        check_name(&wanted.name)?;
        let (certificate, key) = self.issue(wanted)?;
        let file = |end: &str| folder.join(format!("{}.{end}", wanted.name));
        let mut register = Register::open(folder)?;
        // One that was made before there was a register, or by another program: it can be revoked later, too.
        if let Some(serial) = serial_in(&file("pem")) {
            register.add(&wanted.name, None, &serial);
        }
        write(&file("pem"), &certificate, false)?;
        write(&file("key"), &key, true)?;
        if let Some(serial) = serial_of(&certificate) {
            register.add(&wanted.name, Some(wanted.role), &serial);
        }
        register.save()
    }

    /// Takes all certificates of these names back: those that `folder` knows of. They stand in its list from then on,
    /// which goes wherever its `ca.pem` goes. The ones that were not in it yet are returned.
    pub fn revoke(&self, folder: &Path, names: &[String]) -> Result<Vec<Issued>, SecurityError> {
        let mut register = Register::open(folder)?;
        let mut revoked = Vec::new();
        for name in names {
            check_name(name)?;
            if let Some(serial) = serial_in(&folder.join(format!("{name}.pem"))) {
                register.add(name, None, &serial);
            }
            if !register.knows(name) {
                return Err(SecurityError::NeverIssued {
                    name: name.clone(),
                    folder: folder.to_path_buf(),
                });
            }
            revoked.extend(register.revoke(name));
        }
        let list = self.list(&register)?;
        register.save()?;
        replace(&folder.join(REVOKED), &list, false)?;
        Ok(revoked)
    }

    /// All that was revoked, signed, in PEM.
    fn list(&self, register: &Register) -> Result<String, SecurityError> {
        let revoked = register.revoked().filter_map(|(entry, when)| {
            Some(RevokedCertParams {
                serial_number: SerialNumber::from(entry.serial_bytes()?),
                revocation_time: OffsetDateTime::from_unix_timestamp(when).ok()?,
                reason_code: None,
                invalidity_date: None,
            })
        });
        let revoked: Vec<RevokedCertParams> = revoked.collect();
        let now = OffsetDateTime::now_utc();
        let params = CertificateRevocationListParams {
            this_update: now - CLOCKS,
            next_update: now + AUTHORITY,
            // It only grows.
            crl_number: SerialNumber::from(revoked.len() as u64),
            issuing_distribution_point: None,
            revoked_certs: revoked,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).map_err(making)?;
        list.pem().map_err(making)
    }
}

/// What an authority with this key is called. Two of them have two names, so that lists of what they revoked are told
/// apart.
fn name_of(key: &KeyPair) -> String {
    let hash = Sha256::digest(key.public_key_raw());
    let digits: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{NAME} {digits}")
}

fn is_called(certificate: &str, name: &str) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(certificate.as_bytes()) else {
        return false;
    };
    let anchor = anchor_from_trusted_cert(&der);
    let contains = |subject: &[u8]| {
        let mut windows = subject.windows(name.len());
        windows.any(|window| window == name.as_bytes())
    };
    anchor.is_ok_and(|anchor| contains(&anchor.subject))
}

/// Of the certificate in a file, if there is one.
fn serial_in(path: &Path) -> Option<Vec<u8>> {
    serial_of(&std::fs::read_to_string(path).ok()?)
}

fn serial_of(certificate: &str) -> Option<Vec<u8>> {
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).ok()?;
    let certificate = EndEntityCert::try_from(&der).ok()?;
    Some(certificate.serial().to_vec())
}

// === impl Wanted ===

impl Wanted {
    fn params(&self) -> Result<CertificateParams, SecurityError> {
        let mut params = CertificateParams::default();
        let uri = Caller::uri(self.role, &self.name)?;
        (params.subject_alt_names).push(SanType::URI(uri.try_into().map_err(making)?));
        let local = match self.role {
            Role::Coordinator => &LOOPBACK[..],
            _ => &[],
        };
        for host in self
            .hosts
            .iter()
            .map(String::as_str)
            .chain(local.iter().copied())
        {
            params.subject_alt_names.push(host_name(host)?);
        }
        params.distinguished_name = DistinguishedName::new();
        (params.distinguished_name).push(DnType::CommonName, self.name.as_str());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        // People dial and are never dialed.
        if matches!(self.role, Role::Worker | Role::Coordinator) {
            (params.extended_key_usages).push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let now = OffsetDateTime::now_utc();
        params.not_before = now + Duration::days(self.days.start) - CLOCKS;
        params.not_after = now + Duration::days(self.days.end);
        Ok(params)
    }
}

/// What all authorities have in common; with the key, all that signing needs.
fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = DistinguishedName::new();
    (params.distinguished_name).push(DnType::CommonName, name);
    params
}

fn host_name(host: &str) -> Result<SanType, SecurityError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-.*".contains(c);
    if host.is_empty() || !host.chars().all(plain) {
        return Err(SecurityError::Host(host.to_string()));
    }
    let name = host.try_into();
    name.map(SanType::DnsName)
        .map_err(|_| SecurityError::Host(host.to_string()))
}

fn making(error: rcgen::Error) -> SecurityError {
    SecurityError::Making(error.to_string())
}
