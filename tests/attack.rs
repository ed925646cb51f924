//! A dictionary attack on the built binary before a real Postfix with the error limits it has by default: a second's
//! sleep with each error behind the tenth of a session, the end of the session at the twentieth.
//!
//! Held: every name is refused in Postfix' own words, none is put off, none is asked about twice unless a session was
//! cut off, and mail to mailboxes known and new gets through meanwhile. How fast is printed, and not held: the machine
//! is not ours alone, and without BACKSTOP_ATTACK_PAUSE_MS, the way through the network between an answer and the next
//! name, the attack takes all of it. BACKSTOP_ATTACK_NAMES and BACKSTOP_ATTACK_CONNECTIONS set the extent; `tests/slow`
//! runs the whole one.

mod support;

use std::time::Duration;

use support::attack::{self, Attack, Seen, beside, clean_address, deliver, percentile, words};
use support::backstop::Backstop;
use support::client::Client;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const NAMES: usize = 1500;
/// Names that may be on their way in one session.
const BATCH: usize = backstop::backend::MAX_BATCH;
const CONNECTIONS: usize = 50;
/// One client may guess without end: it is the callout that is attacked here.
const LIMITS: &str = "[limits]\nmax_connections_per_client = 1000\nmax_errors = 0\n[log]\nlevel = \"warn\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn names_nobody_has_are_refused_in_postfix_own_words_and_delay_nobody() {
    let names = setting("BACKSTOP_ATTACK_NAMES").unwrap_or(NAMES);
    let connections = setting("BACKSTOP_ATTACK_CONNECTIONS").unwrap_or(CONNECTIONS);
    let postfix = attack::store().await;
    let (backstop, address) = Backstop::before_with(postfix.address(), LIMITS).await;
    // The first delivery to a mailbox is no delivery to a known one.
    let quiet = CancellationToken::new();
    quiet.cancel();
    let open = async move |_| Client::connect_from(clean_address(), address).await;
    let first = deliver(open, Duration::ZERO, quiet, |_| attack::KNOWN.to_owned()).await;
    assert!(first.refused.is_empty(), "{:?}", first.refused);
    let quiet = beside(open, "quiet", sleep(Duration::from_secs(if names > NAMES { 15 } else { 2 }))).await;
    let before = Seen::of(&postfix).await;
    let pause = Duration::from_millis(setting("BACKSTOP_ATTACK_PAUSE_MS").unwrap_or(0) as u64);
    let attack = Attack { names, connections, pause, within: Duration::from_secs(600) };
    let mut heard = None;
    let attacked = beside(open, "busy", async {
        heard = Some(attack.run(address, words).await);
    })
    .await;
    let heard = heard.expect("it was run");
    let after = Seen::of(&postfix).await;
    println!(
        "{names} names over {connections} connections in {:.1?}: {:?}; each waited {:.1?} (median), {:.1?} (99 of 100)",
        heard.took,
        heard.codes,
        percentile(&heard.waits, 50),
        percentile(&heard.waits, 99)
    );
    println!(
        "Postfix saw {} sessions, {} of them cut off, and refused {} RCPTs of {} names",
        after.sessions - before.sessions,
        after.cut_off - before.cut_off,
        after.refusals() - before.refusals(),
        after.refused.len() - before.refused.len()
    );
    for (what, quiet, busy) in [("known", &quiet.known, &attacked.known), ("new", &quiet.new, &attacked.new)]
    {
        println!("{what} mailboxes: quiet {}, under attack {}", quiet.figures(), busy.figures());
    }

    assert!(heard.others.is_empty(), "{:?}", heard.others);
    assert_eq!((heard.unanswered, heard.ended), (0, 0));
    assert_eq!(after.guesses().len(), names, "every name was asked about");
    // A session cut off is the only reason to ask again, and a name sees three of them at most.
    let cut_off = after.cut_off - before.cut_off;
    let most = 1 + cut_off.min(2);
    let guesses = after.guesses();
    let too_often: Vec<_> = guesses.iter().filter(|(_, times)| **times > most).collect();
    assert!(too_often.is_empty(), "{too_often:?}");
    let again: usize = guesses.iter().map(|(_, times)| **times - 1).sum();
    assert!(again <= cut_off * BATCH, "{again} asked again over {cut_off} sessions cut off");
    for deliveries in [quiet.known, quiet.new, attacked.known, attacked.new] {
        assert!(deliveries.refused.is_empty(), "{:?}", deliveries.refused);
        assert!(!deliveries.took.is_empty());
    }
    drop(backstop);
    postfix.settled().await;
}

fn setting(name: &str) -> Option<usize> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}
