//! Pins: the SHA-256 of a backend's public key (RFC 7469 §2.4), written as curl does: `sha256//BASE64`.

use std::fmt;

use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;

use super::leaf::{Form, Leaf, Misread};

/// What stands before the digest.
const PREFIX: &str = "sha256//";
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The digest of a public key (its `SubjectPublicKeyInfo`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; 32]);

impl Pin {
    /// That of the key in a certificate; none when it cannot be read.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let key = ParsedCertificate::try_from(certificate).ok()?.subject_public_key_info();
        ring::digest::digest(&ring::digest::SHA256, &key).as_ref().try_into().ok().map(Self)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        for group in self.0.chunks(3) {
            let octet = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
            let bits = octet(0) << 16 | octet(1) << 8 | octet(2);
            for sextet in 0..=group.len() {
                let index = usize::try_from(bits >> (18 - 6 * sextet) & 63).unwrap_or(0);
                write!(f, "{}", char::from(ALPHABET[index]))?;
            }
        }
        // 32 octets leave two in the last group.
        f.write_str("=")
    }
}

impl Leaf for Pin {
    const FORM: Form = Form::Text;
    const EXAMPLE: &'static str = "\"sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\"";
    const KIND: &'static str = "pin of a key";
    const PATTERN: Option<&'static str> = Some("^sha256//[A-Za-z0-9+/]{43}=$");

    fn parse(text: &str) -> Result<Self, Misread> {
        let remedy = "write \"sha256//\" and the 44 characters that `openssl x509 -noout -pubkey -in cert.pem | \
            openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64` prints";
        let digest = text
            .strip_prefix(PREFIX)
            .ok_or_else(|| Misread::new("does not begin with \"sha256//\"", remedy))?;
        decode(digest).map(Self).ok_or_else(|| Misread::new("not the SHA-256 of a key in base64", remedy))
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// 32 octets from 43 characters and a `=`. The two bits that are left over must be 0, so that a digest has one text.
fn decode(text: &str) -> Option<[u8; 32]> {
    let text = text.strip_suffix('=').filter(|text| text.len() == 43)?;
    let mut octets = Vec::with_capacity(33);
    for group in text.as_bytes().chunks(4) {
        let mut bits = 0;
        for at in 0..4 {
            let sextet = match group.get(at) {
                Some(letter) => ALPHABET.iter().position(|known| known == letter)?,
                None => 0,
            };
            bits = bits << 6 | u32::try_from(sextet).ok()?;
        }
        octets.extend(bits.to_be_bytes().into_iter().skip(1));
    }
    (octets.pop() == Some(0)).then_some(octets)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_reads_back_as_it_is_written() {
        let empty = "sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        let pin = Pin::parse(empty).unwrap();
        assert_eq!(pin.0[..4], [0xe3, 0xb0, 0xc4, 0x42], "the digest of nothing");
        assert_eq!(pin.to_string(), empty);
    }

    #[test]
    fn what_is_no_pin_says_how_to_make_one() {
        for text in [
            "",
            "sha256//",
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha1//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
            "sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV=",
            "sha256//47DEQpj8HBSa+-TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFUü",
        ] {
            let misread = Pin::parse(text).unwrap_err();
            assert!(misread.remedy.contains("openssl"), "{text}: {misread:?}");
        }
    }
}
