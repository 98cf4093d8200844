//! What may be said where.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use crate::credentials::Credentials;
use crate::error::SecurityError;
use crate::token::Token;

/// How a process speaks with others. The default is within this machine, in plain text.
#[derive(Debug, Clone, Default)]
pub struct Security {
    credentials: Option<Arc<Credentials>>,
    insecure: bool,
    token: Option<Token>,
}

// === impl Security ===

impl Security {
    /// Plain text also with other machines: in a network of one's own.
    pub fn insecure() -> Self {
        Self {
            insecure: true,
            ..Self::default()
        }
    }

    pub fn tls(credentials: Credentials) -> Self {
        Self {
            credentials: Some(Arc::new(credentials)),
            ..Self::default()
        }
    }

    /// A person's, who has this token. It is said under TLS alone.
    #[must_use]
    pub fn with_token(mut self, token: Option<Token>) -> Self {
        self.token = token;
        self
    }

    pub fn credentials(&self) -> Option<&Arc<Credentials>> {
        self.credentials.as_ref()
    }

    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// Refuses to listen at an address that other machines reach, unless what is said there is encrypted.
    pub fn may_listen(&self, address: SocketAddr) -> Result<(), SecurityError> {
        if self.credentials.is_some() || address.ip().is_loopback() {
            return Ok(());
        }
        if !self.insecure {
            return Err(SecurityError::Exposed(address));
        }
        tracing::warn!(
            "INSECURE: whoever reaches {address} may do everything there, and whoever is on the way may read it"
        );
        Ok(())
    }

    /// The same of a host that is going to be listened at; one that does not resolve is told by the listener.
    pub fn may_listen_at_host(&self, host: &str) -> Result<(), SecurityError> {
        let resolved = (host, 0).to_socket_addrs().into_iter().flatten();
        for address in resolved {
            self.may_listen(address)?;
        }
        Ok(())
    }

    /// Refuses to speak in plain text with another machine.
    pub fn may_dial_plainly(&self, address: SocketAddr) -> Result<(), SecurityError> {
        if self.insecure || address.ip().is_loopback() {
            Ok(())
        } else {
            Err(SecurityError::Readable(address))
        }
    }
}
