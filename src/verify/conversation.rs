//! What was said in a probe, for people who ask why.

use std::fmt;

use crate::proto::reply::Reply;

/// Commands and replies, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversation {
    lines: Vec<String>,
}

impl Conversation {
    /// Adds a command, which is ours, and its reply, which is not: it is made harmless.
    pub fn exchange(&mut self, command: &str, reply: &Reply) {
        self.lines.push(format!("> {}", command.trim_end()));
        self.lines.push(format!("< {reply}"));
    }

    /// One entry for each line said: `> ` ours, `< ` theirs.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

impl fmt::Display for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
