//! What the scripted backend saw.

/// Everything since it was created, over all its connections.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Connections accepted.
    pub connections: usize,
    /// Connections open now.
    pub open: usize,
    /// The most that were open at the same time.
    pub most_open: usize,
    /// Handshakes done.
    pub secured: usize,
    /// Every command line without its line end, in the order of arrival, with the number (from 0) of its session.
    pub commands: Vec<(usize, String)>,
    /// Messages it said 2xx for (or was scripted to store), in order.
    pub messages: Vec<Message>,
    /// Message octets read, stored or not, with their framing's own.
    pub body_octets: u64,
}

/// A message the backend took.
#[derive(Clone, Debug)]
pub struct Message {
    /// Number of the session.
    pub session: usize,
    /// Address in MAIL; empty for the null sender.
    pub sender: String,
    /// Addresses in accepted RCPTs.
    pub recipients: Vec<String>,
    /// The octets as they came: with DATA up to and without the final dot line, dots still doubled. Empty when the
    /// script only counts.
    pub raw: Vec<u8>,
    /// The octets without dot-stuffing. Empty when the script only counts.
    pub body: Vec<u8>,
    /// Length of what came as `raw`.
    pub octets: u64,
}

impl Record {
    /// How many commands began with these words, in any case.
    pub fn count(&self, words: &str) -> usize {
        self.commands.iter().filter(|(_, line)| begins(line, words)).count()
    }

    /// How many RCPTs named the address, in any case.
    pub fn rcpts_for(&self, address: &str) -> usize {
        self.count(&format!("RCPT TO:<{address}>"))
    }

    /// The commands of one session.
    pub fn session(&self, number: usize) -> Vec<&str> {
        self.commands
            .iter()
            .filter(|(session, _)| *session == number)
            .map(|(_, line)| line.as_str())
            .collect()
    }

    /// Whether the client of that session said QUIT.
    pub fn quit(&self, session: usize) -> bool {
        self.session(session).iter().any(|line| begins(line, "QUIT"))
    }
}

fn begins(line: &str, words: &str) -> bool {
    line.get(..words.len()).is_some_and(|start| start.eq_ignore_ascii_case(words))
}
