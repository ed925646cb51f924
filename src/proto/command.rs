//! Commands: one line to one value.
//!
//! Parsing says what a line *is*; whether it may come now is the dialogue's business. Lines hold no CR, LF
//! or NUL here (the line reader and the dialogue see to it), and what is parsed can be written again without
//! any (RFC 5321 §4.1.1).

use super::address::{AddressFault, Path};

/// A client's command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'l> {
    /// `EHLO name`.
    Ehlo(&'l str),
    /// `HELO name`.
    Helo(&'l str),
    /// `MAIL FROM:<path> parameters`.
    Mail(Path<'l>),
    /// `RCPT TO:<path> parameters`.
    Rcpt(Path<'l>),
    /// `DATA`.
    Data,
    /// `BDAT size [LAST]` (RFC 3030 §2).
    Bdat(Chunk),
    /// `RSET`.
    Rset,
    /// `NOOP`.
    Noop,
    /// `HELP`.
    Help,
    /// `VRFY`.
    Vrfy,
    /// `STARTTLS` (RFC 3207).
    StartTls,
    /// `QUIT`.
    Quit,
    /// `XCLIENT attributes`: a front says who its client is.
    Xclient(&'l str),
    /// A command of SMTP that we know and do not do: `EXPN`, `AUTH`, `ETRN`, …
    NotImplemented,
    /// The first line of an HTTP request: a browser made to speak to us (ALPACA).
    Http,
    /// A PROXY header where none is taken: nobody else says such a thing.
    ProxyHeader,
}

/// The argument of BDAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Octets that follow the command line.
    pub size: u64,
    /// Whether the message ends with them.
    pub place: Place,
}

/// Which chunk of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// More will follow.
    Middle,
    /// `LAST`.
    Last,
}

/// Why a line is no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandFault {
    /// No verb we know.
    Unrecognized,
    /// An argument where none may be, or none where one must be.
    Argument,
    /// The octets behind a BDAT cannot be told from commands when its size is not clear.
    Chunk,
    /// MAIL or RCPT with a bad path.
    Path(AddressFault),
}

impl<'l> Command<'l> {
    /// Reads a line without its CRLF.
    ///
    /// # Errors
    /// The [`CommandFault`].
    pub fn parse(line: &'l [u8]) -> Result<Self, CommandFault> {
        let line = trimmed(line);
        let verb_len = line.iter().position(|b| *b == b' ' || *b == b'\t').unwrap_or(line.len());
        let (verb, argument) = line.split_at(verb_len);
        let argument = argument.trim_ascii_start();
        let mut upper = [0; 8];
        let Some(upper) = upper.get_mut(..verb.len()) else {
            return Err(CommandFault::Unrecognized);
        };
        upper.copy_from_slice(verb);
        upper.make_ascii_uppercase();
        match &*upper {
            b"EHLO" => greeting_name(argument).map(Self::Ehlo),
            b"HELO" => greeting_name(argument).map(Self::Helo),
            b"MAIL" => path_behind(b"FROM:", argument).map(Self::Mail),
            b"RCPT" => path_behind(b"TO:", argument).map(Self::Rcpt),
            b"DATA" => alone(argument, Self::Data),
            b"BDAT" => chunk(argument).map(Self::Bdat),
            b"RSET" => alone(argument, Self::Rset),
            b"STARTTLS" => alone(argument, Self::StartTls),
            b"QUIT" => alone(argument, Self::Quit),
            b"NOOP" => Ok(Self::Noop),
            b"HELP" => Ok(Self::Help),
            b"VRFY" if !argument.is_empty() => Ok(Self::Vrfy),
            b"VRFY" => Err(CommandFault::Argument),
            b"EXPN" | b"AUTH" | b"ETRN" | b"ATRN" | b"TURN" | b"SEND" | b"SOML" | b"SAML" | b"BURL"
            | b"XFORWARD" => Ok(Self::NotImplemented),
            b"XCLIENT" => {
                std::str::from_utf8(argument).map(Self::Xclient).map_err(|_| CommandFault::Argument)
            }
            b"PROXY" => Ok(Self::ProxyHeader),
            b"GET" | b"POST" | b"PUT" | b"HEAD" | b"CONNECT" | b"OPTIONS" | b"DELETE" => Ok(Self::Http),
            _ => Err(CommandFault::Unrecognized),
        }
    }
}

/// Without trailing spaces and tabs (RFC 5321 §4.1.1 asks receivers to tolerate them).
fn trimmed(line: &[u8]) -> &[u8] {
    let len = line.iter().rposition(|b| *b != b' ' && *b != b'\t').map_or(0, |last| last + 1);
    line.get(..len).unwrap_or(line)
}

fn alone<'l>(argument: &[u8], command: Command<'l>) -> Result<Command<'l>, CommandFault> {
    if argument.is_empty() { Ok(command) } else { Err(CommandFault::Argument) }
}

/// A client's name for itself. Deviation: any printable text is taken, since half of the senders in the
/// world are misnamed; it is data for the log and the backend.
fn greeting_name(argument: &[u8]) -> Result<&str, CommandFault> {
    let name = std::str::from_utf8(argument).map_err(|_| CommandFault::Argument)?;
    let well_formed =
        !name.is_empty() && name.len() <= 255 && !name.contains(|c: char| c.is_control() || c == ' ');
    if well_formed { Ok(name) } else { Err(CommandFault::Argument) }
}

/// `FROM:<path>`. Deviation: spaces between the colon and the path are taken, as all servers do.
fn path_behind<'l>(prefix: &[u8], argument: &'l [u8]) -> Result<Path<'l>, CommandFault> {
    let (word, path) = argument.split_at_checked(prefix.len()).ok_or(CommandFault::Argument)?;
    if !word.eq_ignore_ascii_case(prefix) {
        return Err(CommandFault::Argument);
    }
    Path::parse(path.trim_ascii_start()).map_err(CommandFault::Path)
}

/// `size [LAST]`: decimal, at most 20 digits, within 64 bits.
fn chunk(argument: &[u8]) -> Result<Chunk, CommandFault> {
    let text = std::str::from_utf8(argument).map_err(|_| CommandFault::Chunk)?;
    let mut words = text.split_ascii_whitespace();
    let size = words.next().unwrap_or_default();
    let digits = (1..=20).contains(&size.len()) && size.bytes().all(|b| b.is_ascii_digit());
    let size = size.parse().ok().filter(|_| digits).ok_or(CommandFault::Chunk)?;
    let place = match words.next() {
        None => Place::Middle,
        Some(word) if word.eq_ignore_ascii_case("LAST") => Place::Last,
        Some(_) => return Err(CommandFault::Chunk),
    };
    if words.next().is_some() { Err(CommandFault::Chunk) } else { Ok(Chunk { size, place }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_read_in_any_case_with_trailing_space() {
        for (line, command) in [
            ("ehlo client.example", Command::Ehlo("client.example")),
            ("HELO [192.0.2.1] \t", Command::Helo("[192.0.2.1]")),
            ("DaTa ", Command::Data),
            ("RSET", Command::Rset),
            ("NOOP anything at all", Command::Noop),
            ("HELP mail", Command::Help),
            ("VRFY ann", Command::Vrfy),
            ("QUIT", Command::Quit),
            ("starttls", Command::StartTls),
            ("EXPN list", Command::NotImplemented),
            ("AUTH PLAIN AGEAYg==", Command::NotImplemented),
            ("GET / HTTP/1.1", Command::Http),
            ("xclient ADDR=192.0.2.1 ", Command::Xclient("ADDR=192.0.2.1")),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2", Command::ProxyHeader),
            ("BDAT 0 LAST", Command::Bdat(Chunk { size: 0, place: Place::Last })),
            ("bdat 18446744073709551615", Command::Bdat(Chunk { size: u64::MAX, place: Place::Middle })),
        ] {
            assert_eq!(Command::parse(line.as_bytes()), Ok(command), "{line}");
        }
    }

    #[test]
    fn paths_stand_behind_their_word() {
        for line in
            ["MAIL FROM:<a@b.c>", "mail from:<a@b.c>", "MAIL  FROM: <a@b.c>", "MAIL FROM:<a@b.c> SIZE=1"]
        {
            assert!(matches!(Command::parse(line.as_bytes()), Ok(Command::Mail(_))), "{line}");
        }
        assert!(matches!(Command::parse(b"RCPT TO:<Postmaster>"), Ok(Command::Rcpt(_))));
    }

    #[test]
    fn what_is_no_command_says_why() {
        use CommandFault::{Argument, Chunk, Path, Unrecognized};
        for (line, fault) in [
            (&b""[..], Unrecognized),
            (b" NOOP", Unrecognized),
            (b"FOO", Unrecognized),
            (b"STARTTLSX", Unrecognized),
            (b"EHLO", Argument),
            (b"EHLO a b", Argument),
            (b"EHLO a\xff", Argument),
            (b"DATA x", Argument),
            (b"RSET x", Argument),
            (b"QUIT x", Argument),
            (b"STARTTLS x", Argument),
            (b"MAIL", Argument),
            (b"MAIL TO:<a@b>", Argument),
            (b"MAIL FROM:a@b", Path(AddressFault::Brackets)),
            (b"RCPT TO:<a b@c>", Path(AddressFault::LocalPart)),
            (b"BDAT", Chunk),
            (b"BDAT x", Chunk),
            (b"BDAT +5", Chunk),
            (b"BDAT -5", Chunk),
            (b"BDAT 5 FIRST", Chunk),
            (b"BDAT 5 LAST LAST", Chunk),
            (b"BDAT 18446744073709551616", Chunk),
            (b"BDAT 99999999999999999999999", Chunk),
        ] {
            assert_eq!(Command::parse(line), Err(fault), "{:?}", String::from_utf8_lossy(line));
        }
    }
}
