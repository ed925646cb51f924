//! Examining a backend: what it would do to mail, found out without sending any.
//!
//! [`ask`] asks, [`facts`] holds what was heard, [`judge`] says what it means; [`examine`] is the order of the
//! questions. Gentle: one session at a time (but for the count of connections, which is brief), a bounded number
//! of names nobody has, the backend's own pace, never message data.

pub mod ask;
pub mod dnsbl;
pub mod facts;
pub mod judge;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use self::ask::{Envelope, Timed};
use self::facts::{
    Answered, Asked, Connections, DomainFact, Endurance, EnduranceEnd, Facts, Part, Reach, SenderFact, Shut,
    Together,
};
use super::foreign::{self, Outcome};
use super::names;
use crate::backend::{Backend, Connection};
use crate::proto::address::{Domain, Mailbox};
use crate::proto::reply::Class;

/// Names nobody has, asked about in each domain.
const NAMES: usize = 2;
/// Refusals asked for in one session: one more than Postfix endures before it slows down, and its first slow one.
const REFUSALS: usize = 12;
/// The refusals of one session take so long at most.
const REFUSALS_TIME: Duration = Duration::from_secs(40);
/// Refusals a session is left after while other things are found out.
const REFUSALS_ASIDE: u32 = 3;
/// Recipients given together.
const TOGETHER: usize = 5;
/// An answer that takes so much longer than others is held back on purpose.
pub const HELD_BACK: Duration = Duration::from_millis(500);
/// Connections opened at a time, and how long all of them may take.
const CONNECTIONS_AT_ONCE: usize = 5;
const CONNECTIONS_TIME: Duration = Duration::from_secs(30);
/// Domains that are nobody's (RFC 2606), for a sender and a recipient.
const FOREIGN: (&str, &str) = ("example.net", "example.com");

/// Whether a sender is the one that is nobody's.
fn is_foreign(sender: &str) -> bool {
    sender.rsplit_once('@').is_some_and(|(_, domain)| domain == FOREIGN.0)
}

/// What is to be found out.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Domains the backend is to know the recipients of.
    pub domains: Vec<Domain>,
    /// Recipients that exist.
    pub known: Vec<Mailbox>,
    /// The sender of probes; none is the null sender.
    pub sender: Option<Mailbox>,
    /// The sender where that one is refused.
    pub fallback: Option<Mailbox>,
    /// Connections to open at once; none leaves that out.
    pub connections: Option<usize>,
}

/// What is being found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Connecting.
    Connect,
    /// Senders.
    Senders,
    /// Names nobody has.
    Names,
    /// Recipients that exist.
    Known,
    /// A domain that is nobody's.
    Relay,
    /// Several recipients together.
    Together,
    /// Refusals in one session.
    Refusals,
    /// Connections at once.
    Connections,
}

impl Step {
    /// What an operator who waits is told.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connecting",
            Self::Senders => "asking which senders it takes",
            Self::Names => "asking about names nobody has",
            Self::Known => "asking about recipients that exist",
            Self::Relay => "asking whether it relays",
            Self::Together => "giving several recipients together",
            Self::Refusals => "counting the refusals it endures",
            Self::Connections => "counting the connections it takes",
        }
    }
}

/// Finds out about `backend`, and tells `progress` what is being done.
pub async fn examine(backend: &Arc<Backend>, plan: &Plan, mut progress: impl FnMut(Step)) -> Facts {
    progress(Step::Connect);
    let began = Instant::now();
    let (reach, session) = match backend.open_aside().await {
        Ok(session) => {
            let (announced, tls) = (*session.announced(), session.tls().cloned());
            (Reach::Open { took: began.elapsed(), announced, tls }, Some(session))
        }
        Err(fault) => (Reach::Shut(Shut::of(fault)), None),
    };
    let mut facts = Facts::of(reach);
    let Some(session) = session else { return facts };
    let mut examiner = Examiner { backend, session: Some(session) };
    progress(Step::Senders);
    facts.senders = examiner.senders(plan).await;
    let sender = taken(&facts.senders);
    progress(Step::Names);
    for domain in &plan.domains {
        facts.domains.extend(examiner.domain(sender.as_ref(), domain).await);
    }
    progress(Step::Known);
    for known in &plan.known {
        facts.known.push(examiner.asked(sender.as_ref(), known).await);
    }
    progress(Step::Relay);
    facts.relay = examiner.relay(sender.as_ref(), plan.fallback.as_ref()).await;
    progress(Step::Together);
    facts.together = examiner.together(sender.as_ref(), plan, &facts).await;
    examiner.leave().await;
    progress(Step::Refusals);
    facts.endurance = examiner.endurance(sender.as_ref(), &facts).await;
    if let Some(wanted) = plan.connections {
        progress(Step::Connections);
        facts.connections = Some(examiner.connections(wanted).await);
    }
    facts
}

/// The sender the other questions are asked with: the first of those for probes that was taken.
fn taken(senders: &[SenderFact]) -> Option<Mailbox> {
    let usable = |fact: &&SenderFact| {
        fact.part != Part::Bounces && fact.reply.as_ref().is_some_and(|r| r.class() == Class::Positive)
    };
    senders.iter().find(usable).and_then(|fact| fact.sender.clone())
}

/// One session after another with a backend.
struct Examiner<'b> {
    backend: &'b Arc<Backend>,
    session: Option<Connection>,
}

impl Examiner<'_> {
    /// A session that has refused little so far.
    async fn session(&mut self) -> Option<&mut Connection> {
        let fit = |session: &mut Connection| session.refusals() < REFUSALS_ASIDE && session.quiet().is_ok();
        if !self.session.as_mut().is_some_and(fit) {
            self.leave().await;
            self.session = self.backend.open_aside().await.ok();
        }
        self.session.as_mut()
    }

    async fn leave(&mut self) {
        if let Some(session) = self.session.take() {
            session.quit().await;
        }
    }

    async fn envelope(&mut self, sender: Option<&Mailbox>, recipients: &[&Mailbox]) -> Envelope {
        match self.session().await {
            Some(session) => ask::envelope(session, sender, recipients).await,
            None => Envelope { lost: Some("no further session".to_owned()), ..Envelope::default() },
        }
    }

    /// MAIL with the null sender, with the one of probes where that is another, and with the fallback where
    /// that one was refused.
    async fn senders(&mut self, plan: &Plan) -> Vec<SenderFact> {
        let mut senders = Vec::new();
        if plan.sender.is_some() {
            senders.push(self.sender(None, Part::Bounces).await);
        }
        let probes = self.sender(plan.sender.clone(), Part::Probes).await;
        let refused = probes.reply.as_ref().is_none_or(|reply| reply.class() != Class::Positive);
        senders.push(probes);
        if let Some(fallback) = plan.fallback.clone().filter(|_| refused) {
            senders.push(self.sender(Some(fallback), Part::Fallback).await);
        }
        senders
    }

    async fn sender(&mut self, sender: Option<Mailbox>, part: Part) -> SenderFact {
        let heard = self.envelope(sender.as_ref(), &[]).await;
        SenderFact { sender, reply: heard.mail.map(|mail| mail.reply), part }
    }

    /// Names nobody has, and the one that must exist, each in a transaction of its own, as probes are.
    async fn domain(&mut self, sender: Option<&Mailbox>, domain: &Domain) -> Option<DomainFact> {
        let mut fact = DomainFact {
            domain: domain.to_string(),
            nobody: Vec::new(),
            data: None,
            postmaster: None,
            round_trip: Duration::MAX,
            lost: None,
        };
        for _ in 0..NAMES {
            let name = names::nobody_at(domain)?;
            let mut heard = self.envelope(sender, &[&name]).await;
            let mail = heard.mail.map(|mail| mail.took);
            fact.round_trip = mail.map_or(fact.round_trip, |took| took.min(fact.round_trip));
            fact.lost = fact.lost.or(heard.lost);
            fact.nobody.append(&mut heard.recipients);
        }
        if fact.nobody.iter().any(|rcpt| rcpt.reply.class() == Class::Positive) {
            fact.data = self.data(sender, domain).await;
        }
        let postmaster = Mailbox::parse(&format!("postmaster@{domain}")).ok()?;
        let heard = self.envelope(sender, &[&postmaster]).await;
        fact.postmaster = heard.recipients.into_iter().next().map(|rcpt| rcpt.reply);
        Some(fact)
    }

    /// What DATA is answered behind a name nobody has.
    async fn data(&self, sender: Option<&Mailbox>, domain: &Domain) -> Option<crate::proto::reply::Reply> {
        let name = names::nobody_at(domain)?;
        let session = self.backend.open_aside().await.ok()?;
        ask::at_data(session, sender, &name).await.data
    }

    async fn asked(&mut self, sender: Option<&Mailbox>, recipient: &Mailbox) -> Asked {
        let heard = self.envelope(sender, &[recipient]).await;
        let to = if heard.sender_taken() { Answered::Rcpt } else { Answered::Mail };
        let reply = match to {
            Answered::Rcpt => heard.recipients.into_iter().next(),
            Answered::Mail => heard.mail,
        };
        Asked {
            sender: sender.map_or("", Mailbox::written).to_owned(),
            recipient: recipient.written().to_owned(),
            reply: reply.map(|timed| timed.reply),
            to,
        }
    }

    /// Foreign recipients from a foreign sender, and from each of ours: a backend may trust any of them. An address tells
    /// something only of ours (see [`foreign`]).
    async fn relay(&mut self, sender: Option<&Mailbox>, fallback: Option<&Mailbox>) -> Vec<Asked> {
        let domain = |name: &str| Domain::parse(name).ok();
        let from = domain(FOREIGN.0).and_then(|domain| names::nobody_at(&domain));
        let to = domain(FOREIGN.1).and_then(|domain| foreign::recipients(&domain));
        let (Some(from), Some(to)) = (from, to) else { return Vec::new() };
        let [at_domain, _] = &to;
        let mut asked = vec![self.asked(Some(&from), at_domain).await];
        let fallback = fallback.filter(|fallback| Some(*fallback) != sender);
        for recipient in &to {
            asked.push(self.asked(sender, recipient).await);
            if fallback.is_some() {
                asked.push(self.asked(fallback, recipient).await);
            }
            if judge::foreign_mail(&asked) != Outcome::Untested {
                break;
            }
        }
        asked
    }

    /// Recipients that are taken, several of them in one transaction.
    async fn together(&mut self, sender: Option<&Mailbox>, plan: &Plan, facts: &Facts) -> Option<Together> {
        let taken = |reply: &Option<_>| {
            reply.as_ref().is_some_and(|reply: &crate::proto::reply::Reply| reply.class() == Class::Positive)
        };
        let known = plan.known.iter().zip(&facts.known).find(|(_, asked)| taken(&asked.reply));
        let postmaster = || {
            let fact = facts.domains.iter().find(|fact| taken(&fact.postmaster))?;
            Mailbox::parse(&format!("postmaster@{}", fact.domain)).ok()
        };
        let recipient = known.map(|(known, _)| known.clone()).or_else(postmaster)?;
        let heard = self.envelope(sender, &[&recipient; TOGETHER]).await;
        let is_taken = |rcpt: &&Timed| rcpt.reply.class() == Class::Positive;
        Some(Together {
            asked: TOGETHER,
            taken: heard.recipients.iter().filter(is_taken).count(),
            refusal: heard.recipients.iter().find(|rcpt| !is_taken(rcpt)).map(|rcpt| rcpt.reply.clone()),
        })
    }

    /// Refusals in one session, until it is slower, ends, or it was enough. None where nothing is refused.
    async fn endurance(&self, sender: Option<&Mailbox>, facts: &Facts) -> Option<Endurance> {
        let refuses = |fact: &&DomainFact| {
            fact.nobody.first().is_some_and(|rcpt| rcpt.reply.class() == Class::Permanent)
        };
        let domain = Domain::parse(&facts.domains.iter().find(refuses)?.domain).ok()?;
        let mut session = self.backend.open_aside().await.ok()?;
        let mut seen = Endurance {
            refusals: 0,
            slower_after: None,
            slower_by: Duration::ZERO,
            end: EnduranceEnd::Enough,
        };
        let (began, mut usual) = (Instant::now(), Duration::MAX);
        while seen.refusals < REFUSALS {
            if began.elapsed() > REFUSALS_TIME {
                seen.end = EnduranceEnd::Slow;
                break;
            }
            let heard = ask::envelope(&mut session, sender, &[&names::nobody_at(&domain)?]).await;
            let answer = heard.recipients.first().or(heard.mail.as_ref());
            let over = answer.filter(|answer| answer.reply.code() == 421).map(|a| a.reply.to_string());
            if over.is_none()
                && let Some(answer) = heard.recipients.first()
            {
                let slower = answer.took.saturating_sub(usual);
                if slower >= HELD_BACK && seen.slower_after.is_none() {
                    (seen.slower_after, seen.slower_by) = (Some(seen.refusals), slower);
                }
                usual = usual.min(answer.took);
                seen.refusals += 1;
            }
            if let Some(words) = over.or(heard.lost) {
                seen.end = EnduranceEnd::Ended(words);
                return Some(seen);
            }
        }
        session.quit().await;
        Some(seen)
    }

    /// As many sessions at once as the configuration may use, each left at once.
    async fn connections(&self, wanted: usize) -> Connections {
        let mut open = Vec::new();
        let mut refusal = None;
        let opening = async {
            while open.len() < wanted && refusal.is_none() {
                let some = (wanted - open.len()).min(CONNECTIONS_AT_ONCE);
                for opened in join_all((0..some).map(|_| self.backend.open_aside())).await {
                    match opened {
                        Ok(session) => open.push(session),
                        Err(fault) => refusal = Some(Shut::of(fault)),
                    }
                }
            }
        };
        let in_time = timeout(CONNECTIONS_TIME, opening).await.is_ok();
        let opened = open.len();
        join_all(open.into_iter().map(Connection::quit)).await;
        let slow = || Shut::Silent("opening them took too long".to_owned());
        Connections { wanted, opened, refusal: refusal.or_else(|| (!in_time).then(slow)) }
    }
}
