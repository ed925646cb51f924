//! Which senders the backend takes, and whether it relays for us.

use super::{Delivers, IsAsked, Judgement, Role, Severity, words};
use crate::proto::address::Mailbox;
use crate::proto::reply::{Class, Reply};
use crate::proto::verdict::{Meaning, Relaying, Stage, meaning, relaying};
use crate::verify::examine::facts::{Answered, Asked, Part, SenderFact};
use crate::verify::examine::is_foreign;
use crate::verify::foreign::{self, Outcome, Said, Whose};

pub(super) fn senders(senders: &[SenderFact], role: &Role, out: &mut Judgement) {
    let taken = |reply: Option<&Reply>| reply.is_some_and(|reply| reply.class() == Class::Positive);
    for fact in senders {
        let written = fact.sender.as_ref().map_or("", Mailbox::written);
        let reply = fact.reply.as_ref();
        if taken(reply) {
            out.well(format!("takes the sender <{written}>"));
            continue;
        }
        if fact.part == Part::Fallback {
            // Said together with the refusal that made it necessary.
            continue;
        }
        let refused = reply.is_some_and(|reply| meaning(Stage::Mail, reply) == Meaning::SenderRefused);
        let fallback = senders.iter().find(|fact| fact.part == Part::Fallback);
        let saved = fallback.filter(|fallback| taken(fallback.reply.as_ref()));
        let fallback_name = saved.and_then(|fact| fact.sender.as_ref()).map(Mailbox::written);
        let null = fact.sender.is_none();
        let id = match (null, refused) {
            (true, true) => "null-sender-refused",
            (true, false) => "null-sender-unanswered",
            (false, _) => "sender-refused",
        };
        let bounces = if null {
            " Bounces and delivery notices for your users are refused there too (RFC 5321 §6.1)."
        } else {
            ""
        };
        let (severity, means) = match (fact.part, role.asked, fallback_name) {
            (Part::Bounces, ..) | (_, IsAsked::Elsewhere | IsAsked::Never, _) => {
                (Severity::Warning, "It is not asked with this sender.".to_owned())
            }
            (_, IsAsked::Decides, Some(name)) => {
                (Severity::Warning, format!("It is asked as <{name}> instead, which it takes."))
            }
            (_, IsAsked::Decides, None) => (
                Severity::Fault,
                format!(
                    "Nobody can be asked about: recipients stay unverified and are answered 451{}.",
                    fallback.map_or_else(String::new, |fact| format!(
                        ", as the fallback <{}> is refused too ({})",
                        fact.sender.as_ref().map_or("", Mailbox::written),
                        words(fact.reply.as_ref())
                    ))
                ),
            ),
        };
        out.found(
            severity,
            id,
            format!("MAIL FROM:<{written}> is answered {}", words(reply)),
            format!("{means}{bounces}"),
            "let it take <> (Postfix: no reject for <> in smtpd_sender_restrictions; Exchange: Set-SenderFilterConfig -BlankSenderBlockingEnabled $false), or write verify.sender = an address it takes",
        );
    }
}

/// What the backend does about foreign mail.
pub(in crate::verify) fn foreign_mail(relay: &[Asked]) -> Outcome {
    let said = relay.iter().filter_map(|asked| {
        let Asked { sender, recipient, .. } = asked;
        let whose = if is_foreign(sender) { Whose::Nobodys } else { Whose::Ours };
        Some(Said { sender, whose, recipient, what: said_of(asked)? })
    });
    foreign::outcome(&said.collect::<Vec<_>>())
}

/// What it says of the recipient; none where the sender was refused.
fn said_of(asked: &Asked) -> Option<Relaying> {
    (asked.to == Answered::Rcpt).then(|| asked.reply.as_ref().map_or(Relaying::Unclear, relaying))
}

pub(super) fn relay(relay: &[Asked], role: &Role, out: &mut Judgement) {
    let relays = relay.iter().find(|asked| said_of(asked) == Some(Relaying::Takes));
    if let Some(asked) = relays {
        let who = match role.delivers {
            Delivers::Anything => {
                "Every domain not named elsewhere is routed to it: Backstop would be an open relay, and its own test of such a route answers that mail 451"
            }
            Delivers::Named => {
                "It trusts our address. Backstop refuses other domains itself, so nothing is relayed through it; a mistake in domains, or another way to this port, would be an open relay. Where it trusts us so much it may also take any recipient and skip its spam filter"
            }
            Delivers::Nothing => {
                "It trusts our address. Where it trusts us so much it may also take any recipient"
            }
        };
        out.found(
            Severity::Fault,
            "relays",
            format!(
                "relays for us: from <{}> to <{}>, a domain that is nobody's, is answered {}",
                asked.sender,
                asked.recipient,
                words(asked.reply.as_ref())
            ),
            who,
            "take our address out of what it trusts (Postfix: mynetworks, smtpd_relay_restrictions = reject_unauth_destination; Exim: relay_from_hosts; Exchange: Get-ReceiveConnector | Set-ReceiveConnector without ExternalAuthoritative and without Ms-Exch-SMTP-Accept-Any-Recipient for our address)",
        );
        return;
    }
    let refused =
        relay.iter().find(|asked| said_of(asked) == Some(Relaying::Denies)).or_else(|| relay.first());
    match (refused, foreign_mail(relay)) {
        (Some(asked), Outcome::Refuses) => {
            out.well(format!("refuses to relay for us: {}", words(asked.reply.as_ref())));
        }
        (Some(asked), _) => {
            let (severity, means, remedy) = match role.delivers {
                Delivers::Anything => (
                    Severity::Warning,
                    "Neither a yes nor a clear no to foreign recipients: mail that only \"*\" covers is answered 451 until it refuses to relay",
                    "name its domains in the route; or let it refuse to relay before it looks at anything else (Postfix: reject_unauth_destination first)",
                ),
                Delivers::Named | Delivers::Nothing => (
                    Severity::Note,
                    "Neither a yes nor a clear no to foreign recipients",
                    "ask again later; look at what it trusts our address with",
                ),
            };
            let what = format!("whether it relays for us could not be seen: {}", words(asked.reply.as_ref()));
            out.found(severity, "relay-unclear", what, means, remedy);
        }
        (None, _) => {}
    }
}
