//! Certificates in files: a chain and its key as PEM, read, held against each other, and told until when they
//! hold. What names lead to which certificate, and when files are read again, is for who serves them.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};

use super::validity::Validity;

/// Where a certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, then those that lead to the root, as PEM.
    pub chain: PathBuf,
    /// Its private key, as PEM.
    pub key: PathBuf,
}

/// What was in the files when they were read; compares equal as long as nothing changed.
#[derive(Clone, PartialEq, Eq)]
pub struct Contents {
    chain: Vec<u8>,
    key: Vec<u8>,
}

/// A certificate that can be served.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// Where it was read.
    pub files: CertificateFiles,
    /// What signs for it.
    pub key: Arc<CertifiedKey>,
    /// When it begins and ceases to hold; none when the certificate does not say so legibly.
    pub validity: Option<Validity>,
}

/// Which of the two files is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The certificates.
    Chain,
    /// The private key.
    Key,
}

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct CertificateFault {
    /// The file to put right.
    pub part: Part,
    /// What is wrong with it.
    pub reason: String,
    /// What to do.
    pub remedy: &'static str,
}

/// No chain or bundle is larger; what is, is no PEM file.
const LARGEST_FILE: u64 = 4 << 20;

impl CertificateFiles {
    /// What is in them now.
    ///
    /// # Errors
    /// [`CertificateFault`] when one cannot be read.
    pub fn read(&self) -> Result<Contents, CertificateFault> {
        let read = |part, path| {
            read_bounded(path).map_err(|fault| CertificateFault {
                part,
                reason: format!("cannot be read: {fault}"),
                remedy: "write the path of a PEM file that Backstop may read",
            })
        };
        Ok(Contents { chain: read(Part::Chain, &self.chain)?, key: read(Part::Key, &self.key)? })
    }

    /// One of the two.
    #[must_use]
    pub fn part(&self, part: Part) -> &Path {
        match part {
            Part::Chain => &self.chain,
            Part::Key => &self.key,
        }
    }

    /// Reads and checks them.
    ///
    /// # Errors
    /// [`CertificateFault`].
    pub fn load(&self) -> Result<Certificate, CertificateFault> {
        self.read()?.certificate(self)
    }
}

impl Contents {
    /// The certificate that was read from `files`.
    ///
    /// # Errors
    /// [`CertificateFault`] when it is none, or the key is that of another.
    pub fn certificate(&self, files: &CertificateFiles) -> Result<Certificate, CertificateFault> {
        let fault = |part, reason: String, remedy| CertificateFault { part, reason, remedy };
        let chain = chain_in(&self.chain).map_err(|reason| {
            fault(
                Part::Chain,
                reason,
                "write a PEM file that holds the server's certificate, then the intermediate ones",
            )
        })?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|misread| self.no_key(misread))?;
        let validity = chain.first().and_then(|certificate| Validity::of(certificate));
        let provider = rustls::crypto::ring::default_provider();
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(|refused| match refused {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => fault(
                Part::Key,
                "is the key of another certificate than the first in the chain".to_owned(),
                "write the key that belongs to it; the server's own certificate must stand first in the chain",
            ),
            refused => fault(
                Part::Key,
                format!("cannot be used: {refused}"),
                "use an RSA key of 2048 to 8192 bits, ECDSA on P-256 or P-384, or Ed25519",
            ),
        })?;
        Ok(Certificate { files: files.clone(), key: Arc::new(key), validity })
    }

    fn no_key(&self, misread: pem::Error) -> CertificateFault {
        let encrypted = memchr::memmem::find(&self.key, b"ENCRYPTED").is_some();
        let (reason, remedy) = match misread {
            pem::Error::NoItemsFound if encrypted => (
                "the private key in it is encrypted".to_owned(),
                "decrypt it with `openssl pkey -in old.pem -out new.pem`, and let only Backstop read the new one",
            ),
            pem::Error::NoItemsFound => (
                "holds no private key in PEM".to_owned(),
                "write the path of the key; the certificate goes under `chain`",
            ),
            broken => (format!("is not PEM: {broken}"), "write the path of a private key in PEM"),
        };
        CertificateFault { part: Part::Key, reason, remedy }
    }
}

/// Whose private key this is belongs in no log.
impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").finish_non_exhaustive()
    }
}

/// The roots in a file.
///
/// # Errors
/// What is wrong with it.
pub(super) fn roots(path: &Path) -> Result<RootCertStore, String> {
    let pem = read_bounded(path).map_err(|fault| format!("cannot be read: {fault}"))?;
    let mut store = RootCertStore::empty();
    for certificate in certificates_in(&pem)? {
        store
            .add(certificate)
            .map_err(|fault| format!("holds a certificate that cannot be a root: {fault}"))?;
    }
    Ok(store)
}

/// The roots the system trusts.
///
/// # Errors
/// Why there are none.
pub(super) fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    // Among those of a system there are always some that are too odd; the others serve.
    store.add_parsable_certificates(found.certs);
    match (store.is_empty(), found.errors.first()) {
        (false, _) => Ok(store),
        (true, Some(fault)) => Err(format!("the system's roots cannot be read: {fault}")),
        (true, None) => Err("the system trusts no roots".to_owned()),
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    File::open(path)?.take(LARGEST_FILE).read_to_end(&mut contents)?;
    Ok(contents)
}

fn certificates_in(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|broken| format!("is not PEM: {broken}"))?;
    if certificates.is_empty() { Err("holds no certificate in PEM".to_owned()) } else { Ok(certificates) }
}

fn chain_in(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain = certificates_in(pem)?;
    if let Some(certificate) = chain.first() {
        ParsedCertificate::try_from(certificate)
            .map_err(|fault| format!("its certificate is none: {fault}"))?;
    }
    Ok(chain)
}
