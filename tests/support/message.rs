//! Messages that careless software damages.

/// A message, and what a mail store with LF as its newline should hold of it.
pub struct Difficult {
    /// What is difficult about it.
    pub what: &'static str,
    /// The message with CRLF, not dot-stuffed.
    pub octets: Vec<u8>,
    /// Its body as stored: newlines as LF, and one at the end, as DATA cannot end without.
    pub stored: Vec<u8>,
}

/// One message for each thing that goes wrong elsewhere.
pub fn difficult(recipient: &str) -> Vec<Difficult> {
    let long_line = |length: usize| {
        [b"before\r\n", b"0123456789".repeat(length / 10).as_slice(), b"\r\nafter\r\n"].concat()
    };
    let eight_bit: Vec<u8> = (128..=255).chain(*b"\r\n").chain(*b"Gr\xc3\xbc\xc3\x9fe\r\n").collect();
    let bodies: [(&str, Vec<u8>); 8] = [
        ("dots at line starts", b".\r\n..\r\n...\r\n.a\r\n..b\r\n.\r\n".to_vec()),
        ("dots in a row of empty lines", b"\r\n.\r\n\r\n.\r\n\r\n\r\nend\r\n".to_vec()),
        ("octets above 127", eight_bit),
        ("a line above 998 octets", long_line(1_500)),
        ("a line above 64 KiB", long_line(70_000)),
        ("a line above 64 KiB of dots", [b".".repeat(70_000).as_slice(), b"\r\n.\r\n"].concat()),
        ("no final newline", b"no newline behind this".to_vec()),
        ("nothing but control characters", b"\x01\x02\t\x0b\x0c\x1b\x7f\r\n \r\n\t\r\n".to_vec()),
    ];
    bodies.into_iter().map(|(what, body)| prepare(what, recipient, &body)).collect()
}

fn prepare(what: &'static str, recipient: &str, body: &[u8]) -> Difficult {
    let head = format!("From: sender@client.test\r\nTo: {recipient}\r\nSubject: {what}\r\n\r\n");
    // None of the bodies has a CR that is no part of a newline.
    let mut stored: Vec<u8> = body.iter().copied().filter(|&octet| octet != b'\r').collect();
    if !stored.ends_with(b"\n") {
        stored.push(b'\n');
    }
    Difficult { what, octets: [head.as_bytes(), body].concat(), stored }
}

/// A message as the backend got it, behind the one line that Backstop put before it.
///
/// # Panics
/// When no such line stands there.
pub fn behind_our_line(received: &[u8]) -> &[u8] {
    const END: &[u8] = b" +0000\r\n";
    let at = memchr::memmem::find(received, END).expect("the end of a Received line") + END.len();
    let (line, rest) = received.split_at(at);
    let line = String::from_utf8_lossy(line);
    assert!(line.starts_with("Received: from ") && line.contains("\r\n\tby mx.example.org with "), "{line}");
    // Folded: whatever is not its first part begins with a tab.
    let parts = line.matches("\r\n").count();
    assert_eq!(line.matches("\r\n\t").count() + 1, parts, "one line: {line}");
    rest
}
