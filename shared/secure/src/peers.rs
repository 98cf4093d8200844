//! Whom a party believes at the other end of a connection.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};

use crate::role::{Caller, Role};

/// Believes who was dialed when the authority signed it and it has the role. A coordinator is also held to
/// its host's name; workers are not, as addresses of machines that come and go are not known beforehand.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub roots: Arc<RootCertStore>,
    pub by_name: Arc<WebPkiServerVerifier>,
    /// Knows what was revoked, which a chain without a name is not held to otherwise.
    pub unrevoked: Arc<dyn ClientCertVerifier>,
    pub algorithms: WebPkiSupportedAlgorithms,
    pub role: Role,
}

/// Believes who dials when the authority signed it and it has the role.
#[derive(Debug)]
pub(crate) struct Dialing {
    pub signed: Arc<dyn ClientCertVerifier>,
    pub role: Role,
}

fn has_role(certificate: &CertificateDer<'_>, role: Role) -> Result<(), Error> {
    match Caller::of_certificate(certificate) {
        Some(caller) if caller.role == role => Ok(()),
        _ => Err(CertificateError::ApplicationVerificationFailure.into()),
    }
}

// === impl Dialed ===

impl ServerCertVerifier for Dialed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.role == Role::Worker {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.algorithms.all;
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &self.roots,
                intermediates,
                now,
                algorithms,
            )?;
            (self.unrevoked).verify_client_cert(end_entity, intermediates, now)?;
        } else {
            self.by_name.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            )?;
        }
        has_role(end_entity, self.role)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_name.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_name.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_name.supported_verify_schemes()
    }
}

// === impl Dialing ===

impl ClientCertVerifier for Dialing {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.signed.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = (self.signed).verify_client_cert(end_entity, intermediates, now)?;
        has_role(end_entity, self.role)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}
