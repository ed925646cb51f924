//! The `Received:` line before a message: the only thing that is ever added to one.

use std::sync::Arc;
use std::time::SystemTime;

use super::Session;
use crate::config::{Route, Trace};
use crate::proto::dialogue::{Recipient, Sender};
use crate::proto::ehlo::Keyword;
use crate::proto::received;

impl Session {
    /// What is to be put before the octets that come now: the line where a message begins, nothing anywhere else.
    pub(super) fn trace(&mut self) -> Vec<u8> {
        let Some(attachment) = self.attachment.as_ref().filter(|_| !self.traced) else { return Vec::new() };
        let Some(transaction) = self.dialogue.transaction() else { return Vec::new() };
        let only = match transaction.accepted() {
            [only] => Some(only),
            _ => None,
        };
        let line_for = |only| self.trace_of(&attachment.route, transaction.sender(), only);
        let mut line = line_for(only);
        if line.as_ref().is_some_and(|line| line.len() as u64 > attachment.added) {
            // A recipient with a longer name than those that were given with MAIL: SIZE is not to be belied.
            line = line_for(None);
        }
        self.traced = true;
        line.unwrap_or_default().into_bytes()
    }

    /// The line for a message from `sender`, naming its `only` recipient; none where the route wants none.
    pub(super) fn trace_of(
        &self,
        route: &Arc<Route>,
        sender: &Sender,
        only: Option<&Recipient>,
    ) -> Option<String> {
        if route.trace == Trace::None {
            return None;
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let trace = received::Trace {
            by: &self.context.config.hostname,
            session: &self.record.session.to_string(),
            utf8: sender.parameters.uses.has(Keyword::SmtpUtf8),
            recipient: only.map(|recipient| recipient.mailbox.written()),
            at: now.unwrap_or_default().as_secs(),
        };
        Some(trace.line(&self.facts()))
    }
}
