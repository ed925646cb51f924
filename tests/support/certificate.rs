//! Certificates made for a test: by themselves, or signed by an authority of the test's own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::machine::Directory;

/// A certificate and its key.
pub struct Pair {
    /// As PEM.
    pub chain: String,
    /// As PEM.
    pub key: String,
    pub certificate: CertificateDer<'static>,
    der_key: PrivateKeyDer<'static>,
}

/// Who signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate as PEM.
    pub root: String,
}

impl Pair {
    /// A certificate for these names that nobody else signed.
    pub fn alone(names: &[&str]) -> Self {
        let key = KeyPair::generate().expect("randomness");
        let certificate = params(names).self_signed(&key).expect("well formed names");
        Self::new(certificate.der().clone(), certificate.pem(), &key)
    }

    /// The same as OpenSSL makes it when asked for a self-signed certificate: that of an authority.
    pub fn own_authority(names: &[&str]) -> Self {
        let key = KeyPair::generate().expect("randomness");
        let mut params = params(names);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("well formed names");
        Self::new(certificate.der().clone(), certificate.pem(), &key)
    }

    /// One that nobody else signed and that has expired in the year 2000.
    pub fn expired(names: &[&str]) -> Self {
        let key = KeyPair::generate().expect("randomness");
        let mut params = params(names);
        params.not_before = rcgen::date_time_ymd(1999, 1, 1);
        params.not_after = rcgen::date_time_ymd(2000, 1, 1);
        let certificate = params.self_signed(&key).expect("well formed names");
        Self::new(certificate.der().clone(), certificate.pem(), &key)
    }

    fn new(certificate: CertificateDer<'static>, chain: String, key: &KeyPair) -> Self {
        let der_key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key that was just made");
        Self { chain, key: key.serialize_pem(), certificate, der_key }
    }

    /// Writes both files into a directory, as `NAME.crt` and `NAME.key`.
    pub fn write(&self, directory: &Directory, name: &str) -> Files {
        Files {
            chain: directory.write(&format!("{name}.crt"), &self.chain),
            key: directory.write(&format!("{name}.key"), &self.key),
        }
    }

    /// `sha256//…` of its key, as `tls_pins` holds it.
    pub fn pin(&self) -> String {
        backstop::config::Pin::of(&self.certificate).expect("a certificate that was just made").to_string()
    }

    /// A server that shows it.
    pub fn server(&self) -> Arc<rustls::ServerConfig> {
        self.server_asking(rustls::server::WebPkiClientVerifier::no_client_auth())
    }

    /// A server that shows it, and wants a certificate of the client in return.
    pub fn demanding_server(&self) -> Arc<rustls::ServerConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a certificate that was just made");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        self.server_asking(verifier.expect("a root"))
    }

    fn server_asking(
        &self,
        whom: Arc<dyn rustls::server::danger::ClientCertVerifier>,
    ) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has suites for both versions")
            .with_client_cert_verifier(whom)
            .with_single_cert(vec![self.certificate.clone()], self.der_key.clone_key())
            .expect("its own key");
        Arc::new(config)
    }
}

/// Where a pair was written.
#[derive(Clone, Debug)]
pub struct Files {
    pub chain: PathBuf,
    pub key: PathBuf,
}

impl Files {
    /// As an entry of `tls.certificates`.
    pub fn entry(&self) -> String {
        let shown = |path: &Path| path.display().to_string();
        format!("{{ chain = \"{}\", key = \"{}\" }}", shown(&self.chain), shown(&self.key))
    }
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("randomness");
        let mut params = params(&[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "An authority of the test's own");
        let root = params.self_signed(&key).expect("well formed").pem();
        Self { issuer: Issuer::new(params, key), root }
    }

    /// A certificate for these names.
    pub fn issue(&self, names: &[&str]) -> Pair {
        let key = KeyPair::generate().expect("randomness");
        let certificate = params(names).signed_by(&key, &self.issuer).expect("well formed names");
        Pair::new(certificate.der().clone(), certificate.pem(), &key)
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("well formed names");
    // Two of the same number would be one to some caches.
    let number: [u8; 8] = std::array::from_fn(|_| rand_octet());
    params.serial_number = Some(SerialNumber::from_slice(&number));
    params
}

fn rand_octet() -> u8 {
    use std::hash::{BuildHasher, RandomState};
    let [octet, ..] = RandomState::new().hash_one(0).to_ne_bytes();
    octet & 0x7f | 1
}
