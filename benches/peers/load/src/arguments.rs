//! The command line.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use crate::tls::Tls;

/// What can be asked for.
pub(crate) const USAGE: &str = "usage: backstop-peers sink ADDRESS | copy ADDRESS TO | counts ADDRESS | report FILE
       | load deliver|refuse|connect|idle --to ADDRESS [--clients N] [--seconds S] [--units N]
              connect, idle: [--tls starttls|implicit]
              deliver: [--messages PER-CONNECTION] [--size OCTETS] [--by data|bdat]
              refuse:  [--names repeated|new] [--together RCPTS-PER-WRITE]";

/// What to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Sink(SocketAddr),
    Copy(SocketAddr, SocketAddr),
    Counts(SocketAddr),
    Report(String),
    Load(Order),
}

/// A load.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Order {
    pub(crate) to: SocketAddr,
    pub(crate) clients: usize,
    /// No new unit of work is begun after so long.
    pub(crate) length: Duration,
    /// Nor after so many.
    pub(crate) units: u64,
    pub(crate) tls: Tls,
    pub(crate) kind: Kind,
}

/// What each client does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    /// Connects, gives messages, leaves, again and again.
    Deliver { messages: usize, size: usize, by: By },
    /// Names unknown recipients, in long sessions.
    Refuse { names: Names, together: usize },
    /// Connects and leaves.
    Connect,
    /// Connects and says nothing.
    Idle,
}

/// How message data is given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum By {
    /// DATA (RFC 5321 §4.1.1.4).
    Data,
    /// One BDAT LAST (RFC 3030 §2).
    Bdat,
}

/// Which recipients are named.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Names {
    /// The same thousand again and again.
    Repeated,
    /// Each a new one.
    New,
}

/// Reads the command line.
pub(crate) fn read(mut words: impl Iterator<Item = String>) -> Result<Command, String> {
    let verb = words.next().ok_or("what shall be done?")?;
    let first = words.next().ok_or_else(|| format!("{verb} of what?"))?;
    match verb.as_str() {
        "sink" => number("ADDRESS", &first).map(Command::Sink),
        "copy" => {
            let to = words.next().ok_or("copy to where?")?;
            Ok(Command::Copy(number("ADDRESS", &first)?, number("TO", &to)?))
        }
        "counts" => number("ADDRESS", &first).map(Command::Counts),
        "report" => Ok(Command::Report(first)),
        "load" => load(&first, words).map(Command::Load),
        other => Err(format!("{other} is not known")),
    }
}

fn load(kind: &str, mut words: impl Iterator<Item = String>) -> Result<Order, String> {
    let mut to = None;
    let (mut clients, mut seconds, mut units) = (1, 1.0, u64::MAX);
    let (mut messages, mut size, mut by) = (1, 4096, By::Data);
    let (mut names, mut together, mut tls) = (Names::Repeated, 1, Tls::None);
    while let Some(option) = words.next() {
        let value = words.next().ok_or_else(|| format!("{option} wants a value"))?;
        match (kind, option.as_str()) {
            (_, "--to") => to = Some(number(&option, &value)?),
            (_, "--clients") => clients = number(&option, &value)?,
            (_, "--seconds") => seconds = number(&option, &value)?,
            (_, "--units") => units = number(&option, &value)?,
            ("connect" | "idle", "--tls") if value == "starttls" => tls = Tls::Starttls,
            ("connect" | "idle", "--tls") if value == "implicit" => tls = Tls::Implicit,
            ("deliver", "--messages") => messages = number(&option, &value)?,
            ("deliver", "--size") => size = number(&option, &value)?,
            ("deliver", "--by") if value == "bdat" => by = By::Bdat,
            ("deliver", "--by") if value == "data" => by = By::Data,
            ("refuse", "--names") if value == "new" => names = Names::New,
            ("refuse", "--names") if value == "repeated" => names = Names::Repeated,
            ("refuse", "--together") => together = number(&option, &value)?,
            _ => return Err(format!("{option} {value} is not for {kind}")),
        }
    }
    let kind = match kind {
        "deliver" => Kind::Deliver { messages, size, by },
        "refuse" => Kind::Refuse { names, together },
        "connect" => Kind::Connect,
        "idle" => Kind::Idle,
        other => return Err(format!("{other} is no kind of load")),
    };
    let length = Duration::try_from_secs_f64(seconds).map_err(|fault| format!("--seconds: {fault}"))?;
    Ok(Order { to: to.ok_or("--to is missing")?, clients, length, units, tls, kind })
}

fn number<T: FromStr>(what: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{what}: {text} is not one"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, String> {
        super::read(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn an_order_is_read() {
        let order =
            read("load refuse --to 127.0.0.1:25 --clients 50 --seconds 0.5 --names new --together 16");
        let expected = Order {
            to: "127.0.0.1:25".parse().unwrap(),
            clients: 50,
            length: Duration::from_millis(500),
            units: u64::MAX,
            tls: Tls::None,
            kind: Kind::Refuse { names: Names::New, together: 16 },
        };
        assert_eq!(order, Ok(Command::Load(expected)));
    }

    #[test]
    fn an_option_of_another_kind_is_refused() {
        assert!(read("load connect --to 127.0.0.1:25 --size 7").is_err());
        assert!(read("load deliver --clients 1").is_err());
    }
}
