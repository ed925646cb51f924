//! What is known of an encrypted session, in the words others use for it: the session's log line, `Received`
//! (RFC 8314 §4.3), the TLVs of a PROXY header. Only facts; how they come about is for who holds the socket.

use std::fmt;

/// The protocol's version. Older ones are not spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

impl TlsVersion {
    /// As OpenSSL, HAProxy and Postfix write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tls12 => "TLSv1.2",
            Self::Tls13 => "TLSv1.3",
        }
    }
}

/// What a handshake agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFacts {
    /// The protocol's version.
    pub version: TlsVersion,
    /// The cipher suite by its IANA name, such as `TLS_AES_128_GCM_SHA256`.
    pub cipher: &'static str,
    /// The server name the client asked for (RFC 6066 §3): a DNS name of at most 253 octets.
    pub server_name: Option<Box<str>>,
}

impl TlsFacts {
    /// The cipher suite as OpenSSL calls it, which is what a PROXY header carries.
    #[must_use]
    pub fn openssl_cipher(&self) -> &'static str {
        let found = OPENSSL_NAMES.iter().find(|(iana, _)| *iana == self.cipher);
        // The names of TLS 1.3 suites are the same.
        found.map_or(self.cipher, |(_, openssl)| openssl)
    }
}

/// Version and cipher suite: `TLSv1.3 TLS_AES_128_GCM_SHA256`.
impl fmt::Display for TlsFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.version.as_str(), self.cipher)
    }
}

/// The suites of TLS 1.2 that offer forward secrecy and authenticated encryption: no others are spoken.
const OPENSSL_NAMES: [(&str, &str); 6] = [
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "ECDHE-RSA-AES256-GCM-SHA384"),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-CHACHA20-POLY1305"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_has_a_name_for_each_reader() {
        let facts = |version, cipher| TlsFacts { version, cipher, server_name: None };
        let new = facts(TlsVersion::Tls13, "TLS_AES_256_GCM_SHA384");
        assert_eq!(new.to_string(), "TLSv1.3 TLS_AES_256_GCM_SHA384");
        assert_eq!(new.openssl_cipher(), "TLS_AES_256_GCM_SHA384");
        let old = facts(TlsVersion::Tls12, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256");
        assert_eq!(old.to_string(), "TLSv1.2 TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256");
        assert_eq!(old.openssl_cipher(), "ECDHE-RSA-AES128-GCM-SHA256");
    }
}
