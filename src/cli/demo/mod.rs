//! `backstop demo`: the main job, in one process, on loopback.
//!
//! An embedded mail store with a few mailboxes, the real proxy before it, a client that delivers one message
//! and is refused one recipient.

mod caller;
mod store;

use std::net::SocketAddr;

use super::Exit;
use super::terminal::{print, print_line, say};
use crate::config::{Flags, Source};
use crate::observe::log::{self, Format};
use crate::server::Server;
use caller::Caller;
use store::MailStore;

/// Served by the demo.
const DOMAIN: &str = "demo.example";
/// Who has a mailbox there.
const MAILBOXES: [&str; 3] = ["ann", "bob", "postmaster"];

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// End after the delivery and the refusal; exit status 0 only if both went as they should.
    #[arg(long)]
    once: bool,
    /// Where the proxy listens.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// Shows it at work.
pub(super) async fn demo(arguments: &Arguments) -> Exit {
    let _log = (!arguments.once).then(|| log::init(Format::Text, "info"));
    let store = match MailStore::start(DOMAIN, &MAILBOXES).await {
        Ok(store) => store,
        Err(fault) => {
            say(format_args!("the demo's mail store cannot listen: {fault}"));
            return Exit::CannotBind;
        }
    };
    let server = match proxy(arguments.listen, store.address()).await {
        Ok(server) => server,
        Err(exit) => return exit,
    };
    let Some(front) = server.bound().first().map(|bound| bound.address) else { return Exit::Failed };
    let admin = server.bound().last().map(|bound| bound.address);
    for bound in server.bound() {
        say(format_args!("listening on {} ({})", bound.address, bound.name));
    }
    print_line(format_args!(
        "\nAn embedded mail store with the mailboxes {} @{DOMAIN},",
        MAILBOXES.join(", ")
    ));
    print_line("and Backstop before it. A client now writes to one who exists and one who does not:\n");
    let shown = show(front, &store).await;
    match &shown {
        Ok(()) => print_line("\nOne message delivered, one unknown recipient refused during the session."),
        Err(what) => say(format_args!("\nThe demo failed: {what}")),
    }
    if arguments.once {
        server.drain().await;
        return if shown.is_ok() { Exit::Done } else { Exit::Failed };
    }
    explain(front, admin);
    let _ = tokio::signal::ctrl_c().await;
    server.drain().await;
    Exit::Done
}

/// The real proxy, configured as `backstop run` with flags would be.
async fn proxy(listen: SocketAddr, store: SocketAddr) -> Result<Server, Exit> {
    let source = Source::Flags(Flags {
        listen: vec![listen.to_string()],
        domain: vec![DOMAIN.to_owned()],
        backend: vec![store.to_string()],
    });
    let loaded = crate::config::load(&source);
    let mut loaded = loaded.map_err(|faults| {
        faults.faults.iter().for_each(say);
        Exit::Config
    })?;
    loaded.config.hostname = "backstop.demo.example".into();
    if let Some(admin) = &mut loaded.config.admin {
        // Any free port: the demo may run beside a real proxy.
        admin.address.set_port(0);
    }
    let mut server = Server::bind(loaded.config).map_err(|fault| {
        say(fault);
        Exit::CannotBind
    })?;
    server.serve().await;
    Ok(server)
}

/// One delivery and one refusal, each line shown.
async fn show(front: SocketAddr, store: &MailStore) -> Result<(), String> {
    let mut caller = Caller::connect(front).await?;
    caller.expect(220).await?;
    caller.say("EHLO client.example", 250).await?;
    caller.say("MAIL FROM:<carol@elsewhere.example>", 250).await?;
    caller.say(&format!("RCPT TO:<ann@{DOMAIN}>"), 250).await?;
    caller.say(&format!("RCPT TO:<nobody@{DOMAIN}>"), 550).await?;
    caller.say("DATA", 354).await?;
    caller.say("Subject: hello\r\n\r\nHello Ann.\r\n.", 250).await?;
    caller.say("QUIT", 221).await?;
    let stored = store.messages();
    if stored == 1 { Ok(()) } else { Err(format!("the mail store holds {stored} messages instead of one")) }
}

fn explain(front: SocketAddr, admin: Option<SocketAddr>) {
    let (host, port) = (front.ip(), front.port());
    print(format_args!(
        "\nTry more, from another terminal:\n  \
         swaks --server {host} --port {port} --to bob@{DOMAIN}\n  \
         swaks --server {host} --port {port} --to nobody@{DOMAIN}\n"
    ));
    if let Some(admin) = admin {
        print(format_args!(
            "\nThe live page:\n  http://{admin}/\n\nThe same by hand:\n  \
             curl http://{admin}/metrics\n  \
             curl http://{admin}/api/v1/recipients/nobody@{DOMAIN}\n"
        ));
    }
    print_line("Ctrl-C ends it.");
}
