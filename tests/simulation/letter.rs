//! A message of the simulated world, as it is sent and as it must be stored.

use memchr::memmem;

use crate::chance::Chance;

/// What messages are made of, besides their first line.
const PIECES: [&[u8]; 8] =
    [b"text", b".", b"..", b"\r\n", b"\r\n.", b".\r\n", b"\xc3\xbc\x00\xff", b" long line "];
const BARE: [&[u8]; 4] = [b"\n", b"\r", b"\n.\r\n", b"\r\n.\n"];

/// A message. Its first line is its name.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) id: String,
    /// It ends with CRLF.
    content: Vec<u8>,
}

impl Letter {
    pub(crate) fn new(chance: &mut Chance, id: String) -> Self {
        let mut content = format!("{id}\r\n").into_bytes();
        for _ in 0..chance.below(30) {
            content.extend_from_slice(chance.pick(&PIECES));
        }
        if chance.one_in(12) {
            content.extend_from_slice(chance.pick(&BARE));
            content.extend_from_slice(b"behind");
        }
        if chance.one_in(100) {
            let line = [&[b'x'; 997][..], b"\r\n"].concat();
            content.extend_from_slice(&line.repeat(1 + chance.place(200)));
        }
        content.extend_from_slice(b"\r\n");
        Self { id, content }
    }

    pub(crate) fn has_bare_newlines(&self) -> bool {
        normalized(&self.content) != self.content
    }

    /// What a store must have of it; none where it must not have it.
    pub(crate) fn as_stored(&self, in_chunks: bool, normalize: bool) -> Option<Vec<u8>> {
        if in_chunks || !self.has_bare_newlines() {
            Some(self.content.clone())
        } else {
            normalize.then(|| normalized(&self.content))
        }
    }

    /// For DATA, its end included: dots behind CRLF are doubled.
    pub(crate) fn in_lines(&self) -> Vec<u8> {
        let mut wire = Vec::with_capacity(self.content.len() + 3);
        let mut rest = self.content.as_slice();
        loop {
            if rest.first() == Some(&b'.') {
                wire.push(b'.');
            }
            let Some(end) = memmem::find(rest, b"\r\n") else { break };
            wire.extend_from_slice(&rest[..end + 2]);
            rest = &rest[end + 2..];
        }
        wire.extend_from_slice(rest);
        wire.extend_from_slice(b".\r\n");
        wire
    }

    /// For BDAT: some chunks, some of them empty.
    pub(crate) fn in_chunks(&self, chance: &mut Chance) -> Vec<Vec<u8>> {
        let mut chunks = Vec::new();
        let mut rest = self.content.as_slice();
        while chunks.len() < 3 && chance.one_in(2) {
            let (now, later) = rest.split_at(chance.place(rest.len() + 1));
            chunks.push(now.to_vec());
            rest = later;
        }
        chunks.push(rest.to_vec());
        chunks
    }
}

/// Every CR or LF alone becomes CRLF.
fn normalized(content: &[u8]) -> Vec<u8> {
    let mut normal = Vec::with_capacity(content.len());
    let mut octets = content.iter().copied().peekable();
    while let Some(octet) = octets.next() {
        match octet {
            b'\r' => {
                octets.next_if_eq(&b'\n');
                normal.extend_from_slice(b"\r\n");
            }
            b'\n' => normal.extend_from_slice(b"\r\n"),
            other => normal.push(other),
        }
    }
    normal
}
