//! One session that asks about recipients.
//!
//! Each question is a transaction of its own: MAIL from the probe's sender, RCPT, RSET; never message data.
//! Where the backend takes pipelining a batch of them goes out in one write. One recipient each, because some
//! servers take only one after a null sender, and because a refused one then cannot shift another's answer.

use crate::backend::{Connection, Fault, Lease};
use crate::proto::address::Mailbox;
use crate::proto::ehlo::Keyword;
use crate::proto::reply::Reply;
use crate::proto::verdict::{Cause, Meaning, Stage, meaning};

use super::conversation::Conversation;

/// What one question came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// The recipient exists.
    Good,
    /// It does not.
    Bad(Reply),
    /// Refuse it this once; not to be remembered.
    Refused(Reply),
    /// The store said nothing about the recipient.
    Unknown(Cause),
    /// The sender of the probe is not liked: ask with another.
    OtherSender(Reply),
    /// Ask again, in another transaction or session.
    Again,
}

/// Whether the session can go on.
#[derive(Debug)]
pub(super) enum Health {
    /// It can.
    Well,
    /// It ended, or must.
    Lost(String),
}

/// What a batch came to: a finding for each question that was answered, in order.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) findings: Vec<(Finding, Conversation)>,
    pub(super) health: Health,
}

/// Asks about `recipients`, as `sender`. What has no finding was not answered.
pub(super) async fn ask(lease: &mut Lease, sender: Option<&Mailbox>, recipients: &[Mailbox]) -> Batch {
    let connection = lease.connection();
    let mut batch = Batch { findings: Vec::with_capacity(recipients.len()), health: Health::Well };
    let together = connection.announced().has(Keyword::Pipelining);
    let size = if together { recipients.len().max(1) } else { 1 };
    for group in recipients.chunks(size) {
        let outcome = if together {
            ask_together(connection, sender, group, &mut batch).await
        } else {
            ask_alone(connection, sender, group, &mut batch).await
        };
        if let Err(lost) = outcome {
            batch.health = Health::Lost(lost);
            break;
        }
    }
    batch
}

/// The commands of one question.
struct Commands {
    mail: String,
    rcpt: String,
}

impl Commands {
    fn new(connection: &Connection, sender: Option<&Mailbox>, recipient: &Mailbox) -> Option<Self> {
        let utf8 = !recipient.is_ascii();
        if utf8 && !connection.announced().has(Keyword::SmtpUtf8) {
            return None;
        }
        let sender = sender.map_or("", Mailbox::written);
        let parameter = if utf8 { " SMTPUTF8" } else { "" };
        Some(Self {
            mail: format!("MAIL FROM:<{sender}>{parameter}\r\n"),
            rcpt: format!("RCPT TO:<{}>\r\n", recipient.written()),
        })
    }
}

const RSET: &str = "RSET\r\n";

/// No SMTPUTF8 there: whether the address exists only the delivery port can tell, if it has SMTPUTF8.
fn cannot_be_asked() -> (Finding, Conversation) {
    let reply = Reply::fixed(554, "5.6.7 The mail server does not support non-ASCII addresses");
    (Finding::Unknown(Cause::Policy(reply)), Conversation::default())
}

/// All questions in one write, the answers in order.
async fn ask_together(
    connection: &mut Connection,
    sender: Option<&Mailbox>,
    recipients: &[Mailbox],
    batch: &mut Batch,
) -> Result<(), String> {
    let questions: Vec<_> = recipients.iter().map(|r| Commands::new(connection, sender, r)).collect();
    let mut lines = String::new();
    for commands in questions.iter().flatten() {
        lines.extend([commands.mail.as_str(), &commands.rcpt, RSET]);
    }
    if !lines.is_empty() {
        connection.send(lines.as_bytes()).await.map_err(lost)?;
    }
    let before = batch.findings.len();
    let heard = hear_all(connection, questions, batch).await;
    if heard.is_ok() && connection.in_step().is_err() {
        // A reply too many: any of them may have been read for the wrong command.
        batch.findings.truncate(before);
        return Err("it said more than it was asked".to_owned());
    }
    heard
}

/// The answers to questions that went out together.
async fn hear_all(
    connection: &mut Connection,
    questions: Vec<Option<Commands>>,
    batch: &mut Batch,
) -> Result<(), String> {
    for question in questions {
        let Some(commands) = question else {
            batch.findings.push(cannot_be_asked());
            continue;
        };
        let mut said = Conversation::default();
        let mail = hear(connection, &mut said, &commands.mail).await?;
        let rcpt = hear(connection, &mut said, &commands.rcpt).await?;
        let found = finding(&mail, Some(&rcpt));
        let well = match still_well(&mail, &rcpt) {
            Ok(()) => reset_answer(connection.answer().await),
            Err(why) => Reset::Lost(why),
        };
        match well {
            Reset::Done => batch.findings.push((found, said)),
            // Servers end a session over a recipient they refuse, and some at RSET: the answer was whole and stands.
            // Should an acceptance have been one reply too many to MAIL, the delivery port will say so.
            Reset::Lost(why) => {
                batch.findings.push((found, said));
                return Err(why);
            }
            Reset::Refused(why) => return Err(why),
        }
    }
    Ok(())
}

/// What became of a RSET.
enum Reset {
    Done,
    /// The session ended.
    Lost(String),
    /// It was answered with something that cannot be its answer: replies and commands are out of step.
    Refused(String),
}

fn reset_answer(reply: Result<Reply, Fault>) -> Reset {
    match reply {
        Ok(reply) if reply.code() / 100 == 2 => Reset::Done,
        Ok(reply) if reply.code() == 421 => Reset::Lost(reply.to_string()),
        Ok(reply) => Reset::Refused(format!("RSET was refused: {reply}")),
        Err(fault) => Reset::Lost(lost(fault)),
    }
}

/// One question, command by command.
async fn ask_alone(
    connection: &mut Connection,
    sender: Option<&Mailbox>,
    recipients: &[Mailbox],
    batch: &mut Batch,
) -> Result<(), String> {
    for recipient in recipients {
        let Some(commands) = Commands::new(connection, sender, recipient) else {
            batch.findings.push(cannot_be_asked());
            continue;
        };
        let mut said = Conversation::default();
        connection.send(commands.mail.as_bytes()).await.map_err(lost)?;
        let mail = hear(connection, &mut said, &commands.mail).await?;
        let mut rcpt = None;
        if meaning(Stage::Mail, &mail) == Meaning::Proceed {
            connection.send(commands.rcpt.as_bytes()).await.map_err(lost)?;
            rcpt = Some(hear(connection, &mut said, &commands.rcpt).await?);
        }
        batch.findings.push((finding(&mail, rcpt.as_ref()), said));
        still_well(&mail, rcpt.as_ref().unwrap_or(&mail))?;
        match reset_answer(connection.exchange(RSET.as_bytes()).await) {
            Reset::Done => {}
            Reset::Lost(why) | Reset::Refused(why) => return Err(why),
        }
    }
    Ok(())
}

/// One reply, noted.
async fn hear(connection: &mut Connection, said: &mut Conversation, command: &str) -> Result<Reply, String> {
    let reply = connection.answer().await.map_err(lost)?;
    said.exchange(command, &reply);
    Ok(reply)
}

/// A 421 is the last word of a session (RFC 5321 §3.8).
fn still_well(mail: &Reply, rcpt: &Reply) -> Result<(), String> {
    match [mail, rcpt].into_iter().find(|reply| reply.code() == 421) {
        Some(reply) => Err(reply.to_string()),
        None => Ok(()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form map_err wants")]
fn lost(fault: Fault) -> String {
    fault.to_string()
}

/// What the replies to MAIL and RCPT say about the recipient.
fn finding(mail: &Reply, rcpt: Option<&Reply>) -> Finding {
    match (meaning(Stage::Mail, mail), rcpt) {
        (Meaning::Proceed, Some(rcpt)) => recipient_finding(rcpt),
        (Meaning::SenderRefused, _) => Finding::OtherSender(mail.clone()),
        (Meaning::RouteFault, _) => Finding::Unknown(Cause::RouteFault(mail.clone())),
        (Meaning::Deferred | Meaning::Pressure, _) => Finding::Unknown(Cause::Deferred(mail.clone())),
        _ => Finding::Again,
    }
}

fn recipient_finding(reply: &Reply) -> Finding {
    match meaning(Stage::Recipient, reply) {
        Meaning::Good => Finding::Good,
        Meaning::Taken => Finding::Unknown(Cause::Unverified),
        Meaning::Bad => Finding::Bad(reply.clone()),
        Meaning::Refused => Finding::Refused(reply.clone()),
        Meaning::Policy => Finding::Unknown(Cause::Policy(reply.clone())),
        Meaning::RouteFault => Finding::Unknown(Cause::RouteFault(reply.clone())),
        Meaning::Deferred | Meaning::Pressure => Finding::Unknown(Cause::Deferred(reply.clone())),
        Meaning::SenderRefused => Finding::OtherSender(reply.clone()),
        Meaning::SessionLimit
        | Meaning::SessionLost
        | Meaning::TooManyConnections
        | Meaning::BackendFault
        | Meaning::Proceed => Finding::Again,
    }
}
