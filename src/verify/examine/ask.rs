//! Questions to a backend, one command at a time, each answer with the time it took.
//!
//! Never message data: a 354 is answered by closing the connection. What was heard before a session was lost is
//! kept, for that a backend ends a session over a question is an answer too.

use std::time::Duration;

use tokio::time::Instant;

use crate::backend::{Connection, Fault};
use crate::proto::address::Mailbox;
use crate::proto::ehlo::Keyword;
use crate::proto::reply::{Class, Reply};

/// A reply, and how long it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timed {
    /// The reply.
    pub reply: Reply,
    /// From the last octet of the command to the last of the reply.
    pub took: Duration,
}

/// What was heard of a transaction.
#[derive(Debug, Default)]
pub struct Envelope {
    /// To MAIL.
    pub mail: Option<Timed>,
    /// To each RCPT, as far as they were answered; none behind a refused MAIL.
    pub recipients: Vec<Timed>,
    /// To DATA, where that was asked.
    pub data: Option<Reply>,
    /// How the session ended, if it did.
    pub lost: Option<String>,
}

impl Envelope {
    /// Whether MAIL was taken.
    #[must_use]
    pub fn sender_taken(&self) -> bool {
        self.mail.as_ref().is_some_and(|mail| mail.reply.class() == Class::Positive)
    }
}

/// MAIL, a RCPT for each recipient, RSET.
pub async fn envelope(
    connection: &mut Connection,
    sender: Option<&Mailbox>,
    recipients: &[&Mailbox],
) -> Envelope {
    let mut heard = Envelope::default();
    let outcome = give(connection, sender, recipients, &mut heard).await;
    let reset = match outcome {
        Ok(()) => connection.exchange(b"RSET\r\n").await.map(|_| ()),
        Err(fault) => Err(fault),
    };
    heard.lost = reset.err().map(|fault| fault.to_string());
    heard
}

/// MAIL, one RCPT, and DATA where that was taken. The session ends with it: nobody may take what was said for a
/// message.
pub async fn at_data(mut connection: Connection, sender: Option<&Mailbox>, recipient: &Mailbox) -> Envelope {
    let mut heard = Envelope::default();
    let outcome = give(&mut connection, sender, &[recipient], &mut heard).await;
    let taken = heard.recipients.first().is_some_and(|rcpt| rcpt.reply.class() == Class::Positive);
    match outcome {
        Ok(()) if taken => match connection.exchange(b"DATA\r\n").await {
            Ok(reply) => {
                let refused = matches!(reply.class(), Class::Transient | Class::Permanent);
                heard.data = Some(reply);
                if refused {
                    connection.quit().await;
                } else {
                    connection.abort();
                }
            }
            Err(fault) => heard.lost = Some(fault.to_string()),
        },
        Ok(()) => connection.quit().await,
        Err(fault) => heard.lost = Some(fault.to_string()),
    }
    heard
}

async fn give(
    connection: &mut Connection,
    sender: Option<&Mailbox>,
    recipients: &[&Mailbox],
    heard: &mut Envelope,
) -> Result<(), Fault> {
    let wants_utf8 = recipients.iter().copied().chain(sender).any(|mailbox| !mailbox.is_ascii());
    let utf8 = if wants_utf8 && connection.announced().has(Keyword::SmtpUtf8) { " SMTPUTF8" } else { "" };
    let mail = format!("MAIL FROM:<{}>{utf8}\r\n", sender.map_or("", Mailbox::written));
    let mail = timed(connection, &mail).await?;
    let taken = mail.reply.class() == Class::Positive;
    heard.mail = Some(mail);
    for recipient in recipients.iter().filter(|_| taken) {
        let reply = timed(connection, &format!("RCPT TO:<{}>\r\n", recipient.written())).await?;
        let over = reply.reply.code() == 421;
        heard.recipients.push(reply);
        if over {
            break;
        }
    }
    Ok(())
}

async fn timed(connection: &mut Connection, command: &str) -> Result<Timed, Fault> {
    let began = Instant::now();
    let reply = connection.exchange(command.as_bytes()).await?;
    Ok(Timed { reply, took: began.elapsed() })
}
