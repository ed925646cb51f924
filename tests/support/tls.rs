//! TLS as a client: whatever certificate is shown, so that a test can look at it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, HandshakeKind, ProtocolVersion, SignatureScheme,
    SupportedProtocolVersion, crypto,
};

use super::PATIENCE;
use super::client::Client;

/// A connection inside TLS.
pub type Secure = Client<TlsStream<TcpStream>>;

/// How a client shakes hands.
#[derive(Clone)]
pub struct Hands(TlsConnector);

impl Hands {
    /// Any version; every handshake a full one.
    pub fn new() -> Self {
        Self::of(&[&TLS13, &TLS12], Resumption::disabled())
    }

    /// TLS 1.2 alone.
    pub fn old() -> Self {
        Self::of(&[&TLS12], Resumption::disabled())
    }

    /// Taking up its earlier sessions.
    pub fn resuming(versions: &[&'static SupportedProtocolVersion]) -> Self {
        Self::of(versions, Resumption::in_memory_sessions(16))
    }

    fn of(versions: &[&'static SupportedProtocolVersion], resumption: Resumption) -> Self {
        let provider = Arc::new(crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("ring has suites for both versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_no_client_auth();
        config.resumption = resumption;
        Self(TlsConnector::from(Arc::new(config)))
    }

    /// Shakes hands; a name that is an address is not sent.
    pub async fn shake(&self, stream: TcpStream, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).expect("a name or an address");
        timeout(PATIENCE, self.0.connect(name, stream)).await.expect("a handshake in time")
    }

    /// TLS from the first octet on; the greeting is not read yet.
    pub async fn connect(&self, address: SocketAddr, name: &str) -> Secure {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        Client::patient(self.shake(stream, name).await.expect("a handshake that succeeds"))
    }

    /// Connects, greets, says STARTTLS and shakes hands. EHLO is still to be said.
    pub async fn start_tls(&self, address: SocketAddr, name: &str) -> Secure {
        let mut client = Client::greeted(address).await;
        client.command("STARTTLS").await.is("220 2.0.0");
        Client::patient(self.shake(client.into_stream(), name).await.expect("a handshake that succeeds"))
    }
}

impl Secure {
    /// What the server showed. A session taken up remembers it.
    pub fn certificate(&self) -> CertificateDer<'static> {
        let certificates = self.stream().get_ref().1.peer_certificates();
        certificates.expect("a server shows its certificate")[0].clone().into_owned()
    }

    pub fn version(&self) -> Option<ProtocolVersion> {
        self.stream().get_ref().1.protocol_version()
    }

    pub fn handshake(&self) -> Option<HandshakeKind> {
        self.stream().get_ref().1.handshake_kind()
    }
}

#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = crypto::ring::default_provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = crypto::ring::default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
