//! XCLIENT: any attributes are read or refused; what is read holds nothing that could end a line, and what a backend is told of
//! such a client is one line within the bound, which is read again as the same.

#![no_main]

use backstop::proto::client::{ClientFacts, ClientName, ClientNames, ClientProtocol};
use backstop::proto::received::{self, Trace};
use backstop::proto::reply::Reply;
use backstop::proto::xclient::{Announced, Attributes, OFFER, Told};
use backstop::proto::xtext;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let written = xtext::encode(text);
    assert!(written.bytes().all(|b| b.is_ascii_graphic() && b != b'='), "{written:?}");
    assert_eq!(xtext::decode(&written).as_deref(), Some(text));

    let Ok(attributes) = Attributes::parse(text) else { return };
    let plain = |told: &Option<Told<Box<str>>>| match told {
        Some(Told::Known(known)) => {
            assert!(!known.is_empty() && known.len() <= 255, "{known:?}");
            assert!(!known.contains(|c: char| c.is_control() || c == ' '), "{known:?}");
            Some(known.clone())
        }
        _ => None,
    };
    let (name, helo) = (plain(&attributes.name), plain(&attributes.helo));
    let reverse = plain(&attributes.reverse_name);
    let called = |name: Option<Box<str>>| name.map_or(ClientName::Unavailable, ClientName::Known);
    plain(&attributes.login);
    let Some(ip) = attributes.address else { return };
    let client = ClientFacts {
        address: (ip, 40_000).into(),
        destination: None,
        names: ClientNames { verified: called(name), reverse: called(reverse) },
        helo: helo.clone().unwrap_or_else(|| "unknown".into()),
        protocol: ClientProtocol::Esmtp,
        tls: None,
    };
    let announced = Announced::of(&Reply::new(250, format!("mail.example\n{OFFER}"))).expect("all of them");
    let command = announced.command(&client);
    let line = command.strip_suffix("\r\n").expect("a command ends with CRLF");
    assert!(command.len() <= 512 && !line.contains(['\r', '\n', '\0']), "{line:?}");
    let again =
        Attributes::parse(line.strip_prefix("XCLIENT ").expect("the verb")).expect("what we write is read");
    assert_eq!(again.address, Some(ip));
    assert!(again.login.is_none(), "never invented");
    if let Some(Told::Known(helo)) = again.helo {
        assert_eq!(helo, client.helo);
    }

    let trace =
        Trace { by: "mx.example.org", session: "0123456789ab", utf8: false, recipient: Some(text), at: 0 };
    let line = trace.line(&client);
    assert!(line.len() as u64 <= received::MOST, "{line:?}");
    let mut parts = line.split_terminator("\r\n");
    assert!(parts.next().is_some_and(|first| first.starts_with("Received: from ")), "{line:?}");
    assert!(parts.all(|part| part.starts_with('\t') && !part.contains(['\r', '\n', '\0'])), "{line:?}");
});
