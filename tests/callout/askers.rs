//! Anybody asks, leaves and waits in any order, while the store answers, is silent, or loses the session at any moment.
//!
//! Held whatever happens: a name is asked about in one place at a time; whoever stays is answered; a question sees three
//! sessions end at most; names nobody has, which fare as all others do, are few; and when all is over nothing waits, no
//! session is open and no slot is held.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstop::config::{self, Environment, Source};
use backstop::net::dial::Dialer;
use backstop::proto::address::Mailbox;
use backstop::server;
use backstop::verify::Urgency;
use proptest::prelude::*;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::house::{asker, said};
use super::support::machine::Directory;

/// What an asker does.
#[derive(Debug, Clone)]
enum Act {
    /// Asks about a name and stays.
    Ask(u8),
    /// Asks about a name and leaves after a while.
    AskAndLeave(u8, u16),
    /// Time passes.
    Pass(u16),
}

/// What the store does at a RCPT, or at DATA.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Good,
    Bad,
    Grey,
    Late(u16),
    LastWord,
    Close,
    Silent,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..8_u8).prop_map(Act::Ask),
        4 => (0..8_u8, 0..3000_u16).prop_map(|(name, after)| Act::AskAndLeave(name, after)),
        3 => (0..5000_u16).prop_map(Act::Pass),
    ];
    prop::collection::vec(act, 1..40)
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        4 => Just(Fate::Good),
        4 => Just(Fate::Bad),
        1 => Just(Fate::Grey),
        2 => (0..8000_u16).prop_map(Fate::Late),
        2 => Just(Fate::LastWord),
        2 => Just(Fate::Close),
        1 => Just(Fate::Silent),
    ];
    prop::collection::vec(fate, 0..60)
}

/// What the store was through.
#[derive(Debug, Default)]
struct Ledger {
    fates: std::vec::IntoIter<Fate>,
    /// Behind those everybody is good, instead of nobody.
    well: bool,
    /// Sessions in which a name is asked about and not answered yet.
    open: HashMap<String, usize>,
    most_open: usize,
    /// Sessions that ended over a name.
    lost: HashMap<String, usize>,
    /// Questions about names nobody has.
    random: usize,
}

impl Ledger {
    fn asked(&mut self, name: &str) {
        self.random += usize::from(!name.starts_with("name"));
        let open = self.open.entry(name.to_owned()).or_default();
        *open += 1;
        self.most_open = self.most_open.max(*open);
    }

    fn answered(&mut self, name: &str) {
        *self.open.entry(name.to_owned()).or_default() -= 1;
    }

    /// The session ends over it.
    fn lost(&mut self, name: &str) {
        *self.lost.entry(name.to_owned()).or_default() += 1;
    }
}

/// One session of the store. The names it was asked about, and had not answered when it ended, are given back.
async fn serve(stream: DuplexStream, ledger: Arc<Mutex<Ledger>>) {
    let mut stream = BufReader::new(stream);
    let mut unanswered = None;
    converse(&mut stream, &ledger, &mut unanswered).await;
    if let Some(name) = unanswered.take() {
        let mut ledger = ledger.lock().unwrap();
        *ledger.open.entry(name).or_default() -= 1;
    }
}

async fn converse(
    stream: &mut BufReader<DuplexStream>,
    ledger: &Arc<Mutex<Ledger>>,
    unanswered: &mut Option<String>,
) -> Option<()> {
    stream.write_all(b"220 store.test ESMTP\r\n").await.ok()?;
    let mut last = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if let Some(name) = line.strip_prefix("RCPT TO:<").and_then(|rest| rest.split('>').next()) {
            name.clone_into(&mut last);
        } else if !line.starts_with("DATA") {
            let reply: &[u8] = if line.starts_with("EHLO") {
                b"250-store.test\r\n250 PIPELINING\r\n"
            } else {
                b"250 Ok\r\n"
            };
            stream.write_all(reply).await.ok()?;
            continue;
        }
        let name = last.as_str();
        let fate = {
            let mut ledger = ledger.lock().unwrap();
            ledger.asked(name);
            let otherwise = if ledger.well { Fate::Good } else { Fate::Bad };
            ledger.fates.next().unwrap_or(otherwise)
        };
        *unanswered = Some(name.to_owned());
        let reply = decide(stream, fate).await;
        {
            let mut ledger = ledger.lock().unwrap();
            match reply {
                Some(_) => ledger.answered(name),
                None => ledger.lost(name),
            }
        }
        let reply = reply?;
        *unanswered = None;
        let reply =
            if line.starts_with("DATA") && reply.starts_with(b"250") { b"354 Go ahead\r\n" } else { reply };
        stream.write_all(reply).await.ok()?;
    }
}

/// What the store says; nothing when it closes, or when the asker does.
async fn decide(stream: &mut BufReader<DuplexStream>, fate: Fate) -> Option<&'static [u8]> {
    match fate {
        Fate::Good => Some(b"250 2.1.5 Ok\r\n"),
        Fate::Bad => Some(b"550 5.1.1 No such user\r\n"),
        Fate::Grey => Some(b"450 4.2.0 Greylisted\r\n"),
        Fate::Late(after) => {
            sleep(Duration::from_millis(after.into())).await;
            Some(b"550 5.1.1 No such user\r\n")
        }
        Fate::LastWord => {
            let _ = stream.write_all(b"421 4.3.0 Down\r\n").await;
            None
        }
        Fate::Close => None,
        Fate::Silent => {
            // Until the asker has had enough.
            let _ = tokio::io::copy(stream, &mut tokio::io::sink()).await;
            None
        }
    }
}

async fn play(stage: &str, acts: Vec<Act>, fates: Vec<Fate>) -> Result<(), TestCaseError> {
    let directory = Directory::new("askers");
    let toml = format!(
        "[[route]]\ndomains = [\"example.org\"]\nbackends = [\"mail.example.org:25\"]\nmax_connections = 6\neject = \"0s\"\n\
         [route.verify]\nstage = \"{stage}\"\n[timeouts]\nbackend_command = \"10s\"\n"
    );
    let file = directory.write("backstop.toml", toml);
    let environment = Environment { host_name: "mx.example.org".to_owned(), ..Environment::default() };
    let loaded = config::load_in(&Source::File(file), &environment).unwrap_or_else(|f| panic!("{f}"));
    let (switchboard, mut arriving) = mpsc::unbounded_channel();
    let context = Arc::new(server::assemble(loaded.config, &Dialer::Memory(switchboard)).unwrap());
    let route = Arc::clone(context.config.routes.iter().next().unwrap());
    let ledger = Arc::new(Mutex::new(Ledger { fates: fates.into_iter(), ..Ledger::default() }));
    let store = Arc::clone(&ledger);
    tokio::spawn(async move {
        while let Some((_, stream)) = arriving.recv().await {
            tokio::spawn(serve(stream, Arc::clone(&store)));
        }
    });
    let ask = |name: u8| {
        let (context, route) = (Arc::clone(&context), Arc::clone(&route));
        let mailbox = Mailbox::parse(&format!("name{name}@example.org")).unwrap();
        async move {
            let asker = asker(name, if name.is_multiple_of(2) { Urgency::Clean } else { Urgency::Suspect });
            said(&context.verifier.verify(&route, &mailbox, asker).await.verdict)
        }
    };

    let mut asks: HashMap<String, usize> = HashMap::new();
    for act in &acts {
        if let Act::Ask(name) | Act::AskAndLeave(name, _) = act {
            *asks.entry(format!("name{name}@example.org")).or_default() += 1;
        }
    }
    let mut staying = Vec::new();
    for act in acts {
        match act {
            Act::Ask(name) => staying.push(tokio::spawn(ask(name))),
            Act::AskAndLeave(name, after) => {
                let asking = ask(name);
                tokio::spawn(async move { timeout(Duration::from_millis(after.into()), asking).await });
            }
            Act::Pass(time) => sleep(Duration::from_millis(time.into())).await,
        }
    }
    for asker in staying {
        // `verify.timeout` is 25 s.
        let answered = timeout(Duration::from_secs(26), asker).await;
        prop_assert!(answered.is_ok(), "whoever stays is answered");
    }
    sleep(Duration::from_secs(600)).await;
    {
        let ledger = ledger.lock().unwrap();
        prop_assert!(ledger.most_open <= 1, "a name is asked about in one place at a time: {ledger:?}");
        // Ten seconds lie between two of a kind, whatever became of the first.
        prop_assert!(ledger.random <= 100, "{} names nobody has were asked about", ledger.random);
        for (name, lost) in ledger.lost.iter().filter(|(name, _)| name.starts_with("name")) {
            let questions = asks.get(name).copied().unwrap_or_default();
            prop_assert!(*lost <= 3 * questions, "{name}: {lost} sessions lost over {questions} questions");
        }
    }
    // The store has come to itself: nothing that went before is in the way of a plain answer.
    {
        let mut ledger = ledger.lock().unwrap();
        (ledger.fates, ledger.well) = (Vec::new().into_iter(), true);
    }
    for name in 0..8 {
        let verdict = ask(name).await;
        let plain =
            verdict == "good" || verdict.starts_with("bad") || (verdict == "blind" && stage != "rcpt");
        prop_assert!(plain, "name{name}: {verdict}");
    }
    sleep(Duration::from_secs(600)).await;
    let progress = context.verifier.progress(&route).unwrap();
    prop_assert_eq!((progress.waiting, progress.sessions), (0, 0));
    let account = context.backends.iter().next().unwrap().budget().account();
    prop_assert_eq!((account.probes, account.waiting_probes), (0, 0));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_askers_and_the_store_do_everybody_is_answered_and_nothing_is_left(
        stage in prop_oneof![Just("rcpt"), Just("auto"), Just("data")], acts in acts(), fates in fates()
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(play(stage, acts, fates))?;
    }
}
