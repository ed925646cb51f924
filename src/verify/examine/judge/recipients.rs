//! Whether the backend tells the recipients that exist from those that do not.

use super::{IsAsked, Judgement, Role, Severity, words};
use crate::config::Profile;
use crate::proto::reply::{Class, Reply};
use crate::proto::verdict::{Meaning, Stage, meaning};
use crate::verify::examine::facts::{Answered, Asked, DomainFact};

pub(super) fn domains(domains: &[DomainFact], role: &Role, out: &mut Judgement) {
    for fact in domains {
        domain(fact, role, out);
        let known = |reply: &Reply| meaning(Stage::Recipient, reply) == Meaning::Bad;
        if let Some(reply) = fact.postmaster.as_ref().filter(|reply| known(reply)) {
            out.found(
                Severity::Note,
                "postmaster-refused",
                format!("postmaster@{} is refused: {reply}", fact.domain),
                "Every domain that takes mail must have one (RFC 5321 §4.5.1); reports about your mail go there",
                "make the mailbox, or an alias for it",
            );
        }
    }
}

fn domain(fact: &DomainFact, role: &Role, out: &mut Judgement) {
    let domain = &fact.domain;
    let meanings: Vec<Meaning> =
        fact.nobody.iter().map(|rcpt| meaning(Stage::Recipient, &rcpt.reply)).collect();
    let said = words(fact.nobody.first().map(|rcpt| &rcpt.reply));
    match meanings.as_slice() {
        [] => out.found(
            Severity::Warning,
            "unanswered",
            format!("nobody could be asked about in {domain}: {}", fact.lost.as_deref().unwrap_or("the sender was refused")),
            "Recipients there stay unverified",
            "see the other findings; look at its log",
        ),
        [Meaning::Good | Meaning::Taken, rest @ ..]
            if rest.iter().all(|meaning| matches!(meaning, Meaning::Good | Meaning::Taken)) =>
        {
            blind(fact, role, out);
        }
        [first, rest @ ..] if rest.iter().any(|other| other != first) => out.found(
            Severity::Warning,
            "fickle",
            format!("names nobody has are answered differently in {domain}: {}", all(fact)),
            "One of the answers is not about the recipient",
            "look for servers behind one address that disagree, or for a limit that was reached",
        ),
        [Meaning::Bad, ..] => {
            out.well(format!("refuses names nobody has in {domain} at RCPT: {said}"));
            helo(fact, role, out);
        }
        [Meaning::RouteFault, ..] => out.found(
            Severity::Fault,
            "domain-not-served",
            format!("does not take mail for {domain} from us: {said}"),
            "Mail for the domain is answered 451; nothing is held against its addresses",
            "name the right backend, make the domain one it accepts (Exchange: New-AcceptedDomain; Postfix: relay_domains, virtual_mailbox_domains; Exim: relay_to_domains), or allow our address there",
        ),
        [Meaning::Deferred | Meaning::Pressure, ..] => out.found(
            Severity::Warning,
            "defers-questions",
            format!("answers questions about {domain} with {said}"),
            "Greylisting, or load: the client's own RCPT decides (on_unknown), and an unknown recipient is refused there or bounced",
            "exempt our address from greylisting (Postfix: check_client_access before the policy service)",
        ),
        [Meaning::Policy | Meaning::Refused, ..] if !helo(fact, role, out) => out.found(
            Severity::Warning,
            "refuses-questions",
            format!("answers questions about {domain} with {said}"),
            "That is about us or our sender, not about the recipient: the client's own RCPT decides (on_unknown)",
            "exempt our address from that check, or write verify.sender = an address it takes",
        ),
        _ => {}
    }
}

/// A refusal that is about the name in our EHLO, given only now. Gives whether it is.
fn helo(fact: &DomainFact, role: &Role, out: &mut Judgement) -> bool {
    let about_helo =
        |reply: &Reply| reply.mentions("helo command rejected") || reply.mentions("ehlo command rejected");
    let Some(rcpt) = fact.nobody.iter().find(|rcpt| about_helo(&rcpt.reply)) else { return false };
    out.found(
        Severity::Fault,
        "name-refused",
        format!("refuses our name {} at RCPT: {}", role.hostname, rcpt.reply),
        "Every recipient is refused, those that exist too",
        "write hostname = the name our address resolves to, or exempt us from its check (Postfix: smtpd_helo_restrictions = permit_mynetworks, …)",
    );
    true
}

/// It takes names nobody has.
fn blind(fact: &DomainFact, role: &Role, out: &mut Judgement) {
    let domain = &fact.domain;
    let what = format!("takes names nobody has in {domain} at RCPT: {}", all(fact));
    let tells_at_data = fact.data.as_ref().is_some_and(|reply| meaning(Stage::Data, reply) == Meaning::Bad);
    let remedy = match role.profile {
        Profile::Exchange => format!(
            "Exchange 2013 and later: ask the hub transport, verify.backends = [\"{}:2525\"], and there Install-AntiSpamAgents.ps1, Set-RecipientFilterConfig -Enabled $true -RecipientValidationEnabled $true; or verify.source = \"file\"",
            role.host
        ),
        Profile::Standard => format!(
            "let it refuse unknown recipients (Postfix: local_recipient_maps, relay_recipient_maps, no catch-all; Exim: verify = recipient; Exchange 2013 and later: verify.backends = [\"{}:2525\"] with the recipient filter on), or verify.source = \"file\" with a list of recipients",
            role.host
        ),
    };
    match role.asked {
        IsAsked::Never => out.found(
            Severity::Warning,
            "blind",
            what,
            "Recipients are not verified here: what is unknown is taken, and bounced to strangers later",
            format!("write verify.mode = \"enforce\" once it tells; {remedy}"),
        ),
        IsAsked::Elsewhere => out.found(
            Severity::Note,
            "blind-delivery",
            what,
            "Another source decides, and is the only guard: a recipient that was removed a moment ago is still taken here",
            "keep cache.positive_ttl short (15m) where mailboxes come and go",
        ),
        IsAsked::Decides if tells_at_data => out.found(
            Severity::Warning,
            "blind-at-rcpt",
            what,
            format!(
                "It refuses them only at DATA ({}), so each recipient costs a transaction up to there",
                words(fact.data.as_ref())
            ),
            format!("verify.stage = \"auto\" asks there by itself; cheaper: {remedy}"),
        ),
        IsAsked::Decides => out.found(
            Severity::Fault,
            "unverifiable",
            format!("{what}; DATA is answered {}", words(fact.data.as_ref())),
            "It takes anyone, or refuses only after the message, which is never sent: nothing can be verified, everything passes, and what is unknown is bounced to strangers (a catch-all bounces nothing)",
            format!("a catch-all on purpose: verify.mode = \"off\". Else: {remedy}"),
        ),
    }
}

fn all(fact: &DomainFact) -> String {
    let mut replies: Vec<String> = fact.nobody.iter().map(|rcpt| rcpt.reply.to_string()).collect();
    replies.dedup();
    replies.join(", ")
}

pub(super) fn known(known: &[Asked], out: &mut Judgement) {
    for asked in known {
        let said = words(asked.reply.as_ref());
        let class = asked.reply.as_ref().map(Reply::class);
        let who = &asked.recipient;
        let full =
            asked.reply.as_ref().is_some_and(|reply| meaning(Stage::Recipient, reply) == Meaning::Good);
        match (asked.to, class) {
            (Answered::Rcpt, Some(Class::Permanent | Class::Transient)) if full => {
                out.well(format!("knows {who}, whose mailbox is full: {said}"));
            }
            (Answered::Rcpt, Some(Class::Positive)) => out.well(format!("takes {who}: {said}")),
            (Answered::Rcpt, Some(Class::Permanent)) => out.found(
                Severity::Fault,
                "known-refused",
                format!("refuses {who}, which exists: {said}"),
                "Good recipients are refused, and their mail goes back to its senders",
                "look at the address, at the store's directory, and at case_sensitive; verify.allow takes an address without asking",
            ),
            _ => out.found(
                Severity::Warning,
                "known-undetermined",
                format!("does not say whether {who} exists: {said}"),
                "Its mail is answered 451, or decided by the delivery port (on_unknown)",
                "see the other findings",
            ),
        }
    }
}
