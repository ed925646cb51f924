//! A transcript as written: settings, then lines, each of which is something done or expected.
//!
//! Shorthands such as `<greets>` become the lines they stand for here, so the stage knows nothing of them.

use std::fmt;
use std::time::Duration;

/// The name clients greet with.
const CLIENT: &str = "client.example.net";
/// The name backends greet with.
const BACKEND: &str = "mail.example.org";
/// What a client is offered before any backend was heard, unless the transcript says otherwise.
const OFFERED: &str = "PIPELINING, SIZE, 8BITMIME, ENHANCEDSTATUSCODES, LIMITS RCPTMAX=1000";
/// What a backend announces unless the transcript says otherwise.
const ANNOUNCED: &str = "PIPELINING, SIZE, 8BITMIME, ENHANCEDSTATUSCODES";

/// A whole transcript.
#[derive(Debug)]
pub(crate) struct Script {
    /// Settings as in the configuration file.
    pub(crate) settings: String,
    /// What happens, in order.
    pub(crate) lines: Vec<Line>,
}

/// Something that happens, and the line it was written in.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) number: usize,
    pub(crate) event: Event,
}

/// What happens.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// One end of a connection does or sees something.
    At(End, Act),
    /// Time passes.
    Passes(Duration),
    /// The backends are greeted, as at the start of the server.
    Start,
    /// Sessions outside a transaction are to end.
    Drain,
    /// And now those inside one.
    DrainEnds,
}

/// The far end of a connection, as seen from Backstop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Client(usize),
    Backend(usize),
}

/// What happens at that end.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// A new connection comes from Backstop, to this `host:port` where one is named.
    Accepts(Option<String>),
    /// It sends these octets.
    Sends(Vec<u8>),
    /// It sends no more, and still listens.
    HalfCloses,
    /// It drops the connection.
    Leaves,
    /// A line comes from Backstop.
    Hears(String),
    /// These octets come from Backstop.
    HearsOctets(Vec<u8>),
    /// The `Received:` line comes with this in it, behind a BDAT command that counts it in where one is given.
    HearsTrace { chunk: Option<String>, text: String },
    /// Nothing unread has come from Backstop, and it has not closed.
    HearsNothing,
    /// Backstop closes, having sent nothing more.
    SeesClosed,
}

/// What went wrong, and in which line.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) line: usize,
    pub(crate) text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.text)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(1) => f.write_str("the client"),
            Self::Client(number) => write!(f, "client {number}"),
            Self::Backend(number) => write!(f, "backend connection {number}"),
        }
    }
}

impl Script {
    /// Reads the text of a transcript.
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        let mut script = Self { settings: String::new(), lines: Vec::new() };
        let mut within_settings = false;
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            if line == "---" {
                within_settings = !within_settings;
            } else if within_settings {
                script.settings.push_str(line);
                script.settings.push('\n');
            } else if !line.is_empty() && !line.starts_with('#') {
                let events = events(line).map_err(|text| Fault { line: number, text })?;
                script.lines.extend(events.into_iter().map(|event| Line { number, event }));
            }
        }
        Ok(script)
    }
}

/// What one line stands for.
fn events(line: &str) -> Result<Vec<Event>, String> {
    let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
    if mark == "@" {
        return match rest {
            "start" => Ok(vec![Event::Start]),
            "drain" => Ok(vec![Event::Drain]),
            "drain ends" => Ok(vec![Event::DrainEnds]),
            time => Ok(vec![Event::Passes(duration(time)?)]),
        };
    }
    let number_at = mark.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(mark.len());
    let (who, mark) = mark.split_at(number_at);
    let sign_at = mark.find(|c: char| !c.is_ascii_digit()).unwrap_or(mark.len());
    let (number, sign) = mark.split_at(sign_at);
    let number = if number.is_empty() { 1 } else { number.parse().map_err(|_| "bad number".to_owned())? };
    let end = match who {
        "C" | "S" => End::Client(number),
        "B" => End::Backend(number),
        _ => return Err(format!("nobody is called {who:?}")),
    };
    let acts = match (who, sign) {
        ("C" | "S" | "B", ":") if rest.starts_with('<') => happening(who, rest)?,
        ("C", ":") | ("B", ">") => vec![sends(rest)],
        ("C", "|") | ("B", ">|") => vec![Act::Sends(octets(rest)?)],
        ("S", ":") | ("B", "<") => vec![Act::Hears(rest.to_owned())],
        ("S", "|") | ("B", "<|") => vec![Act::HearsOctets(octets(rest)?)],
        _ => return Err(format!("{who} knows no {sign:?}")),
    };
    Ok(acts.into_iter().map(|act| Event::At(end, act)).collect())
}

/// `<word arguments> rest`: everything that is not a line of SMTP.
fn happening(who: &str, text: &str) -> Result<Vec<Act>, String> {
    let (inner, rest) = text
        .strip_prefix('<')
        .and_then(|t| t.split_once('>'))
        .ok_or_else(|| format!("{text:?} has no end"))?;
    let (word, arguments) = inner.split_once(' ').unwrap_or((inner, ""));
    match (who, word) {
        ("C", "eof") => Ok(vec![Act::HalfCloses]),
        ("C", "gone") | ("B", "closes") => Ok(vec![Act::Leaves]),
        ("S" | "B", "closed") => Ok(vec![Act::SeesClosed]),
        ("S" | "B", "silent") => Ok(vec![Act::HearsNothing]),
        ("C", "greets") => Ok(client_greets(if arguments.is_empty() { OFFERED } else { arguments })),
        ("B", "connect") => Ok(vec![Act::Accepts((!arguments.is_empty()).then(|| arguments.to_owned()))]),
        ("B", "greets") => Ok(backend_greets(if arguments.is_empty() { ANNOUNCED } else { arguments })),
        ("B", "asked") => {
            let address = arguments.strip_prefix("about ").ok_or("asked about whom?")?;
            Ok(asked_about(address, rest.trim_start()))
        }
        ("B", "traced") => {
            let chunk = arguments.strip_prefix("BDAT ").map(str::to_owned);
            Ok(vec![Act::HearsTrace { chunk, text: rest.trim_start().to_owned() }])
        }
        ("B", "takes") => {
            let (sender, recipient) = arguments.split_once(" to ").ok_or("takes from whom to whom?")?;
            Ok(takes(sender, recipient))
        }
        _ => Err(format!("{who} knows no <{inner}>")),
    }
}

fn client_greets(offered: &str) -> Vec<Act> {
    let mut acts = vec![Act::Hears("220 mx.example.org ESMTP".to_owned()), sends(&format!("EHLO {CLIENT}"))];
    acts.extend(greeting("mx.example.org", offered).into_iter().map(Act::Hears));
    acts
}

fn backend_greets(announced: &str) -> Vec<Act> {
    let mut acts = vec![
        Act::Accepts(None),
        sends(&format!("220 {BACKEND} ESMTP")),
        Act::Hears("EHLO mx.example.org".to_owned()),
    ];
    acts.extend(greeting(BACKEND, announced).iter().map(|line| sends(line)));
    acts
}

/// One probe: a transaction with one recipient, and the backend's word on it.
fn asked_about(address: &str, reply: &str) -> Vec<Act> {
    vec![
        Act::Hears("MAIL FROM:<>".to_owned()),
        sends("250 2.1.0 Ok"),
        Act::Hears(if address == "anyone" { "RCPT TO:*".to_owned() } else { format!("RCPT TO:<{address}>") }),
        sends(reply),
        Act::Hears("RSET".to_owned()),
        sends("250 2.0.0 Ok"),
    ]
}

/// The lines of a 250 to EHLO: a name, then keywords parted by commas.
fn greeting(name: &str, keywords: &str) -> Vec<String> {
    let texts: Vec<&str> = std::iter::once(name).chain(keywords.split(", ")).collect();
    let last = texts.len() - 1;
    let lines = texts.iter().enumerate();
    lines.map(|(n, text)| format!("250{}{text}", if n == last { ' ' } else { '-' })).collect()
}

/// MAIL and RCPT taken, in whatever pieces they come.
fn takes(sender: &str, recipient: &str) -> Vec<Act> {
    vec![
        Act::Hears(format!("MAIL FROM:<{sender}>")),
        sends("250 2.1.0 Ok"),
        Act::Hears(format!("RCPT TO:<{recipient}>")),
        sends("250 2.1.5 Ok"),
    ]
}

fn sends(line: &str) -> Act {
    Act::Sends(format!("{line}\r\n").into_bytes())
}

/// `+30s`, `+5m`, `+2h`, `+100ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no time; say +30s");
    let text = text.strip_prefix('+').ok_or_else(bad)?;
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().map_err(|_| bad())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3600)),
        _ => Err(bad()),
    }
}

/// Text with escapes: `\r`, `\n`, `\0`, `\\`, `\xHH`, and `\(text*N)` for N times the text.
fn octets(text: &str) -> Result<Vec<u8>, String> {
    let mut octets = Vec::new();
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        octets.extend_from_slice(plain.as_bytes());
        let kind = escape.chars().next().ok_or("a backslash at the end")?;
        rest = &escape[kind.len_utf8()..];
        match kind {
            'r' => octets.push(b'\r'),
            'n' => octets.push(b'\n'),
            '0' => octets.push(0),
            '\\' => octets.push(b'\\'),
            'x' => {
                let (hex, behind) = rest.split_at_checked(2).ok_or("\\x wants two digits")?;
                octets.push(u8::from_str_radix(hex, 16).map_err(|_| "\\x wants two digits")?);
                rest = behind;
            }
            '(' => {
                let (repeated, behind) = rest.split_once(')').ok_or("\\( wants a )")?;
                let (text, times) = repeated.rsplit_once('*').ok_or("\\( wants text*N")?;
                let times = times.parse().map_err(|_| "\\( wants text*N")?;
                octets.extend(self::octets(text)?.repeat(times));
                rest = behind;
            }
            other => return Err(format!("no escape is called {other:?}")),
        }
    }
    octets.extend_from_slice(rest.as_bytes());
    Ok(octets)
}

#[test]
fn escapes_are_read() {
    assert_eq!(octets(r"a\r\n\0\\\x2e\xff").unwrap(), b"a\r\n\0\\.\xff");
    assert_eq!(octets(r"<\(ab\r\n*2)>").unwrap(), b"<ab\r\nab\r\n>");
    assert!(octets(r"\q").is_err() && octets("\\").is_err() && octets(r"\x2").is_err());
}

#[test]
fn what_is_no_line_of_a_transcript_is_refused() {
    for line in
        ["hello", "X: y", "C< y", "B1: <dances>", "@ 30s", "@ +3", "S: <greets>", "B1: <closed", "C| \\"]
    {
        let fault = Script::parse(&format!("# first\n{line}")).unwrap_err();
        assert_eq!(fault.line, 2, "{line}");
    }
}
