//! A small authority of one's own: a key that signs certificates.

use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

use crate::error::SecurityError;
use crate::files::{read, warn_if_open, write_new};
use crate::role::{Caller, Role, check_name};

const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";
/// Clocks of machines differ: a certificate is valid a little before it was made.
const CLOCKS: Duration = Duration::minutes(10);
const AUTHORITY: Duration = Duration::days(3650);
/// In names of certificates whose coordinator is also reached on its own machine.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A folder with `ca.pem`, which everybody gets, and `ca.key`, which nobody else does.
pub struct Authority {
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
        let key = KeyPair::from_pem(&read(&path)?).map_err(|error| SecurityError::Key {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        warn_if_open(&path);
        Ok(Self {
            certificate: read(&folder.join(CERTIFICATE))?,
            issuer: Issuer::new(params(), key),
        })
    }

    /// An authority in memory and its key.
    fn made() -> Result<(Self, String), SecurityError> {
        let key = KeyPair::generate().map_err(making)?;
        let pem = key.serialize_pem();
        let mut params = params();
        let now = OffsetDateTime::now_utc();
        params.not_before = now - CLOCKS;
        params.not_after = now + AUTHORITY;
        let certificate = params.self_signed(&key).map_err(making)?.pem();
        let issuer = Issuer::new(params, key);
        Ok((
            Self {
                issuer,
                certificate,
            },
            pem,
        ))
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

    /// Issues `NAME.pem` and `NAME.key` into `folder`.
    pub fn issue_into(&self, folder: &Path, wanted: &Wanted) -> Result<(), SecurityError> {
        check_name(&wanted.name)?;
        let (certificate, key) = self.issue(wanted)?;
        let file = |end: &str| folder.join(format!("{}.{end}", wanted.name));
        write_new(&file("pem"), &certificate, false)?;
        write_new(&file("key"), &key, true)
    }
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
fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = DistinguishedName::new();
    (params.distinguished_name).push(DnType::CommonName, "perennial authority");
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
