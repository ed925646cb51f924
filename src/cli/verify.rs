//! `backstop verify`: the callout, now, from the command line.

use std::io::BufRead as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::stream::{self, StreamExt as _};
use serde_json::json;
use tokio::sync::mpsc;

use super::terminal::{Passing, print_line, say};
use super::{ConfigFile, Exit, LOOKED_UP, load};
use crate::net::dial::Dialer;
use crate::proto::address::Mailbox;
use crate::proto::verdict::Verdict;
use crate::server::assemble;
use crate::session::Context;
use crate::verify::Verified;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The addresses; `-` reads them from standard input, one per line.
    #[arg(required = true, value_name = "ADDRESS")]
    addresses: Vec<String>,
    #[command(flatten)]
    file: ConfigFile,
    /// One JSON object per address.
    #[arg(long)]
    json: bool,
    /// Show the conversation with the mail store.
    #[arg(long)]
    verbose: bool,
}

/// How long taking leave of the mail store may take.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(3);

/// How many are asked about at once. What a mail store may be asked at once is bounded by its connections.
const AT_ONCE: usize = 16;

/// Asks about the addresses, several at once, and tells of them in the order given; the worst answer decides the exit status.
pub(super) async fn verify(arguments: Arguments) -> Exit {
    let loaded = match load(&arguments.file.source()) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let context = match assemble(loaded.config, &Dialer::network()) {
        Ok(context) => context,
        Err(fault) => {
            say(fault);
            return Exit::Config;
        }
    };
    context.backends.look_up(LOOKED_UP).await;
    let given = Given::read(arguments.addresses.clone());
    let asked =
        stream::unfold(given.addresses, async |mut addresses| Some((addresses.recv().await?, addresses)));
    let asked = asked.map(async |address| {
        let outcome = one(&context, &address).await;
        (address, outcome)
    });
    let mut answers = pin!(asked.buffered(AT_ONCE));
    let (mut exit, mut done, progress) = (Exit::Done, 0, Passing::new(false));
    while let Some((address, outcome)) = answers.next().await {
        done += 1;
        progress.show("");
        outcome.print(&address, &arguments);
        exit = match (exit, outcome.exit()) {
            (Exit::NoUser, _) | (_, Exit::NoUser) => Exit::NoUser,
            (Exit::TempFail, _) | (_, Exit::TempFail) => Exit::TempFail,
            (exit, _) => exit,
        };
        let given = given.count.load(Ordering::Relaxed);
        if given > 1 {
            progress.show(format_args!("{done} of {given}"));
        }
    }
    progress.show("");
    context.verifier.leave();
    context.backends.leave(FAREWELL).await;
    exit
}

/// The addresses to ask about.
struct Given {
    addresses: mpsc::UnboundedReceiver<String>,
    /// How many there are so far: all of them once a file is read, which no answer is waited for.
    count: Arc<AtomicUsize>,
}

impl Given {
    /// Takes them from the command line, and where that says `-` from standard input, each as soon as it is there.
    fn read(arguments: Vec<String>) -> Self {
        let (found, addresses) = mpsc::unbounded_channel();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let tell = move |address: String| {
            counted.fetch_add(1, Ordering::Relaxed);
            // Nobody takes it when the command has ended.
            let _ = found.send(address);
        };
        tokio::task::spawn_blocking(move || {
            for argument in arguments {
                if argument == "-" {
                    let lines = std::io::stdin().lock().lines().map_while(Result::ok);
                    lines.map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).for_each(&tell);
                } else {
                    tell(argument);
                }
            }
        });
        Self { addresses, count }
    }
}

/// What came of one address.
enum Outcome {
    /// It is no address, or not ours.
    Refused(String),
    Verified(Verified),
}

async fn one(context: &Context, address: &str) -> Outcome {
    let mailbox = match Mailbox::parse(address) {
        Ok(mailbox) => mailbox,
        Err(fault) => return Outcome::Refused(format!("not an address: {fault}")),
    };
    match context.config.routes.of(&mailbox) {
        Some(route) => Outcome::Verified(context.verifier.probe(route, &mailbox).await),
        None => Outcome::Refused("no route for its domain: it would be refused with 550 5.7.1".to_owned()),
    }
}

impl Outcome {
    fn word(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Verified(Verified { verdict: Verdict::Deliverable, .. }) => "deliverable",
            Self::Verified(Verified { verdict: Verdict::Undeliverable(_), .. }) => "unknown",
            Self::Verified(Verified { verdict: Verdict::Unknown(_), .. }) => "undetermined",
        }
    }

    fn reason(&self) -> Option<String> {
        match self {
            Self::Refused(why) => Some(why.clone()),
            Self::Verified(Verified { verdict: Verdict::Deliverable, .. }) => None,
            Self::Verified(Verified { verdict: Verdict::Undeliverable(reply), .. }) => {
                Some(reply.to_string())
            }
            Self::Verified(Verified { verdict: Verdict::Unknown(cause), .. }) => Some(match cause.reply() {
                Some(reply) => format!("{}: {reply}", cause.as_str()),
                None => cause.as_str().to_owned(),
            }),
        }
    }

    const fn exit(&self) -> Exit {
        match self {
            Self::Verified(Verified { verdict: Verdict::Deliverable, .. }) => Exit::Done,
            Self::Refused(_) | Self::Verified(Verified { verdict: Verdict::Undeliverable(_), .. }) => {
                Exit::NoUser
            }
            Self::Verified(Verified { verdict: Verdict::Unknown(_), .. }) => Exit::TempFail,
        }
    }

    fn print(&self, address: &str, arguments: &Arguments) {
        let conversation = match self {
            Self::Verified(verified) => verified.conversation.lines(),
            Self::Refused(_) => &[],
        };
        if arguments.json {
            let mut object = json!({ "address": address, "verdict": self.word(), "reason": self.reason() });
            if arguments.verbose
                && let Some(fields) = object.as_object_mut()
            {
                fields.insert("conversation".to_owned(), json!(conversation));
            }
            print_line(object);
            return;
        }
        let address = crate::observe::escape::Escaped(address);
        match self.reason() {
            Some(reason) => print_line(format_args!("{address}: {} ({reason})", self.word())),
            None => print_line(format_args!("{address}: {}", self.word())),
        }
        if arguments.verbose {
            conversation.iter().for_each(|line| print_line(format_args!("  {line}")));
        }
    }
}
