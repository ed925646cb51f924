//! What a client sends: streams of octets, and the segments they go out in.

use memchr::memmem;

/// Where the messages of well-meaning transactions go.
pub const CARRIER: &str = "carrier@example.org";
/// Where a message goes whose commands stand behind what may be taken for the end of another.
pub const STOWAWAY: &str = "stowaway@example.org";

/// The octets of one connection behind the greeting.
#[derive(Debug, Default)]
pub struct Stream {
    pub octets: Vec<u8>,
    /// In order of their places.
    pub cuts: Vec<Cut>,
}

/// Where a segment ends.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub at: usize,
    pub then: Then,
}

/// What the client does before it sends the next segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing: the segments may arrive as one.
    GoOn,
    /// It waits until the server has read the segment.
    UntilRead,
    /// It waits for every reply that is due.
    UntilAnswered,
}

impl Stream {
    /// Says EHLO.
    pub fn new() -> Self {
        Self { octets: b"EHLO client.test\r\n".to_vec(), cuts: Vec::new() }
    }

    /// Sends more.
    pub fn push(&mut self, octets: impl AsRef<[u8]>) -> &mut Self {
        self.octets.extend_from_slice(octets.as_ref());
        self
    }

    /// Ends a segment here.
    pub fn cut(&mut self, then: Then) -> &mut Self {
        self.cuts.push(Cut { at: self.octets.len(), then });
        self
    }

    /// Says QUIT.
    pub fn quit(mut self) -> Self {
        self.push("QUIT\r\n");
        self
    }
}

/// A message whose text is cut short by `pseudo_end`, with a whole transaction behind that: a message for the stowaway
/// if the server takes it for an end, else text. Either way the stream has ended what it began.
pub fn smuggle(name: &str, pseudo_end: &[u8]) -> Vec<u8> {
    let opening = [transaction(CARRIER).as_slice(), b"DATA\r\n", &head(name), b"before"].concat();
    [opening.as_slice(), pseudo_end, &stowaway(name), b".\r\n"].concat()
}

/// A transaction for the stowaway up to the end of its message.
fn stowaway(name: &str) -> Vec<u8> {
    let text = head(&format!("{name}-stowaway"));
    [&mail_and_rcpt(STOWAWAY), b"DATA\r\n".as_slice(), &text, b"smuggled\r\n"].concat()
}

/// The beginning of a transaction, whatever came before.
fn transaction(recipient: &str) -> Vec<u8> {
    [b"RSET\r\n".as_slice(), &mail_and_rcpt(recipient)].concat()
}

fn mail_and_rcpt(recipient: &str) -> Vec<u8> {
    format!("MAIL FROM:<sender@client.test>\r\nRCPT TO:<{recipient}>\r\n").into_bytes()
}

/// A header that leaves no server anything to add but trace fields.
fn head(name: &str) -> Vec<u8> {
    format!(
        "From: sender@client.test\r\nTo: undisclosed-recipients:;\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n\
         Message-ID: <{name}@client.test>\r\n\r\n"
    )
    .into_bytes()
}

/// A reproducible source of choices (SplitMix64).
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// One of `0..sides`.
    fn below(&mut self, sides: usize) -> usize {
        let sides = u64::try_from(sides).expect("a small number");
        usize::try_from(self.throw() % sides).expect("less than a usize")
    }

    fn one_of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }
}

/// The random stream of a seed. `name` makes its messages unlike all others.
pub fn random(seed: u64, name: &str) -> Stream {
    let dice = &mut Dice(seed);
    let mut stream = Stream::new();
    for case in 0..=dice.below(6) {
        let name = format!("{name}-{case}");
        let octets = match dice.below(8) {
            0..4 => smuggle(&name, &disorder(dice)),
            4 => long_smuggle(dice, &name),
            5 => chunks(dice, &name),
            6 => refused_chunks(dice, &name),
            _ => chunks_then_data(dice, &name),
        };
        stream.push(octets);
    }
    let mut stream = stream.quit();
    stream.cuts = cuts(dice, &stream.octets);
    stream
}

/// CRs, LFs and dots in no order, among what may stand between them.
fn disorder(dice: &mut Dice) -> Vec<u8> {
    const LONG: [u8; 3000] = [b'x'; 3000];
    let mut octets = Vec::new();
    for _ in 0..=dice.below(12) {
        let pieces: [&[u8]; 16] = [
            b"\r", b"\n", b".", b"\r\n", b"\r\n", b"\r\n.", b"\r\n.\r", b".\r\n", b"\r\n..", b"\n.", b"x",
            b"x\r\n", b"\0", b"\xe9", b" ", &LONG,
        ];
        octets.extend_from_slice(dice.one_of(&pieces));
    }
    octets
}

/// Several stowaways in one message.
fn long_smuggle(dice: &mut Dice, name: &str) -> Vec<u8> {
    let mut text = Vec::new();
    for stowaway_number in 0..3 {
        text.extend(disorder(dice));
        text.extend(stowaway(&format!("{name}-{stowaway_number}")));
        text.extend(disorder(dice));
    }
    smuggle(name, &text)
}

/// A message in chunks, with ends of data and transactions in it that are text.
fn chunks(dice: &mut Dice, name: &str) -> Vec<u8> {
    let mut octets = transaction(CARRIER);
    let text = [head(name), disorder(dice), b"\r\n.\r\n".to_vec(), stowaway(name), disorder(dice)].concat();
    let mut rest = text.as_slice();
    for _ in 0..dice.below(4) {
        let (chunk, behind) = rest.split_at(dice.below(rest.len() + 1));
        octets.extend(bdat(chunk, ""));
        rest = behind;
    }
    octets.extend(bdat(rest, " LAST"));
    octets
}

/// Chunks that belong to no transaction.
fn refused_chunks(dice: &mut Dice, name: &str) -> Vec<u8> {
    let text = [disorder(dice), stowaway(name), b"\r\n.\r\n".to_vec()].concat();
    let opening: &[u8] = dice.one_of(&[b"RSET\r\n", b"RSET\r\nMAIL FROM:<sender@client.test>\r\n"]);
    [opening, &bdat(&text, ""), &bdat(&text, " LAST"), b"NOOP\r\n"].concat()
}

/// DATA in the middle of a message in chunks is refused, and what would be its message is commands. Where there are no
/// chunks it is a message.
fn chunks_then_data(dice: &mut Dice, name: &str) -> Vec<u8> {
    let text = [head(name), disorder(dice)].concat();
    [
        transaction(CARRIER).as_slice(),
        &bdat(&text, ""),
        b"DATA\r\n",
        b"NOOP\r\n",
        &bdat(b"end\r\n", " LAST"),
        b".\r\n",
    ]
    .concat()
}

fn bdat(octets: &[u8], last: &str) -> Vec<u8> {
    [format!("BDAT {}{last}\r\n", octets.len()).as_bytes(), octets].concat()
}

/// Segments: one, one per octet, one per line in turn with the replies, or any.
fn cuts(dice: &mut Dice, octets: &[u8]) -> Vec<Cut> {
    let cut = |then| move |at| Cut { at, then };
    match dice.below(6) {
        0 => Vec::new(),
        1 => (1..octets.len()).map(cut(Then::GoOn)).collect(),
        2 => memmem::find_iter(octets, b"\r\n").map(|at| at + 2).map(cut(Then::UntilAnswered)).collect(),
        _ => {
            let mut places: Vec<usize> = (0..dice.below(20)).map(|_| dice.below(octets.len())).collect();
            places.sort_unstable();
            let then = [Then::GoOn, Then::UntilRead, Then::UntilAnswered];
            places.into_iter().map(|at| Cut { at, then: then[dice.below(then.len())] }).collect()
        }
    }
}

/// Every string over CR, LF, dot and x of up to so many octets.
pub fn arrangements(length: usize) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new()];
    let mut longest = 0..1;
    for _ in 0..length {
        for at in longest.clone() {
            for octet in *b"\r\n.x" {
                let longer = [all[at].as_slice(), &[octet]].concat();
                all.push(longer);
            }
        }
        longest = longest.end..all.len();
    }
    all
}
