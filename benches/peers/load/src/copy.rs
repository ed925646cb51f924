//! A front that understands nothing, on the runtime Backstop has: one thread that copies octets both ways. What it costs is
//! what any tokio proxy pays that opens a connection for a connection and passes each packet on.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::sink;

/// Serves until the process is ended.
pub(crate) async fn serve(address: SocketAddr, to: SocketAddr) -> io::Result<()> {
    let listener = sink::listener(address)?;
    let serve = async {
        loop {
            let (stream, _) = listener.accept().await?;
            // Whoever breaks off harms nobody here.
            tokio::task::spawn_local(async move { copy(stream, to).await.ok() });
        }
    };
    LocalSet::new().run_until(serve).await
}

async fn copy(mut client: TcpStream, to: SocketAddr) -> io::Result<(u64, u64)> {
    let mut backend = TcpStream::connect(to).await?;
    client.set_nodelay(true)?;
    backend.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut backend).await
}
