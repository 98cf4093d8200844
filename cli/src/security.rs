//! How a command speaks with others: flags, then variables of the environment. A secret comes from a file or
//! the environment, never from the command line, which everybody on the machine may read.

use std::path::PathBuf;
use std::process::Command;

use anyhow::bail;
use perennial_secure::{Credentials, Security, SecurityError, Token};

use crate::shell::CommandLine;

const CA: &str = "PERENNIAL_TLS_CA";
const CERTIFICATE: &str = "PERENNIAL_TLS_CERT";
const KEY: &str = "PERENNIAL_TLS_KEY";
const INSECURE: &str = "PERENNIAL_INSECURE";
const TOKEN: &str = "PERENNIAL_TOKEN";
const TOKEN_FILE: &str = "PERENNIAL_TOKEN_FILE";
pub const TOKENS: &str = "PERENNIAL_TOKENS";

/// Encryption.
#[derive(Debug, Clone, clap::Args)]
pub struct Tls {
    /// The authority whose certificates are trusted, as `perennial certs init` writes it
    /// [env: PERENNIAL_TLS_CA]
    #[arg(long, value_name = "FILE", help_heading = "Security")]
    tls_ca: Option<PathBuf>,
    /// The certificate of this end [env: PERENNIAL_TLS_CERT]
    #[arg(long, value_name = "FILE", help_heading = "Security")]
    tls_cert: Option<PathBuf>,
    /// Its key [env: PERENNIAL_TLS_KEY]
    #[arg(long, value_name = "FILE", help_heading = "Security")]
    tls_key: Option<PathBuf>,
    /// Speak in plain text with other machines, and let everybody in: in a network of your own alone
    /// [env: PERENNIAL_INSECURE=1]
    #[arg(long, help_heading = "Security", conflicts_with_all = ["tls_ca", "tls_cert", "tls_key"])]
    insecure: bool,
}

/// Encryption, and who a person is.
#[derive(Debug, Clone, clap::Args)]
pub struct Person {
    #[command(flatten)]
    tls: Tls,
    /// The file with your token, as `perennial certs token` writes it
    /// [env: PERENNIAL_TOKEN_FILE, or the token itself in PERENNIAL_TOKEN]
    #[arg(long, value_name = "FILE", help_heading = "Security")]
    token_file: Option<PathBuf>,
}

// === impl Tls ===

impl Tls {
    pub fn security(&self) -> anyhow::Result<Security> {
        let given = |flag: &Option<PathBuf>, name| flag.clone().or_else(|| path(name));
        let flags = [&self.tls_ca, &self.tls_cert, &self.tls_key];
        if self.insecure {
            return Ok(Security::insecure());
        }
        let ca = given(&self.tls_ca, CA);
        let certificate = given(&self.tls_cert, CERTIFICATE);
        let key = given(&self.tls_key, KEY);
        let insecure = text(INSECURE).is_some_and(|text| text != "0");
        if insecure && flags.iter().all(|flag| flag.is_none()) {
            if ca.is_some() {
                bail!(SecurityError::Contradiction);
            }
            return Ok(Security::insecure());
        }
        let own = certificate.as_deref().zip(key.as_deref());
        match (&ca, own) {
            (Some(ca), Some(own)) => Ok(Security::tls(Credentials::read(ca, Some(own))?)),
            (Some(ca), None) if certificate.is_none() && key.is_none() => {
                Ok(Security::tls(Credentials::read(ca, None)?))
            }
            (None, None) if certificate.is_none() && key.is_none() => Ok(Security::default()),
            _ => bail!(SecurityError::Incomplete),
        }
    }

    /// The same flags for another command.
    pub fn told(&self, line: CommandLine) -> CommandLine {
        let shown = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let line = line
            .option_if_some("--tls-ca", shown(&self.tls_ca))
            .option_if_some("--tls-cert", shown(&self.tls_cert))
            .option_if_some("--tls-key", shown(&self.tls_key));
        match self.insecure {
            true => line.word("--insecure"),
            false => line,
        }
    }
}

// === impl Person ===

impl Person {
    pub fn security(&self) -> anyhow::Result<Security> {
        let token = match self.token_file.clone().or_else(|| path(TOKEN_FILE)) {
            Some(path) => Some(Token::read(&path)?),
            None => match text(TOKEN) {
                Some(token) => Some(Token::parse(&token, format!("the variable {TOKEN}"))?),
                None => None,
            },
        };
        Ok(self.tls.security()?.with_token(token))
    }
}

/// Takes from a process on this machine what is for other machines. It speaks within this one.
pub fn keep_local(command: &mut Command) {
    for name in [CA, CERTIFICATE, KEY, INSECURE, TOKEN, TOKEN_FILE, TOKENS] {
        command.env_remove(name);
    }
}

fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// The file that a variable names.
pub fn path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os(name).filter(|path| !path.is_empty());
    path.map(PathBuf::from)
}
