//! What a failed handshake means to an operator: what is wrong, and which key of the route mends it.

use std::fmt;

use rustls::{AlertDescription, CertificateError, Error};

use crate::config::Pin;
use crate::observe::Escaped;

/// Why a backend's certificate was not believed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unverified {
    /// Its key has none of the pins.
    NotPinned { pin: Option<Pin> },
    /// It leads to no trusted root, or is not this backend's.
    NotVerified { fault: CertificateError, pin: Option<Pin> },
}

/// Names of a certificate that are shown.
const NAMES_SHOWN: usize = 3;

/// What is wrong, and what to do about it.
pub(super) fn explain(fault: &Error) -> String {
    match fault {
        Error::InvalidCertificate(CertificateError::Other(verdict)) => verdict.to_string(),
        Error::InvalidMessage(_) => format!(
            "{fault}; what came is not TLS: a port that wants STARTTLS is written host:port, one with TLS from the \
             beginning smtps://host:port"
        ),
        Error::PeerIncompatible(_)
        | Error::AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure) => {
            format!(
                "{fault}; the other side has no TLS 1.2 or 1.3 with a cipher suite of today: renew it, or write \
             tls = \"off\" where the network is trusted"
            )
        }
        fault => fault.to_string(),
    }
}

impl fmt::Display for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPinned { pin: Some(pin) } => {
                write!(
                    f,
                    "its key is {pin}, which is not in tls_pins; if the key was changed on purpose, add it"
                )
            }
            Self::NotPinned { pin: None } => {
                f.write_str("its certificate cannot be read, so its key has no pin")
            }
            Self::NotVerified { fault, pin } => {
                not_verified(fault, f)?;
                match pin {
                    Some(pin) => {
                        write!(f, "tls = \"pin\" with tls_pins = [\"{pin}\"] to trust this very key")
                    }
                    None => f.write_str("tls = \"required\" to trust any"),
                }
            }
        }
    }
}

/// What is wrong; ends where another way is told.
fn not_verified(fault: &CertificateError, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match fault {
        CertificateError::UnknownIssuer => f.write_str(
            "its certificate leads to no trusted root; write tls_ca = the file of the CA that signed it, or ",
        ),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let shown: Vec<String> =
                presented.iter().take(NAMES_SHOWN).map(|name| Escaped(name).to_string()).collect();
            let names = if shown.is_empty() { "none".to_owned() } else { shown.join(", ") };
            write!(
                f,
                "its certificate is not for {} (its names: {names}); write the right one as tls_name, or ",
                expected.to_str()
            )
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            f.write_str("its certificate has expired; renew it there, or ")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            f.write_str("its certificate does not hold yet; look at the clocks, or write ")
        }
        CertificateError::Other(other) if is_own_authority(other) => {
            f.write_str("its certificate is that of a CA, which may not serve as a server's; write ")
        }
        fault => write!(f, "its certificate cannot be verified ({fault}); write "),
    }
}

/// What OpenSSL makes when asked for a self-signed certificate: the certificate of a CA.
fn is_own_authority(fault: &rustls::OtherError) -> bool {
    matches!(fault.0.downcast_ref::<webpki::Error>(), Some(webpki::Error::CaUsedAsEndEntity))
}
