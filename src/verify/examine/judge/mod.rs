//! What was seen of a backend means this for mail, and this is the remedy. Pure: facts in, findings out.

mod limits;
mod reach;
mod recipients;
mod trust;

pub(in crate::verify) use trust::foreign_mail;

use super::facts::{Facts, Reach};
use crate::config::Profile;
use crate::proto::reply::Reply;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know; nothing is wrong.
    Note,
    /// Mail is slower, or something is given up, or it may go wrong one day.
    Warning,
    /// Mail is lost, refused wrongly, bounced to strangers, or relayed.
    Fault,
}

impl Severity {
    /// For people and machines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// Something an operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its name; it stays.
    pub id: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What was seen.
    pub what: String,
    /// What it means for mail.
    pub means: String,
    /// What to do: configuration, or a command at the server. Empty where nothing has to be done.
    pub remedy: String,
}

/// What a backend is to us.
#[derive(Debug, Clone)]
pub struct Role {
    /// Mail is given to it.
    pub delivers: Delivers,
    /// It is asked about recipients.
    pub asked: IsAsked,
    /// What kind of server the configuration says it is.
    pub profile: Profile,
    /// Whether it is to be spoken to in TLS.
    pub tls: TlsWanted,
    /// It is on this machine: nobody listens in between.
    pub local: Local,
    /// Where it listens, as the configuration writes it.
    pub address: String,
    /// Its host.
    pub host: String,
    /// Our name.
    pub hostname: String,
    /// Connections it may be given.
    pub max_connections: usize,
}

/// Whether mail is given to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivers {
    /// For domains that are named.
    Named,
    /// Also for every domain not named elsewhere.
    Anything,
    /// It is only asked.
    Nothing,
}

/// Whether a backend is asked about recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsAsked {
    /// Its word decides.
    Decides,
    /// Another server, or a list, decides.
    Elsewhere,
    /// Recipients are not verified.
    Never,
}

/// Whether a backend is to be spoken to in TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsWanted {
    /// Never.
    Off,
    /// Where it can be had, with anyone.
    Offered,
    /// Always, with anyone.
    Demanded,
    /// Always, with who proves to be the right one.
    Proved,
}

/// Whether a backend is on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Local {
    /// It is.
    Here,
    /// It is not, or nobody knows.
    Away,
}

/// What an examination comes to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// What is wrong or worth knowing, the worst first.
    pub findings: Vec<Finding>,
    /// What is as it should be, one line each.
    pub well: Vec<String>,
}

impl Judgement {
    fn found(
        &mut self,
        severity: Severity,
        id: &'static str,
        what: impl Into<String>,
        means: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let (what, means, remedy) = (what.into(), means.into(), remedy.into());
        self.findings.push(Finding { id, severity, what, means, remedy });
    }

    fn well(&mut self, what: impl Into<String>) {
        self.well.push(what.into());
    }
}

/// Judges what was seen.
#[must_use]
pub fn judge(facts: &Facts, role: &Role) -> Judgement {
    let mut judgement = Judgement::default();
    match &facts.reach {
        Reach::Shut(shut) => reach::shut(shut, role, &mut judgement),
        Reach::Open { announced, tls, .. } => {
            reach::tls(announced, tls.as_ref(), role, &mut judgement);
            reach::announced(announced, &mut judgement);
            trust::senders(&facts.senders, role, &mut judgement);
            recipients::domains(&facts.domains, role, &mut judgement);
            recipients::known(&facts.known, &mut judgement);
            trust::relay(&facts.relay, role, &mut judgement);
            limits::tarpit(&facts.domains, &mut judgement);
            limits::together(facts.together.as_ref(), &mut judgement);
            limits::endurance(facts.endurance.as_ref(), role, &mut judgement);
            limits::connections(facts.connections.as_ref(), &mut judgement);
        }
    }
    // Stable: within a severity in the order of the questions.
    judgement.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    judgement
}

/// A reply, or that there was none.
fn words(reply: Option<&Reply>) -> String {
    reply.map_or_else(|| "the session was lost".to_owned(), ToString::to_string)
}
