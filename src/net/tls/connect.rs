//! TLS to backends: who they must prove to be, if anyone.
//!
//! Whatever is believed of a certificate, the handshake is signed with its key: an unverified session is
//! private from whoever only listens.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use tokio_rustls::TlsConnector;

use super::explain::Unverified;
use super::stream::Records;
use super::{HandshakeFault, Secured, TlsStream, facts, kind, provider, within};
use crate::config::{BackendTls, Endpoint, Pin, TlsPolicy};
use crate::net::stream::Stream;

/// Sessions remembered for each name; one backend has one.
const SESSIONS: usize = 32;

/// Shakes hands with one backend.
#[derive(Clone)]
pub struct Connector {
    inner: TlsConnector,
    name: ServerName<'static>,
}

impl Connector {
    /// One for the backend at `endpoint`, trusting it as `tls` says.
    #[must_use]
    pub fn new(tls: &BackendTls, endpoint: &Endpoint) -> Self {
        let provider = provider();
        let algorithms = provider.signature_verification_algorithms;
        let trust = match &tls.policy {
            TlsPolicy::Off | TlsPolicy::Opportunistic | TlsPolicy::Required => Trust::Anyone,
            TlsPolicy::Pin(pins) => Trust::Pins(pins.clone()),
            TlsPolicy::Verify(roots) => {
                let verifier =
                    WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider));
                Trust::Roots(verifier.build().expect("roots that were checked not to be empty"))
            }
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect("ring has suites for both versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { trust, algorithms }))
            .with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let name = tls.name.as_deref().unwrap_or(&endpoint.host);
        // A host whose name no certificate can have is nobody's, and no name is sent.
        let name = ServerName::try_from(name.to_owned())
            .unwrap_or_else(|_| ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
        Self { inner: TlsConnector::from(Arc::new(config)), name }
    }

    /// Shakes hands on a new connection, or behind STARTTLS' 220.
    ///
    /// # Errors
    /// [`HandshakeFault`]; the connection is gone then.
    pub async fn connect(&self, stream: Stream, patience: Duration) -> Result<Secured, HandshakeFault> {
        let handshake = self.inner.connect(self.name.clone(), Records::new(stream));
        let stream = within(patience, handshake).await?;
        let (_, connection) = stream.get_ref();
        let (facts, handshake) = (facts(connection, None), kind(connection));
        Ok(Secured { stream: Stream::Tls(Box::new(TlsStream::new(stream))), facts, handshake })
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Whose certificate is taken.
#[derive(Debug)]
enum Trust {
    Anyone,
    Pins(Vec<Pin>),
    Roots(Arc<WebPkiServerVerifier>),
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = match &self.trust {
            Trust::Anyone => return Ok(ServerCertVerified::assertion()),
            Trust::Pins(pins) => match Pin::of(certificate) {
                Some(pin) if pins.contains(&pin) => return Ok(ServerCertVerified::assertion()),
                _ => Unverified::NotPinned { pin: Pin::of(certificate) },
            },
            Trust::Roots(roots) => {
                match roots.verify_server_cert(certificate, intermediates, name, ocsp, now) {
                    Ok(verified) => return Ok(verified),
                    Err(Error::InvalidCertificate(fault)) => {
                        Unverified::NotVerified { fault, pin: Pin::of(certificate) }
                    }
                    Err(fault) => return Err(fault),
                }
            }
        };
        Err(CertificateError::Other(OtherError(Arc::new(verdict))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
