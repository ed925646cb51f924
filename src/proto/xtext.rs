//! xtext: text in which anything but printable ASCII, `+` and `=` is written as `+` and two hexadecimal digits
//! (RFC 3461 §4).

use std::fmt::Write as _;

/// `text` as xtext.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for octet in text.bytes() {
        match octet {
            b'!'..=b'~' if !matches!(octet, b'+' | b'=') => out.push(char::from(octet)),
            _ => {
                let _ = write!(out, "+{octet:02X}");
            }
        }
    }
    out
}

/// Reads xtext; none when it is not xtext, or not UTF-8 when decoded. Digits in lower case are taken.
#[must_use]
pub fn decode(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let (octet, behind) = match (first, behind) {
            (b'+', [high, low, behind @ ..]) => (digit(*high)? << 4 | digit(*low)?, behind),
            (b'!'..=b'~', _) if !matches!(first, b'+' | b'=') => (*first, behind),
            _ => return None,
        };
        octets.push(octet);
        rest = behind;
    }
    String::from_utf8(octets).ok()
}

fn digit(octet: u8) -> Option<u8> {
    char::from(octet).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_survives_the_way_there_and_back() {
        for (text, written) in [
            ("mail.example", "mail.example"),
            ("a+b=c d", "a+2Bb+3Dc+20d"),
            ("x\r\ny", "x+0D+0Ay"),
            ("grün", "gr+C3+BCn"),
        ] {
            let out = encode(text);
            assert_eq!(out, written);
            assert_eq!(decode(&out).as_deref(), Some(text));
        }
        assert_eq!(decode("a+2bb").as_deref(), Some("a+b"));
    }

    #[test]
    fn what_is_no_xtext_is_none() {
        for text in ["+", "+2", "+2G", "a=b", "a b", "a\r", "+FF", "ü"] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }
}
