//! `backstop doctor`: examines each backend and says what would go wrong.
//!
//! Only presents: what is asked, and what it means, is in `verify::examine`.

mod json;
mod lists;
mod target;
mod text;

use std::io::IsTerminal as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::terminal::{Passing, print, say};
use super::{ConfigFile, ConfigFlags, Exit, LOOKED_UP, load};
use crate::backend::Backend;
use crate::net::dial::Dialer;
use crate::proto::address::Mailbox;
use crate::server::assemble;
use crate::verify::examine::facts::{Facts, Reach, Shut};
use crate::verify::examine::judge::{Finding, Judgement, Severity, judge};
use crate::verify::examine::{Step, examine};
use target::Target;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Examine a server for this domain, without a configuration (may repeat).
    #[arg(long, value_name = "DOMAIN", conflicts_with = "config", requires = "backend")]
    domain: Vec<String>,
    /// Examine this server, without a configuration (may repeat).
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "config", requires = "domain")]
    backend: Vec<String>,
    /// An address that exists: the backends of its route should take it (may repeat).
    #[arg(long, value_name = "ADDRESS")]
    known: Vec<String>,
    /// Look our name and addresses up on this DNS blocklist (may repeat).
    #[arg(long, value_name = "ZONE")]
    dnsbl: Vec<String>,
    /// Our address as others see it, for --dnsbl [default: those of the host name].
    #[arg(long, value_name = "IP", requires = "dnsbl")]
    address: Vec<IpAddr>,
    /// Do not count how many connections a backend takes at once.
    #[arg(long)]
    no_connections: bool,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// A backend that was examined.
struct Examined {
    target: Target,
    facts: Facts,
    judgement: Judgement,
    took: Duration,
}

/// Everything there is to say.
struct Report {
    hostname: String,
    backends: Vec<Examined>,
    lists: lists::Lists,
}

/// Examines all backends, one after the other; the worst finding decides the exit status.
pub(super) async fn doctor(arguments: &Arguments) -> Exit {
    let flags = ConfigFlags {
        listen: Vec::new(),
        domain: arguments.domain.clone(),
        backend: arguments.backend.clone(),
    };
    let loaded = match load(&arguments.file.source_with(&flags)) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let mut known = Vec::new();
    for address in &arguments.known {
        match Mailbox::parse(address) {
            Ok(mailbox) if loaded.config.routes.of(&mailbox).is_some() => known.push(mailbox),
            Ok(_) => say(format_args!("--known {address}: no route for its domain; it is left out")),
            Err(fault) => {
                say(format_args!("--known {address}: not an address: {fault}"));
                return Exit::Config;
            }
        }
    }
    let context = match assemble(loaded.config, &Dialer::network()) {
        Ok(context) => context,
        Err(fault) => {
            say(fault);
            return Exit::Config;
        }
    };
    context.backends.look_up(LOOKED_UP).await;
    let mut backends = Vec::new();
    for target in target::all(&context.config, &known) {
        let Some(destination) = context.backends.find(&target.destination) else { continue };
        let members = destination.members();
        if members.is_empty() {
            let (facts, took) = (Facts::shut(Shut::Name), Duration::ZERO);
            backends.push(Examined { judgement: judge(&facts, &target.role), target, facts, took });
            continue;
        }
        for member in members.iter() {
            let target = target.at(member.backend.site());
            backends.push(examined(target, &member.backend, arguments).await);
        }
    }
    let hostname = context.config.hostname.to_string();
    let lists = lists::look_up(&hostname, &arguments.address, &arguments.dnsbl).await;
    let report = Report { hostname, backends, lists };
    if arguments.json {
        print(format_args!("{:#}\n", json::report(&report)));
    } else {
        print(text::Screen { report: &report, colour: colour() });
    }
    if report.findings().any(|finding| finding.severity > Severity::Note) { Exit::Failed } else { Exit::Done }
}

/// Examines one backend.
async fn examined(target: Target, backend: &Arc<Backend>, arguments: &Arguments) -> Examined {
    let plan = target.plan(!arguments.no_connections);
    let progress = Progress::new(&target.role.address, arguments.json);
    let (facts, took) = progress.beside(|tell| examine(backend, &plan, tell)).await;
    let mut judgement = judge(&facts, &target.role);
    if target.domains.is_empty() && matches!(facts.reach, Reach::Open { .. }) {
        judgement.findings.push(no_domain());
    }
    Examined { target, facts, judgement, took }
}

impl Report {
    fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.backends.iter().flat_map(|backend| &backend.judgement.findings).chain(&self.lists.findings)
    }
}

/// A route for everything names no domain that could be asked about.
fn no_domain() -> Finding {
    Finding {
        id: "no-domain",
        severity: Severity::Note,
        what: "its routes name no domain that could be asked about".to_owned(),
        means: "Whether it tells recipients from names nobody has was not seen".to_owned(),
        remedy: "give an address that exists: --known ann@example.org".to_owned(),
    }
}

fn colour() -> text::Colour {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
    if std::io::stdout().is_terminal() && !plain { text::Colour::On } else { text::Colour::Off }
}

/// How often the line that says what is being done is renewed.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is being done, on a terminal, in a line that goes away.
struct Progress<'t> {
    backend: &'t str,
    began: tokio::time::Instant,
    line: Passing,
}

impl<'t> Progress<'t> {
    fn new(backend: &'t str, json: bool) -> Self {
        Self { backend, began: tokio::time::Instant::now(), line: Passing::new(json) }
    }

    /// Does what `work` does, which tells us how far it is. Gives its result, and how long it took.
    async fn beside<W: Future>(&self, work: impl FnOnce(Box<dyn FnMut(Step)>) -> W) -> (W::Output, Duration) {
        let (tell, step) = tokio::sync::watch::channel(Step::Connect);
        let work = work(Box::new(move |step| {
            tell.send_replace(step);
        }));
        let mut work = std::pin::pin!(work);
        let done = loop {
            self.line.show(self.told(*step.borrow()));
            if let Ok(done) = timeout(LOOK_EVERY, &mut work).await {
                break done;
            }
        };
        self.line.show("");
        (done, self.began.elapsed())
    }

    fn told(&self, step: Step) -> String {
        format!("{}: {} ({} s)", self.backend, step.as_str(), self.began.elapsed().as_secs())
    }
}
