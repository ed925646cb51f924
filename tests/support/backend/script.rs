//! What the scripted backend does, and when.
//!
//! ```ignore
//! Script::knowing(["anna@example.org"])
//!     .on(at(Phase::Rcpt).to("slow@example.org"), Action::reply("250 2.1.5 ok").after(Duration::from_secs(30)))
//!     .on(at(Phase::Body).beyond(65536), Action::reset())
//!     .on(at(Phase::EndOfData).nth(2), Action::half("250 2.0.0 queued").then(Action::close()))
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use super::manners::{Judges, Limits, Words};

/// The whole behaviour of a backend.
#[derive(Clone, Debug)]
pub struct Script {
    /// Its name in greeting and EHLO.
    pub host: String,
    /// What EHLO announces.
    pub keywords: Vec<String>,
    /// What becomes of message octets.
    pub keep: Keep,
    /// When it judges a recipient.
    pub judges: Judges,
    /// What it says when no rule does.
    pub words: Words,
    /// What it puts up with.
    pub limits: Limits,
    mailboxes: Option<BTreeSet<String>>,
    rules: Vec<Rule>,
    acted: usize,
    /// None serves every domain.
    domains: Option<BTreeSet<String>>,
    pub(super) tls: Tls,
}

/// TLS with the backend.
#[derive(Clone, Debug, Default)]
pub(super) enum Tls {
    #[default]
    Off,
    /// With STARTTLS.
    OnRequest(Arc<ServerConfig>),
    FromStart(Arc<ServerConfig>),
}

/// Whether a session is encrypted by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Within {
    Plaintext,
    Tls,
}

/// Whether messages are kept or only counted (for those larger than a test should hold).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    Octets,
    Count,
}

/// Where in a session something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    /// In a handshake, when the client has begun it. An action leaves nothing of it: let it end the session.
    Handshake,
    Mail,
    Rcpt,
    Data,
    /// Inside the octets of a message sent with DATA; see [`When::beyond`]. A message has one action at most, and each
    /// read of it is a turn.
    Body,
    EndOfData,
    /// After the octets of each BDAT chunk.
    Bdat,
    Rset,
    Noop,
    Quit,
    /// Any other command.
    Other,
}

/// One thing that just happened, to be held against the rules.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event<'a> {
    pub(super) phase: Phase,
    /// The number of the session, from 0.
    pub(super) session: usize,
    /// Address of MAIL and RCPT.
    pub(super) address: Option<&'a str>,
    /// Address of the latest MAIL, this one included.
    pub(super) sender: Option<&'a str>,
    /// How often the phase was reached in this session, from 1.
    pub(super) turn: usize,
    /// Octets of the message read so far.
    pub(super) octets: u64,
}

/// When a rule applies. All that is given must hold.
#[derive(Clone, Debug)]
pub struct When {
    phase: Phase,
    address: Option<String>,
    domain: Option<String>,
    sender: Option<String>,
    session: Option<usize>,
    nth: Option<usize>,
    turn: Option<usize>,
    beyond: u64,
}

/// The condition that a phase is reached.
pub fn at(phase: Phase) -> When {
    When { phase, address: None, domain: None, sender: None, session: None, nth: None, turn: None, beyond: 0 }
}

impl When {
    /// For this address in MAIL or RCPT, in any case.
    pub fn to(self, address: &str) -> Self {
        Self { address: Some(address.to_owned()), ..self }
    }

    /// For addresses in this domain in MAIL or RCPT, in any case.
    pub fn in_domain(self, domain: &str) -> Self {
        Self { domain: Some(domain.to_owned()), ..self }
    }

    /// In a session whose latest MAIL named this sender: a probe names none ("").
    pub fn from(self, sender: &str) -> Self {
        Self { sender: Some(sender.to_owned()), ..self }
    }

    /// The nth time (from 1) that the other conditions hold, over all sessions.
    pub fn nth(self, nth: usize) -> Self {
        Self { nth: Some(nth), ..self }
    }

    /// The nth time (from 1) that a session reaches the phase, in every session.
    pub fn turn(self, turn: usize) -> Self {
        Self { turn: Some(turn), ..self }
    }

    /// In the session with this number (from 0) alone.
    pub fn in_session(self, session: usize) -> Self {
        Self { session: Some(session), ..self }
    }

    /// After so many octets of the message were read.
    pub fn beyond(self, octets: u64) -> Self {
        Self { beyond: octets, ..self }
    }

    fn holds(&self, event: &Event<'_>) -> bool {
        let address = event.address.unwrap_or_default();
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        self.phase == event.phase
            && self.domain.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(domain))
            && self.address.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(address))
            && self.sender.as_deref().is_none_or(|wanted| event.sender == Some(wanted))
            && self.session.is_none_or(|wanted| wanted == event.session)
            && self.turn.is_none_or(|wanted| wanted == event.turn)
            && event.octets >= self.beyond
    }
}

#[derive(Clone, Debug)]
struct Rule {
    when: When,
    action: Action,
    /// How often everything but `nth` held.
    held: usize,
}

/// What the backend does instead of its ordinary answer. If it writes something, the first octet decides what the
/// backend itself thinks it said: '2' to RCPT accepts the recipient, '2' at the end of data stores the message.
#[derive(Clone, Debug)]
pub struct Action {
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Ordinary,
    Write(Vec<u8>),
    Wait(Duration),
    Hold(CancellationToken),
    Close,
    Reset,
    Ignore,
    Freeze,
}

impl Action {
    /// A reply; CRLF is added. Several lines are written with "\r\n" between them.
    pub fn reply(text: &str) -> Self {
        Self::bytes(format!("{text}\r\n"))
    }

    /// Any octets, as they are.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self::one(Step::Write(bytes.into()))
    }

    /// The first half of a reply. What follows is yours to say.
    pub fn half(text: &str) -> Self {
        Self::bytes(&text.as_bytes()[..text.len() / 2])
    }

    /// A reply in pieces of `size` octets, each written alone, with a pause between them.
    pub fn pieces(text: &str, size: usize, pause: Duration) -> Self {
        let text = format!("{text}\r\n");
        let writes = text.as_bytes().chunks(size).map(|piece| Step::Write(piece.to_vec()));
        Self { steps: writes.flat_map(|write| [write, Step::Wait(pause)]).collect() }
    }

    /// What it would have done without a rule.
    pub fn ordinary() -> Self {
        Self::one(Step::Ordinary)
    }

    /// Ends the connection in order (FIN).
    pub fn close() -> Self {
        Self::one(Step::Close)
    }

    /// Ends the connection with a reset (over TCP; elsewhere the same as a close).
    pub fn reset() -> Self {
        Self::one(Step::Reset)
    }

    /// Never answers again, but goes on to read until the client goes.
    pub fn ignore() -> Self {
        Self::one(Step::Ignore)
    }

    /// Neither answers nor reads again; the client's writes will block.
    pub fn freeze() -> Self {
        Self::one(Step::Freeze)
    }

    /// The same, later.
    pub fn after(mut self, delay: Duration) -> Self {
        self.steps.insert(0, Step::Wait(delay));
        self
    }

    /// The same, once the test lets it go on by cancelling the token.
    pub fn held_by(mut self, gate: &CancellationToken) -> Self {
        self.steps.insert(0, Step::Hold(gate.clone()));
        self
    }

    /// This, and then the other.
    pub fn then(mut self, next: Self) -> Self {
        self.steps.extend(next.steps);
        self
    }

    /// What the backend believes it says with this: the first octet it writes, or nothing.
    pub(super) fn says(&self) -> Option<u8> {
        self.steps.iter().find_map(|step| match step {
            Step::Write(octets) => octets.first().copied(),
            _ => None,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub(super) fn into_steps(self) -> Vec<Step> {
        self.steps
    }

    fn nothing() -> Self {
        Self { steps: Vec::new() }
    }

    fn one(step: Step) -> Self {
        Self { steps: vec![step] }
    }
}

impl Script {
    /// A sink that knows these mailboxes and refuses others with 550 5.1.1.
    pub fn knowing<'a>(mailboxes: impl IntoIterator<Item = &'a str>) -> Self {
        let mailboxes = mailboxes.into_iter().map(str::to_ascii_lowercase).collect();
        Self { mailboxes: Some(mailboxes), ..Self::blind() }
    }

    /// A sink that says 250 to every recipient.
    pub fn blind() -> Self {
        let keywords = ["PIPELINING", "SIZE 0", "8BITMIME", "ENHANCEDSTATUSCODES"];
        Self {
            host: "store.test".to_owned(),
            keywords: keywords.map(str::to_owned).to_vec(),
            keep: Keep::Octets,
            judges: Judges::AtRcpt,
            words: Words::PLAIN,
            limits: Limits::default(),
            mailboxes: None,
            domains: None,
            rules: Vec::new(),
            acted: 0,
            tls: Tls::Off,
        }
    }

    /// Refusing recipients in other domains than those of its mailboxes: it relays for nobody.
    pub fn serving_only_their_domains(self) -> Self {
        let domains = self.mailboxes.iter().flatten().filter_map(|mailbox| mailbox.rsplit_once('@'));
        Self { domains: Some(domains.map(|(_, domain)| domain.to_owned()).collect()), ..self }
    }

    /// Refusing recipients in other domains than these.
    pub fn serving_only(self, domains: &[&str]) -> Self {
        Self { domains: Some(domains.iter().map(|domain| domain.to_ascii_lowercase()).collect()), ..self }
    }

    /// Judging recipients at another time.
    pub fn judging(self, judges: Judges) -> Self {
        Self { judges, ..self }
    }

    /// Putting up with less.
    pub fn limited(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Calling itself so.
    pub fn named(self, host: &str) -> Self {
        Self { host: host.to_owned(), ..self }
    }

    /// With one more EHLO keyword.
    pub fn offering(mut self, keyword: &str) -> Self {
        self.keywords.push(keyword.to_owned());
        self
    }

    /// With exactly these EHLO keywords.
    pub fn offering_only(self, keywords: &[&str]) -> Self {
        Self { keywords: keywords.iter().map(|&keyword| keyword.to_owned()).collect(), ..self }
    }

    /// Offering STARTTLS, outside TLS.
    pub fn with_starttls(self, config: Arc<ServerConfig>) -> Self {
        Self { tls: Tls::OnRequest(config), ..self }
    }

    /// With TLS from the first octet on.
    pub fn with_implicit_tls(self, config: Arc<ServerConfig>) -> Self {
        Self { tls: Tls::FromStart(config), ..self }
    }

    /// Counting message octets instead of keeping them.
    pub fn counting(self) -> Self {
        Self { keep: Keep::Count, ..self }
    }

    /// With a rule. Of several that apply the latest wins.
    pub fn on(mut self, when: When, action: Action) -> Self {
        self.rules.push(Rule { when, action, held: 0 });
        self
    }

    /// Without any rule again.
    pub fn ordinary(self) -> Self {
        Self { rules: Vec::new(), ..self }
    }

    /// What to do at the event: the rule's action, if one applies, with the ordinary reply (empty: none) filled in.
    /// Counts towards every rule's `nth`.
    pub(super) fn decide(&mut self, event: &Event<'_>, ordinary: &str) -> Action {
        let mut chosen = None;
        for rule in self.rules.iter_mut().filter(|rule| rule.when.holds(event)) {
            rule.held += 1;
            if rule.when.nth.is_none_or(|nth| nth == rule.held) {
                chosen = Some(&rule.action);
            }
        }
        self.acted += usize::from(chosen.is_some());
        let mut action = chosen.cloned().unwrap_or_else(Action::ordinary);
        let ordinary = match ordinary {
            "" => Action::nothing(),
            text => Action::reply(text),
        };
        if let Some(at) = action.steps.iter().position(|step| matches!(step, Step::Ordinary)) {
            action.steps.splice(at..=at, ordinary.steps);
        }
        action
    }

    pub(super) fn acted(&self) -> usize {
        self.acted
    }

    /// The reply to EHLO, for a client `within` TLS or not.
    pub(super) fn ehlo(&self, within: Within) -> String {
        let hello = format!("{}{}", self.host, self.words.hello);
        let starttls = "STARTTLS".to_owned();
        let offered = matches!(self.tls, Tls::OnRequest(_)) && within == Within::Plaintext;
        let starttls = offered.then_some(&starttls);
        let mut lines: Vec<_> = std::iter::once(&hello).chain(&self.keywords).chain(starttls).collect();
        let last = lines.pop().expect("at least the host");
        lines.iter().map(|line| format!("250-{line}\r\n")).collect::<String>() + "250 " + last
    }

    /// What it says to a RCPT.
    pub(super) fn answer_to(&self, recipient: &str) -> String {
        let domain = recipient.rsplit_once('@').map(|(_, domain)| domain.to_ascii_lowercase());
        let foreign = self.domains.as_ref().zip(domain).is_some_and(|(own, domain)| !own.contains(&domain));
        let words = match (foreign, self.judges) {
            (true, _) => self.words.foreign,
            (false, Judges::AtRcpt) if !self.knows(recipient) => self.words.unknown,
            (false, _) => self.words.recipient,
        };
        words.replace("{}", recipient)
    }

    /// Why it refuses DATA or a message, where it does so for one of these recipients.
    pub(super) fn refusal_of(&self, recipients: &[String], when: Judges) -> Option<String> {
        let unknown = recipients.iter().find(|recipient| !self.knows(recipient))?;
        (self.judges == when).then(|| self.words.unknown.replace("{}", unknown))
    }

    pub(super) fn knows(&self, address: &str) -> bool {
        self.mailboxes.as_ref().is_none_or(|known| known.contains(&address.to_ascii_lowercase()))
    }
}

impl Default for Script {
    fn default() -> Self {
        Self::blind()
    }
}
