//! What is known of a stream inside TLS, whatever its peer does with records.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::{BackendTls, CertificateFiles, Endpoint, EndpointTls, TlsPolicy};
use crate::net::stream::{Pending, read_some};
use crate::observe::metrics::Metrics;

const PATIENCE: Duration = Duration::from_secs(30);

fn acceptor(name: &str) -> Acceptor {
    let made = rcgen::generate_simple_self_signed(["mx.example.org".to_owned()]).unwrap();
    let place = |end: &str| {
        let file = format!("backstop-net-tls-{}-{name}.{end}", std::process::id());
        std::env::temp_dir().join(file)
    };
    let files = CertificateFiles { chain: place("crt"), key: place("key") };
    std::fs::write(&files.chain, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let certificate = files.load().unwrap();
    for file in [&files.chain, &files.key] as [&Path; 2] {
        std::fs::remove_file(file).unwrap();
    }
    Acceptor::new(Keyring::new(&[certificate], Metrics::new()), TlsVersion::Tls12)
}

fn connector() -> Connector {
    let endpoint = Endpoint { host: "mx.example.org".into(), port: 25, tls: EndpointTls::Negotiated };
    Connector::new(&BackendTls { policy: TlsPolicy::Required, name: None }, &endpoint)
}

async fn sockets() -> (Stream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (Stream::Tcp(near), Stream::Tcp(listener.accept().await.unwrap().0))
}

/// Both ends of a connection inside TLS: that to a backend, and the backend's.
async fn secured(name: &str, (near, far): (Stream, Stream)) -> (Secured, Secured) {
    let (acceptor, connector) = (acceptor(name), connector());
    let (near, far) = tokio::join!(connector.connect(near, PATIENCE), acceptor.accept(far, PATIENCE));
    (near.unwrap(), far.unwrap())
}

/// The raw socket, and what writes records for it.
fn taken_apart(stream: Stream) -> (TcpStream, rustls::ServerConnection) {
    let Stream::Tls(stream) = stream else { panic!("inside TLS") };
    let tokio_rustls::TlsStream::Server(stream) = stream.0 else { panic!("a server's end") };
    let (records, connection) = stream.into_inner();
    let Stream::Tcp(socket) = records.stream else { panic!("over TCP") };
    (socket, connection)
}

/// Waits until octets stand in the socket of the stream, read by nobody.
async fn arrived(stream: &Stream) {
    let Stream::Tls(stream) = stream else { panic!("inside TLS") };
    let Stream::Tcp(socket) = stream.carrier() else { panic!("over TCP") };
    socket.peek(&mut [0]).await.unwrap();
}

fn records(connection: &mut rustls::ServerConnection) -> Vec<u8> {
    let mut octets = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut octets).unwrap();
    }
    octets
}

#[tokio::test]
async fn both_ends_agree_on_the_facts() {
    for pair in [sockets().await, memory()] {
        let (near, far) = secured("facts", pair).await;
        assert_eq!((near.facts.version, near.facts.cipher), (TlsVersion::Tls13, "TLS_AES_256_GCM_SHA384"));
        assert_eq!(far.facts.cipher, near.facts.cipher);
        assert_eq!(far.facts.server_name.as_deref(), Some("mx.example.org"));
        assert_eq!((near.handshake, far.handshake), (Handshake::Full, Handshake::Full));
    }
}

fn memory() -> (Stream, Stream) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    (Stream::Memory(near), Stream::Memory(far))
}

#[tokio::test]
async fn only_application_data_is_pending() {
    let (near, far) = secured("pending", sockets().await).await;
    let (mut near, mut buffer) = (near.stream, Vec::new());
    let (mut socket, mut connection) = taken_apart(far.stream);
    // The ticket stands in the socket.
    arrived(&near).await;
    assert_eq!(near.pending(&mut buffer), Pending::Nothing, "a ticket is no data");
    // So does a key update, sent alone.
    connection.refresh_traffic_keys().unwrap();
    socket.write_all(&records(&mut connection)).await.unwrap();
    arrived(&near).await;
    assert_eq!(near.pending(&mut buffer), Pending::Nothing, "a key update is no data");

    connection.writer().write_all(b"250 early\r\n").unwrap();
    socket.write_all(&records(&mut connection)).await.unwrap();
    arrived(&near).await;
    assert_eq!(near.pending(&mut buffer), Pending::Octets);
    assert_eq!(near.pending(&mut buffer), Pending::Octets, "looking takes nothing");
    assert!(buffer.is_empty());
    assert_eq!(read_some(&mut near, &mut buffer).await.unwrap(), 11);
    assert_eq!(buffer, b"250 early\r\n");
    assert_eq!(near.pending(&mut buffer), Pending::Nothing);

    connection.send_close_notify();
    socket.write_all(&records(&mut connection)).await.unwrap();
    arrived(&near).await;
    assert_eq!(near.pending(&mut buffer), Pending::End);
}

#[tokio::test]
async fn the_beginning_of_a_record_may_be_that_of_a_reply() {
    let (near, far) = secured("begun", sockets().await).await;
    let (mut near, mut buffer) = (near.stream, Vec::new());
    let (mut socket, mut connection) = taken_apart(far.stream);
    arrived(&near).await;
    assert_eq!(near.pending(&mut buffer), Pending::Nothing);
    connection.writer().write_all(b"250 early\r\n").unwrap();
    let record = records(&mut connection);
    let (begun, rest) = record.split_at(record.len() - 1);
    socket.write_all(begun).await.unwrap();
    arrived(&near).await;
    assert_eq!(near.pending(&mut buffer), Pending::Octets, "it cannot be read yet, and was begun");
    socket.write_all(rest).await.unwrap();
    assert_eq!(read_some(&mut near, &mut buffer).await.unwrap(), 11);
    assert_eq!(near.pending(&mut buffer), Pending::Nothing);
}

#[tokio::test]
async fn a_farewell_is_told_from_a_connection_cut_off() {
    let (near, far) = secured("farewell", sockets().await).await;
    let (mut near, mut far) = (near.stream, far.stream);
    near.shutdown().await.unwrap();
    assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0, "close_notify came");

    let (near, far) = secured("cut", sockets().await).await;
    let mut far = far.stream;
    near.stream.abort();
    let fault = far.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(fault.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_was_taken_is_on_its_way_when_the_write_ends() {
    let (near, far) = secured("written", memory()).await;
    let (mut near, mut far) = (near.stream, far.stream);
    let octets = vec![b'x'; 300_000];
    let (wrote, read) = tokio::join!(crate::net::stream::write_through(&mut near, &octets), async {
        let mut read = Vec::new();
        while read.len() < octets.len() {
            assert!(read_some(&mut far, &mut read).await.unwrap() > 0);
        }
        read
    });
    wrote.unwrap();
    assert_eq!(read, octets);
}

#[tokio::test]
async fn sessions_with_a_backend_are_taken_up_again() {
    let (acceptor, connector) = (acceptor("resumed"), connector());
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let (near, far) = sockets().await;
        let (near, far) = tokio::join!(connector.connect(near, PATIENCE), acceptor.accept(far, PATIENCE));
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        // The ticket comes with the first octets.
        far.stream.write_all(b"220\r\n").await.unwrap();
        assert_eq!(near.stream.read(&mut [0; 8]).await.unwrap(), 5);
        kinds.push(near.handshake);
    }
    assert_eq!(kinds, [Handshake::Full, Handshake::Resumed]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_its_time_and_no_more() {
    let (near, _far) = memory();
    let began = tokio::time::Instant::now();
    let fault = acceptor("silent").accept(near, PATIENCE).await.unwrap_err();
    assert!(matches!(fault, HandshakeFault::Timeout), "{fault}");
    assert_eq!(began.elapsed(), PATIENCE);
    let (near, far) = memory();
    drop(far);
    let fault = connector().connect(near, PATIENCE).await.unwrap_err();
    assert!(matches!(fault, HandshakeFault::Closed), "{fault}");
}
