//! What hostile peers say to whoever reads logs and pages: markup and scripts, terminal escapes, control characters,
//! forged fields and lines, characters that reorder others, octets that are no text, and far too much of anything.

use std::net::SocketAddr;

use super::client::Client;

/// Texts without a line end: those would end the command they are in.
pub const TEXTS: [&[u8]; 14] = [
    b"<script>ran=1</script>",
    b"<img/src=x/onerror=ran=1>",
    b"\"><svg/onload=ran=1>",
    b"</pre></td></table><iframe/src=javascript:ran=1>",
    b"javascript:ran=1",
    b"${ran=1}{{ran=1}}",
    b"&lt;script&gt;%3Cscript%3E",
    b"\x1b]0;owned\x07\x1b[2J\x1b[31m",
    b"\x08\x08\x7f\x0b\x0c\x01",
    "\u{9b}2J\u{85}\u{2028}".as_bytes(),
    "\u{202e}gro.elpmaxe\u{200b}".as_bytes(),
    b"\xff\xfe\xc3(",
    b"x\" end=\"quit\" level=\"ERROR",
    b"\",\"end\":\"quit\",\"x\":\"",
];

/// A line of 10 kB.
pub fn long() -> Vec<u8> {
    b"<b>\x1b[1m".iter().copied().cycle().take(10_000).collect()
}

/// Says each text as every name a client may choose, behind what a front would say. The clients stay, so that they are
/// seen as open sessions.
pub async fn clients(front: SocketAddr, header: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    for text in TEXTS.iter().map(|text| text.to_vec()).chain([long()]) {
        let quoted = text.iter().flat_map(|octet| match octet {
            b'"' | b'\\' => vec![b'\\', *octet],
            _ => vec![*octet],
        });
        let quoted: Vec<u8> = quoted.collect();
        let mut client = Client::connect(front).await;
        client.send(header).await;
        client.reply().await.is("220");
        let lines: [&[&[u8]]; 7] = [
            &[b"EHLO ", &text],
            &[b"EHLO [", &text, b"]"],
            &[b"MAIL FROM:<\"", &quoted, b"\"@sender.example>"],
            &[b"MAIL FROM:<a@sender.example>"],
            &[b"RCPT TO:<\"", &quoted, b"\"@example.org>"],
            &[b"RCPT TO:<a@", &text, b".example>"],
            &[&text],
        ];
        for parts in lines {
            client.send([parts.concat(), b"\r\n".to_vec()].concat()).await;
            client.reply().await;
        }
        clients.push(client);
    }
    clients
}
