//! The client vanishes, having said something, before it hears the reply.
//!
//! What the matrix says in words: a message is stored only if its final dot was sent; who says that no more will come,
//! and still listens, hears the reply to all that was complete, and then the end (RFC 5321 §4.1.1.10 asks for QUIT, but
//! a half-closed connection is in use); within a message the end of input is an abort.

use tokio_util::sync::CancellationToken;

use super::cell::{Cell, Holds, SENDER, Seen, Settings, TENTH, class, play_all, tenth};
use crate::support::backend::{Action, Phase, Script, at};
use crate::support::certificate::Pair;
use crate::support::client::Client;
use crate::support::machine::Directory;

/// How it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Closes,
    Resets,
    /// It closes its own direction alone.
    HalfCloses,
    /// It says nothing more, and listens until it is left.
    FallsSilent,
}

/// The last thing it did before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    Connect,
    Ehlo,
    /// STARTTLS, and no handshake.
    StartTls,
    Mail,
    Rcpt,
    SecondRcpt,
    /// RSET, with a recipient.
    Rset,
    Data,
    /// So many tenths of the message.
    Body(u64),
    Dot,
    Quit,
}

/// A line of the matrix; each way makes a cell of it.
#[derive(Clone, Copy, Debug)]
struct Row {
    at: Point,
    /// What a client hears that still listens.
    heard: &'static [&'static str],
    stored: &'static [&'static str],
    cache: [Holds; 2],
}

use Holds::{Good, Nothing};
use Point::{Body, Connect, Data, Dot, Ehlo, Mail, Quit, Rcpt, Rset, SecondRcpt, StartTls};

#[rustfmt::skip]
const MATRIX: &[Row] = &[
    //  at       heard if it listens  stored      remembered
    row(Connect, &["220"],            &[],        Nothing),
    row(Ehlo,    &["250"],            &[],        Nothing),
    row(StartTls, &["220"],           &[],        Nothing),
    row(Mail,    &["250"],            &[],        Nothing),
    row(Rcpt,    &["250"],            &[],        Good),
    row(SecondRcpt, &["250"],         &[],        Good),
    row(Rset,    &["250"],            &[],        Good),
    row(Data,    &["354"],            &[],        Good),
    row(Body(0), &[],                 &[],        Good),
    row(Body(1), &[],                 &[],        Good),
    row(Body(2), &[],                 &[],        Good),
    row(Body(3), &[],                 &[],        Good),
    row(Body(4), &[],                 &[],        Good),
    row(Body(5), &[],                 &[],        Good),
    row(Body(6), &[],                 &[],        Good),
    row(Body(7), &[],                 &[],        Good),
    row(Body(8), &[],                 &[],        Good),
    row(Body(9), &[],                 &[],        Good),
    row(Body(10), &[],                &[],        Good),
    row(Dot,     &["250"],            &["anna"],  Good),
    row(Quit,    &["221"],            &["anna"],  Good),
];

const fn row(at: Point, heard: &'static [&'static str], stored: &'static [&'static str], anna: Holds) -> Row {
    let bert = if matches!(at, SecondRcpt) { anna } else { Nothing };
    Row { at, heard, stored, cache: [anna, bert] }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_leaves_nothing_but_what_it_completed() {
    play_ways(&[Way::Closes, Way::Resets, Way::HalfCloses], "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_falls_silent_is_left_with_nothing_but_what_it_completed() {
    play_ways(&[Way::FallsSilent], SHORT).await;
}

/// So that silence is found out soon.
const SHORT: &str =
    "[timeouts]\ncommand = \"3s\"\ncommand_line = \"3s\"\ndata = \"3s\"\ntls_handshake = \"3s\"\n";

async fn play_ways(ways: &[Way], tables: &str) {
    let directory = Directory::new("vanishes");
    let pair = Pair::alone(&["mx.example.org"]).write(&directory, "mx");
    let tables = format!("{tables}[tls]\ncertificates = [{}]\n", pair.entry());
    let settings = Settings { tables: &tables, ..Settings::default() };
    let rows = MATRIX.iter().flat_map(|row| ways.iter().map(|way| (*row, *way))).collect();
    play_all(rows, &settings, |_, _| (), play).await;
}

async fn play(cell: Cell, (row, way): (Row, Way)) -> (Seen, Seen) {
    // The backend answers what the client said last only when the client is gone.
    let gone = CancellationToken::new();
    let held = match row.at {
        Rcpt | SecondRcpt => Some(Phase::Rcpt),
        Data => Some(Phase::Data),
        Dot => Some(Phase::EndOfData),
        _ => None,
    };
    if let Some(phase) = held {
        let last = if row.at == SecondRcpt { at(phase).to(&cell.store.bert) } else { at(phase) };
        cell.store.backend.rescript(|script| script.on(last, Action::ordinary().held_by(&gone)));
    }
    let mut client = Client::connect(cell.address).await;
    say(&cell, &mut client, row.at).await;
    let mut heard = Vec::new();
    match way {
        Way::Closes => drop(client),
        Way::Resets => client.reset(),
        Way::HalfCloses | Way::FallsSilent => {
            if way == Way::HalfCloses {
                client.half_close().await;
            }
            gone.cancel();
            while let Some(reply) = client.try_reply().await {
                heard.push(class(&reply));
            }
        }
    }
    gone.cancel();
    settle(&cell, row.at).await;
    let seen = cell.seen(heard).await;

    if row.at == Dot && way == Way::Resets {
        let series = "backstop_messages_total{result=\"stored_unacknowledged\",route=";
        cell.admin.until_metric(&format!("{series}\"{}\"}}", cell.store.domain), 1.0).await;
    }
    cell.store.backend.rescript(Script::ordinary);
    let mut other = Client::greeted(cell.address).await;
    cell.deliver_in(&mut other).await;
    other.quit().await;
    let left = match (way, row.at) {
        // It said goodbye, or what is said in plaintext is not for it any more.
        (Way::FallsSilent, Quit | StartTls) => &[][..],
        (Way::FallsSilent, _) => &["421 4.4.2"],
        _ => &[],
    };
    let heard = if matches!(way, Way::HalfCloses | Way::FallsSilent) { row.heard } else { &[] };
    let expected = Seen {
        replies: heard.iter().chain(left).map(|&reply| reply.to_owned()).collect(),
        stored: row.stored.iter().map(|&recipients| recipients.to_owned()).collect(),
        cache: row.cache,
    };
    (expected, seen)
}

/// All that the client says, up to its last word, and has the answers to all but that.
async fn say(cell: &Cell, client: &mut Client, last: Point) {
    let mut commands = vec![
        (Ehlo, "EHLO client.test".to_owned(), "220"),
        (Mail, format!("MAIL FROM:<{SENDER}>"), "250"),
        (Rcpt, format!("RCPT TO:<{}>", cell.store.anna), "250"),
        (Data, "DATA".to_owned(), "250"),
    ];
    match last {
        Connect => return,
        StartTls => commands.insert(1, (StartTls, "STARTTLS".to_owned(), "250")),
        SecondRcpt => commands.insert(3, (SecondRcpt, format!("RCPT TO:<{}>", cell.store.bert), "250")),
        Rset => commands.insert(3, (Rset, "RSET".to_owned(), "250")),
        _ => {}
    }
    for (point, command, answer_before) in commands {
        client.reply().await.is(answer_before);
        client.send_line(&command).await;
        if point == last {
            return reached(cell, last).await;
        }
    }
    client.reply().await.is("354");
    let tenths = if let Body(tenths) = last { tenths } else { 10 };
    for number in 0..tenths {
        client.send(tenth(number)).await;
    }
    if matches!(last, Dot | Quit) {
        client.send_line(".").await;
    }
    if last == Quit {
        client.reply().await.is("250");
        client.send_line("QUIT").await;
    }
    reached(cell, last).await;
}

/// Waits until the backend has what the client said last, as far as it gets any of it.
async fn reached(cell: &Cell, last: Point) {
    let what = "the client's last word";
    let backend = &cell.store.backend;
    match last {
        Connect | Ehlo | StartTls | Mail | Rset | Quit => {}
        SecondRcpt => backend.until(what, |record| record.rcpts_for(&cell.store.bert) > 0).await,
        Rcpt => backend.until(what, |record| record.rcpts_for(&cell.store.anna) > 0).await,
        Data => backend.until(what, |record| record.count("DATA") > 0).await,
        Body(tenths) => backend.until(what, |record| record.body_octets >= tenths * TENTH).await,
        Dot => backend.until(what, |record| record.body_octets > 10 * TENTH).await,
    }
}

/// Waits until Backstop has drawn its conclusions, where the backend can see them.
async fn settle(cell: &Cell, last: Point) {
    let what = "what follows the client's end";
    let mail = format!("MAIL FROM:<{SENDER}>");
    let backend = &cell.store.backend;
    match last {
        Connect | Ehlo | StartTls | Mail => {}
        // The verdict is there, and the delivery has begun.
        Rcpt | Rset => backend.until(what, |record| record.count(&mail) > 0).await,
        SecondRcpt => {
            let to = format!("RCPT TO:<{}>", cell.store.bert);
            backend.until(what, |record| record.count(&to) > 1).await;
        }
        // The torn session is closed; that of the probe stays.
        Data | Body(_) => backend.until(what, |record| record.open == 1).await,
        Dot | Quit => backend.until(what, |record| !record.messages.is_empty()).await,
    }
}
