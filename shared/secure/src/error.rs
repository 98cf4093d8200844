//! What can be wrong with certificates and tokens, in words that say what to do.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use rustls::{AlertDescription, CertificateError};

use crate::role::Role;

/// Why a party cannot speak safely, or is not meant to.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    #[error("cannot read `{path}`: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write `{path}`: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("`{0}` is there already; remove it first, or choose another name")]
    Exists(PathBuf),
    #[error("no authority is in `{0}`: `perennial certs init {0}` makes one")]
    NoAuthority(PathBuf),
    #[error("`{path}` has no {wanted} in PEM format")]
    NotPem { path: PathBuf, wanted: &'static str },
    #[error("certificate `{path}` cannot be used: {reason}")]
    Certificate { path: PathBuf, reason: String },
    #[error("the list of revoked certificates `{path}` cannot be used: {reason}")]
    Revoked { path: PathBuf, reason: String },
    #[error("`{0}` is no longer there, which says what was revoked")]
    NoLongerThere(PathBuf),
    #[error(
        "no certificate of `{name}` is known in `{folder}`: neither `{name}.pem` nor a line of `issued` is there"
    )]
    NeverIssued { name: String, folder: PathBuf },
    #[error("`{path}` cannot be used: {reason}")]
    Register { path: PathBuf, reason: String },
    #[error("key `{path}` cannot be used: {reason}")]
    Key { path: PathBuf, reason: String },
    #[error(
        "certificate `{path}` names no role: it needs the URI name `perennial://ROLE/NAME`, as `perennial certs issue` writes it"
    )]
    NoRole { path: PathBuf },
    #[error(
        "certificate `{path}` is that of {}, and {}'s is needed; make one with `perennial certs issue`",
        .found.with_article(), .wanted.with_article()
    )]
    WrongRole {
        path: PathBuf,
        found: Role,
        wanted: Role,
    },
    #[error("{} needs a certificate of its own: give --tls-cert and --tls-key", .0.with_article())]
    NoCertificate(Role),
    #[error("give --tls-ca with --tls-cert and --tls-key, or none of them")]
    Incomplete,
    #[error("--insecure and --tls-ca exclude each other; leave one out")]
    Contradiction,
    #[error(
        "`{0}` is reachable from other machines, where nothing listens without encryption; give --tls-ca, --tls-cert and --tls-key (`perennial certs` makes them), or --insecure in a network of your own"
    )]
    Exposed(SocketAddr),
    #[error(
        "`{0}` is another machine, with which nothing is spoken without encryption; give --tls-ca and a certificate or a token, or --insecure in a network of your own"
    )]
    Readable(SocketAddr),
    #[error("`{0}` is no role: choose `worker`, `coordinator`, `operator` or `viewer`")]
    UnknownRole(String),
    #[error("`{0}` is no name: up to 64 letters, digits, `-`, `_` and `.`, not `.` first")]
    Name(String),
    #[error("`{0}` is no host: write a name such as `node1.example.org`, or an IP address")]
    Host(String),
    #[error("token file `{path}` cannot be used: {reason}")]
    Tokens { path: PathBuf, reason: String },
    #[error("a token is for people: a role of `viewer` or `operator`, not `{0}`")]
    TokenRole(Role),
    /// The token itself is never told.
    #[error("{origin} holds no token; make one with `perennial certs token`")]
    NotAToken { origin: String },
    #[error("no certificate can be made: {0}")]
    Making(String),
}

/// What went wrong between two parties, told to the one at this end.
pub fn in_words(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(why) => {
            format!("its certificate {}", of_certificate(why))
        }
        rustls::Error::InvalidCertRevocationList(_) => {
            "its certificate cannot be held against `ca.crl`, which its authority did not sign; put the right one beside --tls-ca".into()
        }
        rustls::Error::AlertReceived(alert) => of_alert(*alert),
        rustls::Error::NoCertificatesPresented => "it showed no certificate".into(),
        rustls::Error::InvalidMessage(_) => {
            "it does not speak TLS; give the same --tls-... or --insecure everywhere".into()
        }
        other => other.to_string(),
    }
}

pub(crate) fn of_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "has expired; issue another one".into()
        }
        CertificateError::Revoked => "was revoked; ask for another one".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet; compare the clocks".into()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "is not signed by the authority that --tls-ca names".into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "is not for this host; issue one with --host".into()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is not meant for this end of a connection".into()
        }
        CertificateError::ApplicationVerificationFailure => "is of another role".into(),
        other => format!("is not valid: {other}"),
    }
}

/// The same of an error of which only the text is left, as HTTP/2 leaves it; any other text as it is.
pub fn text_in_words(text: &str) -> String {
    let Some((_, name)) = text.split_once("received fatal alert: ") else {
        return text.to_string();
    };
    let known = [
        AlertDescription::AccessDenied,
        AlertDescription::BadCertificate,
        AlertDescription::CertificateExpired,
        AlertDescription::CertificateRequired,
        AlertDescription::CertificateRevoked,
        AlertDescription::CertificateUnknown,
        AlertDescription::DecryptError,
        AlertDescription::UnknownCA,
    ];
    let alert = known
        .into_iter()
        .find(|alert| name.starts_with(&format!("{alert:?}")));
    alert.map_or(text.to_string(), of_alert)
}

fn of_alert(alert: AlertDescription) -> String {
    let why = match alert {
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "it trusts another authority"
        }
        AlertDescription::CertificateExpired => "it has expired",
        AlertDescription::CertificateRevoked => "it was revoked",
        AlertDescription::AccessDenied => "it is of another role",
        AlertDescription::CertificateRequired => {
            return "it wants a certificate; give --tls-cert and --tls-key".into();
        }
        AlertDescription::NoApplicationProtocol => {
            return "it speaks another protocol; is this the right port?".into();
        }
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            "it is not valid"
        }
        other => return format!("it ended the connection: {other:?}"),
    };
    format!("it refuses this party's certificate: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_of_which_only_the_text_is_left_is_told_in_the_same_words() {
        let alert = AlertDescription::CertificateRevoked;
        let error = rustls::Error::AlertReceived(alert);
        let text = format!("connection error: {error}");
        assert_eq!(text_in_words(&text), in_words(&error));
        assert!(in_words(&error).contains("it was revoked"));
        assert_eq!(text_in_words("broken pipe"), "broken pipe");
        let other = "received fatal alert: Unknown(7)";
        assert_eq!(text_in_words(other), other);
    }
}
