//! The certificates that clients are shown, and the files they come from.
//!
//! Files are read again every few seconds and compared with what was read before, through whatever symlinks
//! lead there: that sees a file rewritten, one renamed into place, and the swapped `..data` of a Kubernetes
//! secret alike. What has stood still from one look to the next is judged (two files are not replaced at once, nor a
//! chain written at once): a pair that is whole replaces the old one, for handshakes that begin from then on; one that is not
//! is told about, and the old one stays.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, SystemTime};

use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::config::{Certificate, CertificateFault, CertificateFiles, Contents, Validity};
use crate::observe::metrics::Metrics;

/// How often files are looked at.
pub const REREAD_EVERY: Duration = Duration::from_secs(1);

/// Certificates to choose from; the first is for clients that ask for none of them.
#[derive(Debug)]
pub struct Keyring {
    files: Vec<CertificateFiles>,
    /// As many, in the same order.
    keys: RwLock<Vec<Arc<CertifiedKey>>>,
    /// When they hold; as many again.
    validities: RwLock<Vec<Option<Validity>>>,
    metrics: Metrics,
    /// Somebody wants the files read now.
    asked: Notify,
}

/// What was last seen of one pair.
#[derive(Debug, Default)]
struct Seen {
    /// What was in the files.
    contents: Option<Contents>,
    /// It was tried, and served or complained about.
    judged: bool,
}

impl Keyring {
    /// Begins with what was loaded.
    #[must_use]
    pub fn new(certificates: &[Certificate], metrics: Metrics) -> Self {
        for certificate in certificates {
            tell_expiry(&metrics, certificate);
        }
        Self {
            files: certificates.iter().map(|certificate| certificate.files.clone()).collect(),
            keys: RwLock::new(certificates.iter().map(|certificate| Arc::clone(&certificate.key)).collect()),
            validities: RwLock::new(certificates.iter().map(|certificate| certificate.validity).collect()),
            metrics,
            asked: Notify::new(),
        }
    }

    /// What is served: the file of each chain, and when it holds as far as that could be read.
    #[must_use]
    pub fn served(&self) -> Vec<(PathBuf, Option<Validity>)> {
        let validities = self.validities.read().unwrap_or_else(PoisonError::into_inner);
        self.files.iter().map(|files| files.chain.clone()).zip(validities.iter().copied()).collect()
    }

    /// Has [`Self::watch`] look now, and say what is wrong even if it said so before.
    pub fn reread(&self) {
        self.asked.notify_one();
    }

    /// Looks after the files, for ever.
    pub async fn watch(&self) {
        let mut seen: Vec<Seen> = self.files.iter().map(|_| Seen::default()).collect();
        loop {
            let insist = tokio::select! {
                () = sleep(REREAD_EVERY) => Insist::No,
                () = self.asked.notified() => Insist::Yes,
            };
            for (at, seen) in seen.iter_mut().enumerate() {
                self.look(at, seen, insist).await;
            }
        }
    }

    async fn look(&self, at: usize, seen: &mut Seen, insist: Insist) {
        let Some(files) = self.files.get(at).cloned() else { return };
        let reading = files.clone();
        // A network file system may be slow.
        let read = tokio::task::spawn_blocking(move || reading.read()).await;
        let Ok(read) = read else { return };
        let (contents, fault) = match read {
            Ok(contents) => (Some(contents), None),
            Err(fault) => (None, Some(fault)),
        };
        let still = contents == seen.contents;
        if insist == Insist::No && (!still || seen.judged) {
            *seen = Seen { contents, judged: still };
            return;
        }
        let loaded = match (&contents, fault) {
            (_, Some(fault)) => Err(fault),
            (Some(contents), None) => contents.certificate(&files),
            (None, None) => return,
        };
        match loaded {
            Ok(certificate) => self.replace(at, &certificate),
            Err(fault) => complain(&files, &fault),
        }
        *seen = Seen { contents, judged: true };
    }

    fn replace(&self, at: usize, certificate: &Certificate) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let Some(key) = keys.get_mut(at) else { return };
        let news = key.cert != certificate.key.cert;
        // The same certificate may have got the same key in another form.
        *key = Arc::clone(&certificate.key);
        drop(keys);
        let mut validities = self.validities.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(validity) = validities.get_mut(at) {
            *validity = certificate.validity;
        }
        drop(validities);
        if news {
            tracing::info!(chain = %certificate.files.chain.display(), "new handshakes use the new certificate");
            tell_expiry(&self.metrics, certificate);
        }
    }

    fn keys(&self) -> RwLockReadGuard<'_, Vec<Arc<CertifiedKey>>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether files that did not change are judged again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Insist {
    Yes,
    No,
}

fn complain(files: &CertificateFiles, fault: &CertificateFault) {
    let file = files.part(fault.part).display();
    tracing::error!(%file, reason = %fault.reason, remedy = fault.remedy, "the old certificate stays in use");
}

fn tell_expiry(metrics: &Metrics, certificate: &Certificate) {
    let Some(validity) = certificate.validity else { return };
    metrics.certificate_expires(&certificate.files.chain.to_string_lossy(), validity.until);
    if let Some(reason) = validity.fault_at(SystemTime::now()) {
        tracing::warn!(chain = %certificate.files.chain.display(), reason, "renew the certificate");
    }
}

impl ResolvesServerCert for Keyring {
    /// The first certificate for the name the client asks for that it can verify the signature of, else the
    /// first for that name; without a name, or with one that nobody has here, the same among all.
    fn resolve(&self, client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = self.keys();
        let name = client.server_name().and_then(|name| ServerName::try_from(name).ok());
        let named: Vec<_> =
            name.iter().flat_map(|name| keys.iter().filter(move |key| is_for(key, name))).collect();
        let among = if named.is_empty() { keys.iter().collect() } else { named };
        let fit = among.iter().find(|key| key.key.choose_scheme(client.signature_schemes()).is_some());
        fit.or_else(|| among.first()).map(|key| Arc::clone(key))
    }
}

fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed =
        key.end_entity_cert().ok().and_then(|certificate| ParsedCertificate::try_from(certificate).ok());
    parsed.is_some_and(|parsed| rustls::client::verify_server_name(&parsed, name).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::Metrics;

    fn pem(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[tokio::test]
    async fn a_chain_that_is_still_being_written_is_not_shown() {
        let directory = std::env::temp_dir().join(format!("backstop-keyring-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let files = CertificateFiles { chain: directory.join("crt"), key: directory.join("key") };
        let write = |chain: &str, key: &str| {
            std::fs::write(&files.chain, chain).unwrap();
            std::fs::write(&files.key, key).unwrap();
        };
        let (old, old_key) = pem(&["old.example.org"]);
        write(&old, &old_key);
        let keyring = Keyring::new(&[files.load().unwrap()], Metrics::new());
        let (mut seen, shown) = (Seen::default(), || keyring.keys()[0].cert.len());
        let named = |name: &str| is_for(&keyring.keys()[0], &ServerName::try_from(name.to_owned()).unwrap());
        keyring.look(0, &mut seen, Insist::No).await;
        let (leaf, key) = pem(&["new.example.org"]);
        write(&leaf, &key);
        keyring.look(0, &mut seen, Insist::No).await;
        assert!(named("old.example.org"), "it may be half a chain");
        let (issuer, _) = pem(&["issuer.example.org"]);
        write(&format!("{leaf}{issuer}"), &key);
        keyring.look(0, &mut seen, Insist::No).await;
        assert!(named("old.example.org"), "it changed again");
        keyring.look(0, &mut seen, Insist::No).await;
        assert!(named("new.example.org") && shown() == 2);
        write(&old, &old_key);
        keyring.look(0, &mut seen, Insist::Yes).await;
        assert!(named("old.example.org"), "who asks says that it is whole");
        std::fs::remove_dir_all(directory).unwrap();
    }
}
