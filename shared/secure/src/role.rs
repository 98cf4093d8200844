//! What a party is, as its certificate or its token says.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use webpki::EndEntityCert;

use crate::error::SecurityError;

const SCHEME: &str = "perennial://";
const LONGEST_NAME: usize = 64;

/// What its holder is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Trains: joins jobs, sums with other workers, hands out and copies replicas.
    Worker,
    /// Rules a job, or stands by to.
    Coordinator,
    /// A person who may change what runs.
    Operator,
    /// A person, or a Prometheus server, who may look.
    Viewer,
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub role: Role,
    pub name: String,
    /// The one job that it may touch; none: every job.
    pub job: Option<String>,
}

// === impl Role ===

impl Role {
    pub const ALL: [Self; 4] = [
        Self::Worker,
        Self::Coordinator,
        Self::Operator,
        Self::Viewer,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Coordinator => "coordinator",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
        }
    }

    /// `a worker`, `an operator`.
    pub fn with_article(self) -> String {
        match self {
            Self::Operator => format!("an {self}"),
            _ => format!("a {self}"),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = SecurityError;

    fn from_str(text: &str) -> Result<Self, SecurityError> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| SecurityError::UnknownRole(text.to_string()))
    }
}

// === impl Caller ===

impl Caller {
    /// Whom a certificate names, which has been verified before.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = EndEntityCert::try_from(certificate).ok()?;
        certificate.valid_uri_names().find_map(Self::of_uri)
    }

    /// The name in certificates: `perennial://ROLE/NAME`.
    pub fn uri(role: Role, name: &str) -> Result<String, SecurityError> {
        check_name(name)?;
        Ok(format!("{SCHEME}{role}/{name}"))
    }

    fn of_uri(uri: &str) -> Option<Self> {
        let (role, name) = uri.strip_prefix(SCHEME)?.split_once('/')?;
        check_name(name).ok()?;
        Some(Self {
            role: role.parse().ok()?,
            name: name.to_string(),
            job: None,
        })
    }

    /// Whether it may touch this job at all.
    pub fn may_touch(&self, job: &str) -> bool {
        self.job.as_deref().is_none_or(|own| own == job)
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.role, self.name)
    }
}

/// A name is a file's name, too.
pub(crate) fn check_name(name: &str) -> Result<(), SecurityError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let fits = (1..=LONGEST_NAME).contains(&name.len()) && !name.starts_with('.');
    if fits && name.chars().all(plain) {
        Ok(())
    } else {
        Err(SecurityError::Name(name.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_name_with_a_known_role_is_a_caller() {
        let uri = Caller::uri(Role::Operator, "ann").unwrap();
        let ann = Caller::of_uri(&uri).unwrap();
        assert_eq!((ann.role, ann.name.as_str()), (Role::Operator, "ann"));
        for wrong in [
            "perennial://king/ann",
            "perennial://operator",
            "perennial://operator/",
            "perennial://operator/ann/bob",
            "perennial://operator/../ann",
            "https://operator/ann",
            "",
        ] {
            assert_eq!(Caller::of_uri(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_name_never_leaves_its_folder() {
        for wrong in ["", ".", "..", "../ann", "a/b", "a\\b", &"a".repeat(65)] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
    }
}
