//! One session that asks about recipients: MAIL from the probe's sender, RCPT, RSET; never message data.
//!
//! Where the backend takes pipelining all that is asked goes out in one write, its replies read in order
//! (RFC 2920). Recipients share a transaction only as far as the backend has shown that it takes several after
//! a null sender; random names and non-ASCII addresses always have one of their own.
//!
//! At DATA one recipient is asked about, and the session is over once the backend said 354: nothing is sent.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::{Backend, Connection, Fault, Introduction, Lease, Use};
use crate::proto::address::Mailbox;
use crate::proto::ehlo::Keyword;
use crate::proto::reply::{Class, Reply};
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
    /// It was not its turn: ask again, as if it had not been asked.
    Later,
}

/// Whether the session can go on.
#[derive(Debug)]
pub(super) enum Health {
    /// It can.
    Well,
    /// It ended, or must.
    Lost(String),
    /// It served its purpose: it waits for message data now, and is to be dropped.
    Spent,
}

/// One recipient to be asked about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'q> {
    pub(super) mailbox: &'q Mailbox,
    /// It shares no transaction.
    pub(super) alone: bool,
}

/// What a batch came to: a finding for each question that was answered, in order.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) findings: Vec<(Finding, Conversation)>,
    pub(super) health: Health,
    /// The backend said that so many recipients are enough for a transaction.
    pub(super) limit: Option<usize>,
    /// Transactions that were begun: as many RSETs the backend has seen.
    pub(super) resets: usize,
    /// Recipients in the fullest transaction that met no limit.
    pub(super) fullest: usize,
}

impl Batch {
    /// How many of the questions were answered. The last word of a session is the answer to none.
    pub(super) fn answers(&self) -> usize {
        let last_word = matches!(self.health, Health::Lost(_))
            && self.findings.last().is_some_and(|(finding, _)| *finding == Finding::Again);
        self.findings.len() - usize::from(last_word)
    }
}

/// Asks about recipients at RCPT, `most` of them in a transaction. What has no finding was not answered.
pub(super) async fn ask(
    lease: &mut Lease,
    sender: Option<&Mailbox>,
    asked: &[Asked<'_>],
    most: usize,
) -> Batch {
    let connection = lease.connection();
    let findings = Vec::with_capacity(asked.len());
    let mut batch = Batch { findings, health: Health::Well, limit: None, resets: 0, fullest: 0 };
    let steps = steps(connection, sender, asked, most);
    batch.resets = steps.iter().filter(|step| matches!(step, Step::Ask(_))).count();
    let outcome = if connection.announced().has(Keyword::Pipelining) {
        ask_together(connection, steps, &mut batch).await
    } else {
        ask_one_by_one(connection, steps, &mut batch).await
    };
    if let Err(lost) = outcome {
        batch.health = Health::Lost(lost);
    }
    batch
}

/// Asks a backend about one recipient at RCPT, on a session for this alone. None: it did not answer in time.
pub(super) async fn ask_once(
    backend: &Arc<Backend>,
    sender: Option<&Mailbox>,
    recipient: &Mailbox,
) -> Option<Finding> {
    let mut lease = session(backend).await?;
    let finding = ask_one(&mut lease, sender, recipient).await;
    lease.quit();
    finding
}

/// A session for a few questions.
pub(super) async fn session(backend: &Arc<Backend>) -> Option<Lease> {
    backend.lease(Use::Probe, &Introduction::Ourselves, Instant::now() + ONCE).await.ok()
}

/// Asks about one recipient at RCPT. None: it was not answered.
pub(super) async fn ask_one(
    lease: &mut Lease,
    sender: Option<&Mailbox>,
    recipient: &Mailbox,
) -> Option<Finding> {
    let asked = [Asked { mailbox: recipient, alone: true }];
    let batch = ask(lease, sender, &asked, 1).await;
    batch.findings.into_iter().next().map(|(finding, _)| finding)
}

/// How long such a session may be waited for.
const ONCE: Duration = Duration::from_secs(10);

/// Asks about one recipient at DATA. No finding: it was not answered.
pub(super) async fn ask_at_data(
    lease: &mut Lease,
    sender: Option<&Mailbox>,
    recipient: &Mailbox,
) -> (Option<(Finding, Conversation)>, Health) {
    let connection = lease.connection();
    let asked = [Asked { mailbox: recipient, alone: true }];
    let Some(Step::Ask(transaction)) = steps(connection, sender, &asked, 1).pop() else {
        return (Some(cannot_be_asked()), Health::Well);
    };
    let mut said = Conversation::default();
    match data_finding(connection, &transaction, &mut said).await {
        Ok(Finding::Good) => (Some((Finding::Good, said)), Health::Spent),
        // Whether it reads commands now, or a message, nobody knows.
        Ok(Finding::Again) => (None, Health::Lost("no clear answer to DATA".to_owned())),
        Ok(finding) => match reset_answer(connection.exchange(RSET.as_bytes()).await) {
            Reset::Done => (Some((finding, said)), Health::Well),
            Reset::Lost(why) => (Some((finding, said)), Health::Lost(why)),
            Reset::Refused(why) => (None, Health::Lost(why)),
        },
        Err(why) => (None, Health::Lost(why)),
    }
}

async fn data_finding(
    connection: &mut Connection,
    transaction: &Transaction,
    said: &mut Conversation,
) -> Result<Finding, String> {
    let mail = tell(connection, said, &transaction.mail).await?;
    if meaning(Stage::Mail, &mail) != Meaning::Proceed {
        return Ok(finding(&mail, None));
    }
    let Some(rcpt) = transaction.rcpts.first() else { return Ok(Finding::Again) };
    let rcpt = tell(connection, said, rcpt).await?;
    let at_rcpt = finding(&mail, Some(&rcpt));
    // 252 takes the recipient too, and DATA may tell more.
    if rcpt.class() != Class::Positive {
        return Ok(at_rcpt);
    }
    let data = tell(connection, said, "DATA\r\n").await?;
    Ok(recipient_finding(Stage::Data, &data))
}

/// The commands of one transaction.
struct Transaction {
    mail: String,
    rcpts: Vec<String>,
}

/// What is done about one question or several.
enum Step {
    /// It cannot be asked here.
    Cannot,
    /// They are asked.
    Ask(Transaction),
}

fn steps(connection: &Connection, sender: Option<&Mailbox>, asked: &[Asked<'_>], most: usize) -> Vec<Step> {
    let sender = sender.map_or("", Mailbox::written);
    let mut steps: Vec<Step> = Vec::with_capacity(asked.len());
    let mut room = 0;
    for Asked { mailbox, alone } in asked {
        let utf8 = !mailbox.is_ascii();
        if utf8 && !connection.announced().has(Keyword::SmtpUtf8) {
            steps.push(Step::Cannot);
            room = 0;
            continue;
        }
        let alone = *alone || utf8;
        let rcpt = format!("RCPT TO:<{}>\r\n", mailbox.written());
        match steps.last_mut() {
            Some(Step::Ask(transaction)) if room > 0 && !alone => {
                transaction.rcpts.push(rcpt);
                room -= 1;
            }
            _ => {
                let parameter = if utf8 { " SMTPUTF8" } else { "" };
                let mail = format!("MAIL FROM:<{sender}>{parameter}\r\n");
                steps.push(Step::Ask(Transaction { mail, rcpts: vec![rcpt] }));
                room = if alone { 0 } else { most.saturating_sub(1) };
            }
        }
    }
    steps
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
    steps: Vec<Step>,
    batch: &mut Batch,
) -> Result<(), String> {
    let mut lines = String::new();
    for step in &steps {
        if let Step::Ask(transaction) = step {
            lines.push_str(&transaction.mail);
            lines.extend(transaction.rcpts.iter().map(String::as_str));
            lines.push_str(RSET);
        }
    }
    if !lines.is_empty() {
        connection.send(lines.as_bytes()).await.map_err(lost)?;
    }
    let heard = hear_all(connection, steps, batch).await;
    if heard.is_ok() && connection.in_step().is_err() {
        // A reply too many: any of them may have been read for the wrong command.
        batch.findings.clear();
        return Err("it said more than it was asked".to_owned());
    }
    heard
}

/// The answers to questions that went out together.
async fn hear_all(connection: &mut Connection, steps: Vec<Step>, batch: &mut Batch) -> Result<(), String> {
    for step in steps {
        let Step::Ask(transaction) = step else {
            batch.findings.push(cannot_be_asked());
            continue;
        };
        let mut told = Vec::with_capacity(transaction.rcpts.len());
        let heard = hear_transaction(connection, &transaction, &mut told).await;
        let reset = match heard {
            Ok(()) => reset_answer(connection.answer().await),
            Err(why) => Reset::Lost(why),
        };
        batch.conclude(told, reset)?;
    }
    Ok(())
}

async fn hear_transaction(
    connection: &mut Connection,
    transaction: &Transaction,
    told: &mut Vec<(Finding, Conversation)>,
) -> Result<(), String> {
    let mut opening = Conversation::default();
    let mail = hear(connection, &mut opening, &transaction.mail).await?;
    for rcpt in &transaction.rcpts {
        let mut said = opening.clone();
        let reply = hear(connection, &mut said, rcpt).await?;
        told.push((finding(&mail, Some(&reply)), said));
        still_well(&reply)?;
    }
    still_well(&mail)
}

impl Batch {
    /// Takes what a transaction told, as far as the answer to its RSET lets it be believed.
    fn conclude(&mut self, mut told: Vec<(Finding, Conversation)>, reset: Reset) -> Result<(), String> {
        let outcome = match reset {
            Reset::Done => Ok(()),
            // Servers end a session over a recipient they refuse, and some at RSET: what was whole stands.
            // Should an acceptance have been one reply too many to MAIL, the delivery port will say so.
            Reset::Lost(why) => Err(why),
            // Replies and commands are out of step.
            Reset::Refused(why) => return Err(why),
        };
        match told.iter().position(|(finding, _)| *finding == Finding::Again).filter(|_| outcome.is_ok()) {
            Some(place) if place > 0 => {
                self.limit = Some(self.limit.map_or(place, |limit| limit.min(place)));
                // No fault of theirs: they come first in the next.
                for (finding, _) in told.iter_mut().skip(place).filter(|(f, _)| *f == Finding::Again) {
                    *finding = Finding::Later;
                }
            }
            Some(_) => {}
            None => self.fullest = self.fullest.max(told.len()),
        }
        self.findings.extend(told);
        outcome
    }
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

/// Command by command, for a backend without pipelining.
async fn ask_one_by_one(
    connection: &mut Connection,
    steps: Vec<Step>,
    batch: &mut Batch,
) -> Result<(), String> {
    for step in steps {
        let Step::Ask(transaction) = step else {
            batch.findings.push(cannot_be_asked());
            continue;
        };
        let mut told = Vec::with_capacity(transaction.rcpts.len());
        let reset = match tell_transaction(connection, &transaction, &mut told).await {
            Ok(()) => reset_answer(connection.exchange(RSET.as_bytes()).await),
            Err(why) => Reset::Lost(why),
        };
        batch.conclude(told, reset)?;
    }
    Ok(())
}

async fn tell_transaction(
    connection: &mut Connection,
    transaction: &Transaction,
    told: &mut Vec<(Finding, Conversation)>,
) -> Result<(), String> {
    let mut opening = Conversation::default();
    let mail = tell(connection, &mut opening, &transaction.mail).await?;
    let proceeds = meaning(Stage::Mail, &mail) == Meaning::Proceed;
    for rcpt in &transaction.rcpts {
        let mut said = opening.clone();
        if !proceeds {
            told.push((finding(&mail, None), said));
            continue;
        }
        let reply = tell(connection, &mut said, rcpt).await?;
        told.push((finding(&mail, Some(&reply)), said));
        still_well(&reply)?;
    }
    still_well(&mail)
}

/// A command and its reply, noted.
async fn tell(connection: &mut Connection, said: &mut Conversation, command: &str) -> Result<Reply, String> {
    connection.send(command.as_bytes()).await.map_err(lost)?;
    hear(connection, said, command).await
}

/// One reply, noted.
async fn hear(connection: &mut Connection, said: &mut Conversation, command: &str) -> Result<Reply, String> {
    let reply = connection.answer().await.map_err(lost)?;
    said.exchange(command, &reply);
    Ok(reply)
}

/// A 421 is the last word of a session (RFC 5321 §3.8).
fn still_well(reply: &Reply) -> Result<(), String> {
    if reply.code() == 421 { Err(reply.to_string()) } else { Ok(()) }
}

#[expect(clippy::needless_pass_by_value, reason = "the form map_err wants")]
fn lost(fault: Fault) -> String {
    fault.to_string()
}

/// What the replies to MAIL and RCPT say about the recipient.
fn finding(mail: &Reply, rcpt: Option<&Reply>) -> Finding {
    match (meaning(Stage::Mail, mail), rcpt) {
        (Meaning::Proceed, Some(rcpt)) => recipient_finding(Stage::Recipient, rcpt),
        (Meaning::SenderRefused, _) => Finding::OtherSender(mail.clone()),
        (Meaning::RouteFault, _) => Finding::Unknown(Cause::RouteFault(mail.clone())),
        (Meaning::Deferred | Meaning::Pressure, _) => Finding::Unknown(Cause::Deferred(mail.clone())),
        _ => Finding::Again,
    }
}

/// What the reply to RCPT, or to DATA behind a single one, says about the recipient.
fn recipient_finding(stage: Stage, reply: &Reply) -> Finding {
    match meaning(stage, reply) {
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
