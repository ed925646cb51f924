//! The backend fails, once or from then on, in one of the sessions that Backstop holds with it.
//!
//! What the matrix says in words: before message data a session that is lost is replaced once, and the client hears
//! nothing of it; a fault that lasts is a 451 to the command that met it, and to nothing else; in and behind message
//! data nothing is tried twice. What was learnt of a recipient stays, and nothing is learnt from a fault.

use std::sync::{Arc, LazyLock};

use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::rustls::ServerConfig;

use super::cell::{Cell, Holds, OTHER, SENDER, Seen, Settings, Store, TENTH, class, play_all, tenth};
use crate::support::backend::{Action, Phase, Script, at};
use crate::support::certificate::Pair;
use crate::support::client::{Client, Reply};

/// What the backend does instead of its reply.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Closes,
    Resets,
    Says421,
    Hangs,
    /// The first octet of a reply, and no more.
    Falters,
}

/// Whose session with the backend meets the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// That which greets it at start.
    Start,
    Probe,
    /// A delivery's, opened for it. The recipients are known.
    Fresh,
    /// A delivery's, kept from the delivery before. The recipients are known.
    Kept,
}

/// Where in the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    Connect,
    Greeting,
    Ehlo,
    StartTls,
    /// When it has the beginning of our handshake.
    Handshake,
    Mail,
    FirstRcpt,
    SecondRcpt,
    Rset,
    Data,
    /// Behind the first line of the reply to DATA.
    GoAhead,
    /// When so many tenths of the message were read.
    Body(u64),
    /// Behind the final dot.
    Dot,
    /// Behind the first line of the reply to the message, which is stored.
    Acknowledgement,
    /// When it has so many tenths of a message sent in ten chunks, the last of which ends it.
    Chunk(u64),
    /// Behind the first line of the reply to the last chunk; the message is stored.
    ChunkAcknowledgement,
    /// Between two transactions.
    Idle,
    Quit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lasting {
    Once,
    Always,
}

/// A line of the matrix; each fault makes a cell of it.
#[derive(Clone, Copy, Debug)]
struct Row {
    whose: Whose,
    at: Point,
    lasting: Lasting,
    /// To MAIL, RCPT anna, RCPT bert, DATA and the message.
    replies: [&'static str; 5],
    stored: &'static [&'static str],
    cache: [Holds; 2],
}

use Holds::{Good, Nothing};
use Lasting::{Always, Once};
use Point::{
    Acknowledgement, Body, Chunk, ChunkAcknowledgement, Connect, Data, Dot, Ehlo, FirstRcpt, GoAhead,
    Greeting, Handshake, Idle, Mail, Quit, Rset, SecondRcpt, StartTls,
};
use Whose::{Fresh, Kept, Probe, Start};

/// So that silence is found out soon, and yet no backend that is well is taken for silent on a busy machine.
const IMPATIENT: &str = "[timeouts]\nbackend_connect = \"2s\"\nbackend_command = \"2s\"\nbackend_end_of_data = \"2s\"\n\
    tls_handshake = \"2s\"\n";

const OK: &str = "250";
const GO: &str = "354";
/// The recipient could not be verified.
const UNASKED: &str = "451 4.4.3";
/// No session could be had.
const UNREACHED: &str = "451 4.4.1";
/// The session was lost.
const LOST: &str = "451 4.4.2";
/// The backend's own word.
const LATER: &str = "450 4.2.0";
/// The client has no reason to say it.
const UNSAID: &str = "";

const BOTH: &[&str] = &["anna+bert"];
const ANNA: &[&str] = &["anna"];
const BERT: &[&str] = &["bert"];
const NONE: &[&str] = &[];

#[rustfmt::skip]
const MATRIX: &[Row] = &[
    //  whose  at               lasting  MAIL RCPT anna  RCPT bert  DATA    message  stored  of anna, bert
    row(Start, Connect,         Always, [OK,  UNASKED,   UNASKED,   UNSAID, UNSAID], NONE,   [Nothing, Nothing]),
    row(Start, Greeting,        Always, [OK,  UNASKED,   UNASKED,   UNSAID, UNSAID], NONE,   [Nothing, Nothing]),
    row(Start, Greeting,        Once,   [OK,  OK,        OK,        GO,     OK    ], BOTH,   [Good,    Good   ]),
    row(Start, Ehlo,            Always, [OK,  UNASKED,   UNASKED,   UNSAID, UNSAID], NONE,   [Nothing, Nothing]),
    row(Start, Ehlo,            Once,   [OK,  OK,        OK,        GO,     OK    ], BOTH,   [Good,    Good   ]),
    row(Start, Quit,            Once,   [OK,  OK,        OK,        GO,     OK    ], BOTH,   [Good,    Good   ]),

    row(Probe, Connect,         Always, [OK,  UNASKED,   UNASKED,   UNSAID, UNSAID], NONE,   [Nothing, Nothing]),
    row(Probe, Greeting,        Always, [OK,  UNASKED,   UNASKED,   UNSAID, UNSAID], NONE,   [Nothing, Nothing]),
    row(Probe, Greeting,        Once,   [OK,  UNASKED,   OK,        GO,     OK    ], BERT,   [Nothing, Good   ]),
    row(Probe, Ehlo,            Always, [OK,  UNASKED,   UNASKED,   UNSAID, UNSAID], NONE,   [Nothing, Nothing]),
    row(Probe, Ehlo,            Once,   [OK,  UNASKED,   OK,        GO,     OK    ], BERT,   [Nothing, Good   ]),
    row(Probe, Mail,            Always, [OK,  UNASKED,   UNASKED,   UNSAID, UNSAID], NONE,   [Nothing, Nothing]),
    row(Probe, Mail,            Once,   [OK,  OK,        OK,        GO,     OK    ], BOTH,   [Good,    Good   ]),
    row(Probe, FirstRcpt,       Always, [OK,  UNASKED,   OK,        GO,     OK    ], BERT,   [Nothing, Good   ]),
    row(Probe, FirstRcpt,       Once,   [OK,  OK,        OK,        GO,     OK    ], BOTH,   [Good,    Good   ]),
    row(Probe, SecondRcpt,      Always, [OK,  OK,        UNASKED,   GO,     OK    ], ANNA,   [Good,    Nothing]),
    row(Probe, SecondRcpt,      Once,   [OK,  OK,        OK,        GO,     OK    ], BOTH,   [Good,    Good   ]),
    row(Probe, Rset,            Always, [OK,  OK,        OK,        GO,     OK    ], BOTH,   [Good,    Good   ]),
    row(Probe, Rset,            Once,   [OK,  OK,        OK,        GO,     OK    ], BOTH,   [Good,    Good   ]),

    row(Fresh, Connect,         Always, [OK,  UNREACHED, UNREACHED, UNSAID, UNSAID], NONE,   [Good,    Good   ]),
    row(Fresh, Greeting,        Always, [OK,  UNREACHED, UNREACHED, UNSAID, UNSAID], NONE,   [Good,    Good   ]),
    row(Fresh, Greeting,        Once,   [OK,  UNREACHED, OK,        GO,     OK    ], BERT,   [Good,    Good   ]),
    row(Fresh, Ehlo,            Always, [OK,  UNREACHED, UNREACHED, UNSAID, UNSAID], NONE,   [Good,    Good   ]),
    row(Fresh, Ehlo,            Once,   [OK,  UNREACHED, OK,        GO,     OK    ], BERT,   [Good,    Good   ]),
    row(Fresh, Mail,            Always, [OK,  LOST,      LOST,      UNSAID, UNSAID], NONE,   [Good,    Good   ]),
    row(Fresh, Mail,            Once,   [OK,  OK,        OK,        GO,     OK    ], BOTH,   [Good,    Good   ]),
    row(Fresh, FirstRcpt,       Always, [OK,  LOST,      OK,        GO,     OK    ], BERT,   [Good,    Good   ]),
    row(Fresh, FirstRcpt,       Once,   [OK,  OK,        OK,        GO,     OK    ], BOTH,   [Good,    Good   ]),
    row(Fresh, SecondRcpt,      Always, [OK,  OK,        LOST,      LOST,   UNSAID], NONE,   [Good,    Good   ]),
    row(Fresh, SecondRcpt,      Once,   [OK,  OK,        OK,        GO,     OK    ], BOTH,   [Good,    Good   ]),
    row(Fresh, Data,            Always, [OK,  OK,        OK,        LOST,   UNSAID], NONE,   [Good,    Good   ]),
    row(Fresh, Data,            Once,   [OK,  OK,        OK,        GO,     OK    ], BOTH,   [Good,    Good   ]),
    row(Fresh, GoAhead,         Always, [OK,  OK,        OK,        LOST,   UNSAID], NONE,   [Good,    Good   ]),
    row(Fresh, GoAhead,         Once,   [OK,  OK,        OK,        GO,     OK    ], BOTH,   [Good,    Good   ]),
    row(Fresh, Body(0),         Once,   [OK,  OK,        OK,        GO,     LOST  ], NONE,   [Good,    Good   ]),
    row(Fresh, Body(1),         Once,   [OK,  OK,        OK,        GO,     LOST  ], NONE,   [Good,    Good   ]),
    row(Fresh, Body(2),         Once,   [OK,  OK,        OK,        GO,     LOST  ], NONE,   [Good,    Good   ]),
    row(Fresh, Body(3),         Once,   [OK,  OK,        OK,        GO,     LOST  ], NONE,   [Good,    Good   ]),
    row(Fresh, Body(4),         Once,   [OK,  OK,        OK,        GO,     LOST  ], NONE,   [Good,    Good   ]),
    row(Fresh, Body(5),         Once,   [OK,  OK,        OK,        GO,     LOST  ], NONE,   [Good,    Good   ]),
    row(Fresh, Body(6),         Once,   [OK,  OK,        OK,        GO,     LOST  ], NONE,   [Good,    Good   ]),
    row(Fresh, Body(7),         Once,   [OK,  OK,        OK,        GO,     LOST  ], NONE,   [Good,    Good   ]),
    row(Fresh, Body(8),         Once,   [OK,  OK,        OK,        GO,     LOST  ], NONE,   [Good,    Good   ]),
    row(Fresh, Body(9),         Once,   [OK,  OK,        OK,        GO,     LOST  ], NONE,   [Good,    Good   ]),
    row(Fresh, Dot,             Once,   [OK,  OK,        OK,        GO,     LOST  ], NONE,   [Good,    Good   ]),
    row(Fresh, Acknowledgement, Once,   [OK,  OK,        OK,        GO,     LOST  ], BOTH,   [Good,    Good   ]),
    row(Fresh, Chunk(1),        Once,   [OK,  OK,        OK,        UNSAID, LOST  ], NONE,   [Good,    Good   ]),
    row(Fresh, Chunk(2),        Once,   [OK,  OK,        OK,        UNSAID, LOST  ], NONE,   [Good,    Good   ]),
    row(Fresh, Chunk(3),        Once,   [OK,  OK,        OK,        UNSAID, LOST  ], NONE,   [Good,    Good   ]),
    row(Fresh, Chunk(4),        Once,   [OK,  OK,        OK,        UNSAID, LOST  ], NONE,   [Good,    Good   ]),
    row(Fresh, Chunk(5),        Once,   [OK,  OK,        OK,        UNSAID, LOST  ], NONE,   [Good,    Good   ]),
    row(Fresh, Chunk(6),        Once,   [OK,  OK,        OK,        UNSAID, LOST  ], NONE,   [Good,    Good   ]),
    row(Fresh, Chunk(7),        Once,   [OK,  OK,        OK,        UNSAID, LOST  ], NONE,   [Good,    Good   ]),
    row(Fresh, Chunk(8),        Once,   [OK,  OK,        OK,        UNSAID, LOST  ], NONE,   [Good,    Good   ]),
    row(Fresh, Chunk(9),        Once,   [OK,  OK,        OK,        UNSAID, LOST  ], NONE,   [Good,    Good   ]),
    row(Fresh, Chunk(10),       Once,   [OK,  OK,        OK,        UNSAID, LOST  ], NONE,   [Good,    Good   ]),
    row(Fresh, ChunkAcknowledgement, Once, [OK, OK,     OK,        UNSAID, LOST  ], BOTH,   [Good,    Good   ]),
    row(Fresh, Quit,            Always, [OK,  OK,        LATER,     GO,     OK    ], ANNA,   [Good,    Good   ]),

    row(Kept,  Idle,            Always, [OK,  OK,        OK,        GO,     OK    ], BOTH,   [Good,    Good   ]),
    row(Kept,  Idle,            Once,   [OK,  OK,        OK,        GO,     OK    ], BOTH,   [Good,    Good   ]),
    row(Kept,  Rset,            Always, [OK,  OK,        OK,        GO,     OK    ], BOTH,   [Good,    Good   ]),
    row(Kept,  Mail,            Always, [OK,  LOST,      LOST,      UNSAID, UNSAID], NONE,   [Good,    Good   ]),
    row(Kept,  Mail,            Once,   [OK,  OK,        OK,        GO,     OK    ], BOTH,   [Good,    Good   ]),
    row(Kept,  FirstRcpt,       Once,   [OK,  OK,        OK,        GO,     OK    ], BOTH,   [Good,    Good   ]),
    row(Kept,  SecondRcpt,      Always, [OK,  OK,        LOST,      LOST,   UNSAID], NONE,   [Good,    Good   ]),
    row(Kept,  SecondRcpt,      Once,   [OK,  OK,        OK,        GO,     OK    ], BOTH,   [Good,    Good   ]),
    row(Kept,  Data,            Always, [OK,  OK,        OK,        LOST,   UNSAID], NONE,   [Good,    Good   ]),
    row(Kept,  Data,            Once,   [OK,  OK,        OK,        GO,     OK    ], BOTH,   [Good,    Good   ]),
    row(Kept,  GoAhead,         Once,   [OK,  OK,        OK,        GO,     OK    ], BOTH,   [Good,    Good   ]),
    row(Kept,  Body(0),         Once,   [OK,  OK,        OK,        GO,     LOST  ], NONE,   [Good,    Good   ]),
    row(Kept,  Body(5),         Once,   [OK,  OK,        OK,        GO,     LOST  ], NONE,   [Good,    Good   ]),
    row(Kept,  Dot,             Once,   [OK,  OK,        OK,        GO,     LOST  ], NONE,   [Good,    Good   ]),
    row(Kept,  Acknowledgement, Once,   [OK,  OK,        OK,        GO,     LOST  ], BOTH,   [Good,    Good   ]),
];

const fn row(
    whose: Whose,
    at: Point,
    lasting: Lasting,
    replies: [&'static str; 5],
    stored: &'static [&'static str],
    cache: [Holds; 2],
) -> Row {
    Row { whose, at, lasting, replies, stored, cache }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_goes_is_a_451_at_most() {
    play_all(rows(&[Fault::Closes, Fault::Resets, Fault::Says421]), &Settings::default(), prepare, play)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_silent_is_a_451_at_most() {
    let settings = Settings { tables: IMPATIENT, ..Settings::default() };
    play_all(rows(&[Fault::Hangs, Fault::Falters]), &settings, prepare, play).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_goes_at_starttls_is_a_451_at_most_where_tls_is_required() {
    let faults = [Fault::Closes, Fault::Resets, Fault::Says421];
    play_all(required(&faults), &REQUIRED, prepare_tls, play).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_silent_at_starttls_is_a_451_at_most_where_tls_is_required() {
    let settings = Settings { tables: IMPATIENT, ..REQUIRED };
    play_all(required(&[Fault::Hangs, Fault::Falters]), &settings, prepare_tls, play).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_fails_at_starttls_is_served_without_where_tls_is_opportunistic() {
    let faults = [Fault::Closes, Fault::Resets, Fault::Says421, Fault::Hangs, Fault::Falters];
    let settings = Settings { tables: IMPATIENT, ..Settings::default() };
    play_all(opportunistic(&faults), &settings, prepare_tls, play).await;
}

const REQUIRED: Settings<'_> = Settings { route: "tls = \"required\"\n", tables: "" };

/// Without TLS there is no session: STARTTLS and the handshake fail as the greeting does.
fn required(faults: &[Fault]) -> Vec<(Row, Fault)> {
    let greeting = MATRIX.iter().filter(|row| row.at == Greeting);
    let rows = greeting.flat_map(|row| [StartTls, Handshake].map(|at| Row { at, ..*row }));
    rows.flat_map(|row| faults.iter().map(move |fault| (row, *fault))).collect()
}

/// The client hears nothing of it, however often it happens.
fn opportunistic(faults: &[Fault]) -> Vec<(Row, Fault)> {
    let unnoticed = |(row, fault)| {
        (Row { replies: [OK, OK, OK, GO, OK], stored: BOTH, cache: [Good, Good], ..row }, fault)
    };
    required(faults).into_iter().map(unnoticed).collect()
}

fn prepare_tls(store: &Store, row: &(Row, Fault)) {
    static SERVER: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| Pair::alone(&["store.test"]).server());
    store.backend.rescript(|script| script.with_starttls(Arc::clone(&SERVER)));
    prepare(store, row);
}

fn rows(faults: &[Fault]) -> Vec<(Row, Fault)> {
    let possible = |(row, fault): &(Row, Fault)| {
        // Nobody listens, or nobody accepts: more cannot fail before there is a connection.
        row.at != Connect || matches!(fault, Fault::Resets | Fault::Hangs)
    };
    MATRIX.iter().flat_map(|row| faults.iter().map(|fault| (*row, *fault))).filter(possible).collect()
}

/// Faults that the start meets are there before it.
fn prepare(store: &Store, (row, fault): &(Row, Fault)) {
    if row.whose == Start {
        break_backend(store, row, *fault);
    }
}

async fn play(cell: Cell, (row, fault): (Row, Fault)) -> (Seen, Seen) {
    let mut clogged = None;
    match row.whose {
        Start | Probe => {}
        Fresh => cell.verify().await,
        Kept if row.at == Idle => {
            break_backend(&cell.store, &row, fault);
            cell.deliver().await;
        }
        Kept => cell.deliver().await,
    }
    if row.at == Connect {
        cell.store.backend.stop().await;
        if matches!(fault, Fault::Hangs) {
            clogged = Some(Clogged::listen(&cell).await);
        }
    } else if row.whose != Start && row.at != Idle {
        break_backend(&cell.store, &row, fault);
    }
    let mut client = Client::greeted(cell.address).await;
    let replies = send(&cell, &mut client, row.at).await;
    let seen = cell.seen(replies).await;

    // The fault is over, and the same client goes on.
    met(&cell, &row).await;
    if row.at == Connect {
        drop(clogged);
        cell.store.backend.listen(cell.store.address).await.expect("its own address");
    }
    cell.store.backend.rescript(Script::ordinary);
    cell.deliver_in(&mut client).await;
    client.quit().await;
    let expected = Seen {
        replies: row
            .replies
            .iter()
            .filter(|&&reply| reply != UNSAID)
            .map(|&reply| reply.to_owned())
            .collect(),
        stored: row.stored.iter().map(|&recipients| recipients.to_owned()).collect(),
        cache: row.cache,
    };
    (expected, seen)
}

/// Fails the test where it tested nothing.
async fn met(cell: &Cell, row: &Row) {
    let backend = &cell.store.backend;
    match (row.whose, row.at) {
        // There is no rule, but the replies tell.
        (_, Connect) => {}
        // Behind the client's back: the start's, and the delivery's.
        (Fresh, Quit) => backend.until("both farewells", |record| record.count("QUIT") == 2).await,
        _ => assert!(backend.acted() > 0, "the fault was met"),
    }
    if row.whose == Kept && row.at != Idle {
        let record = backend.record();
        assert!(record.session(record.messages[0].session).contains(&"RSET"), "a kept session was used");
    }
}

/// The observed delivery, as far as it goes. The fault inside a message is waited for: it is met where the row says.
async fn send(cell: &Cell, client: &mut Client, fault: Point) -> Vec<String> {
    let mut replies = vec![client.command(&format!("MAIL FROM:<{SENDER}>")).await];
    for recipient in [&cell.store.anna, &cell.store.bert] {
        replies.push(client.command(&format!("RCPT TO:<{recipient}>")).await);
    }
    if matches!(fault, Chunk(_) | ChunkAcknowledgement) {
        replies.push(send_in_chunks(client).await);
    } else if replies[1..].iter().any(|reply| reply.code == 250) {
        let before = cell.store.backend.record().body_octets;
        let go_ahead = client.command("DATA").await;
        let go = go_ahead.code == 354;
        replies.push(go_ahead);
        if go {
            for number in 0..10 {
                if let Body(tenths) = fault
                    && tenths == number
                {
                    let read = before + tenths * TENTH;
                    cell.store
                        .backend
                        .until("its part of the message", |record| record.body_octets >= read)
                        .await;
                }
                client.send(tenth(number)).await;
            }
            replies.push(client.command(".").await);
        }
    }
    replies.iter().map(class).collect()
}

/// The observed message in ten chunks, up to the first that is not taken: that reply, or the last.
async fn send_in_chunks(client: &mut Client) -> Reply {
    for number in 0.. {
        let (last, chunk) = (number == 9, tenth(number));
        let place = if last { " LAST" } else { "" };
        client.send_line(&format!("BDAT {}{place}", chunk.len())).await;
        client.send(chunk).await;
        let reply = client.reply().await;
        if last || reply.code != 250 {
            return reply;
        }
    }
    unreachable!("it ends with the tenth")
}

/// Gives the backend its fault.
fn break_backend(store: &Store, row: &Row, fault: Fault) {
    let failing = match fault {
        Fault::Closes => Action::close(),
        Fault::Resets => Action::reset(),
        Fault::Says421 => Action::reply("421 4.3.2 Going down").then(Action::close()),
        Fault::Hangs => Action::ignore(),
        Fault::Falters => Action::bytes("4").then(Action::ignore()),
    };
    let sender = match row.whose {
        Start | Probe => "",
        Fresh => SENDER,
        // Its RSET still belongs to the transaction before.
        Kept if row.at == Rset => OTHER,
        Kept => SENDER,
    };
    let (when, action) = match row.at {
        Connect => return,
        Greeting => (at(Phase::Greeting), failing),
        Ehlo => (at(Phase::Ehlo), failing),
        StartTls => (at(Phase::StartTls), failing),
        Handshake => (at(Phase::Handshake), failing),
        Mail => (at(Phase::Mail).from(sender), failing),
        FirstRcpt => (at(Phase::Rcpt).from(sender).to(&store.anna), failing),
        SecondRcpt => (at(Phase::Rcpt).from(sender).to(&store.bert), failing),
        Rset => (at(Phase::Rset).from(sender), failing),
        Data => (at(Phase::Data), failing),
        GoAhead => (at(Phase::Data), Action::reply("354-Go ahead").then(failing)),
        Body(0) => (at(Phase::Data), Action::ordinary().then(failing)),
        Body(tenths) => (at(Phase::Body).beyond(tenths * TENTH), failing),
        Dot => (at(Phase::EndOfData), failing),
        Acknowledgement => (at(Phase::EndOfData), Action::reply("250-2.0.0 Ok: queued").then(failing)),
        // Its chunk is taken in, and the fault comes instead of the reply to it.
        Chunk(tenths) => (at(Phase::Bdat).turn(usize::try_from(tenths).expect("ten at most")), failing),
        ChunkAcknowledgement => {
            (at(Phase::Bdat).turn(10), Action::reply("250-2.0.0 Ok: queued").then(failing))
        }
        Idle => (at(Phase::EndOfData), Action::ordinary().then(failing)),
        Quit => (at(Phase::Quit), failing),
    };
    let when = if row.lasting == Once { when.nth(1) } else { when };
    store.backend.rescript(|script| {
        // A session that refused something is not kept: it is left with QUIT.
        let refusal = at(Phase::Rcpt).from(SENDER).to(&store.bert);
        let script = if row.at == Quit && row.whose != Start {
            script.on(refusal, Action::reply("450 4.2.0 Try again later"))
        } else {
            script
        };
        script.on(when, action)
    });
}

/// A listener whose queue is full: connections to it are not answered at all.
struct Clogged {
    _listener: tokio::net::TcpListener,
    _queued: TcpStream,
}

impl Clogged {
    async fn listen(cell: &Cell) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("a fresh socket");
        socket.bind(cell.store.address).expect("its own address");
        // A queue of none still takes one.
        let listener = socket.listen(0).expect("its own address");
        let queued = TcpStream::connect(cell.store.address).await.expect("the queue takes one");
        Self { _listener: listener, _queued: queued }
    }
}
