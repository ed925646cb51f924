//! The live page: one document with its style and script in it, made of the files under `page/` when it is first
//! asked for, and the OpenAPI document of the API it uses.
//!
//! It brings nothing from elsewhere and may run nothing but its own script, which is named by its hash (Content
//! Security Policy Level 3). The script writes text and never markup; the policy holds it to that, too. The page
//! itself is for everybody who can connect: it holds no state of the proxy, and asks for the token where one is needed.

use std::sync::LazyLock;

use bytes::Bytes;
use hyper::header::{self, HeaderValue};
use ring::digest::{SHA256, digest};

use super::answer::{self, Answer};

const FRAME: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
/// One script; the later parts use the earlier ones.
const SCRIPT: &str = concat!(
    include_str!("page/api.js"),
    include_str!("page/draw.js"),
    include_str!("page/chart.js"),
    include_str!("page/panels.js"),
    include_str!("page/tester.js"),
    include_str!("page/main.js"),
);
const DESCRIPTION: &str = include_str!("../../docs/openapi.json");

struct Page {
    document: Bytes,
    policy: HeaderValue,
}

static PAGE: LazyLock<Page> = LazyLock::new(|| {
    let document = FRAME.replace("/* style */", STYLE).replace("/* script */", SCRIPT);
    let policy = format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    let policy = HeaderValue::try_from(policy).expect("hashes are ASCII");
    Page { document: document.into(), policy }
});

/// `GET /`.
pub(super) fn page() -> Answer {
    let mut answer = answer::document("text/html; charset=utf-8", PAGE.document.clone());
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, PAGE.policy.clone());
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    answer
}

/// `GET /api/v1/openapi.json`.
pub(super) fn description() -> Answer {
    answer::written_json(DESCRIPTION)
}

/// As a policy names a script or a style.
fn hash(text: &str) -> String {
    format!("sha256-{}", base64(digest(&SHA256, text.as_bytes()).as_ref()))
}

/// RFC 4648 §4.
fn base64(octets: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in octets.chunks(3) {
        let bits =
            group.iter().fold(0_u32, |bits, octet| bits << 8 | u32::from(*octet)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (octets, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(octets.as_bytes()), text);
        }
    }

    #[test]
    fn the_page_brings_nothing_from_elsewhere_and_writes_no_markup() {
        let document = str::from_utf8(&PAGE.document).expect("text");
        assert!(document.contains(STYLE) && document.contains(SCRIPT));
        assert_eq!(document.matches("</script>").count(), 1, "nothing in the script ends it");
        for forbidden in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            " style=\"",
            " onclick",
            "src=\"http",
            "@import",
            "url(http",
            "localStorage",
        ] {
            assert!(!document.contains(forbidden), "{forbidden}");
        }
    }
}
