//! TLS with the client: what must hold before it begins, and what becomes of it.

use super::Session;
use crate::net::tls::{Handshake, HandshakeFault};
use crate::observe::metrics::TlsResult;
use crate::observe::record::End;
use crate::proto::dialogue::Input;
use crate::proto::reply::Reply;
use tokio::time::Instant;

impl Session {
    /// Says that TLS may begin, and waits for it. Whoever had said more than STARTTLS by then hoped to have it
    /// taken for something said inside TLS (RFC 3207 §4.2).
    pub(super) async fn start_tls(&mut self, ready: &Reply) -> Result<Input<'static>, End> {
        if self.client.has_said_more() {
            return Ok(Input::BytesBehindStartTls);
        }
        self.client.say(ready);
        self.client.flush(self.context.config.timeouts.command).await.map_err(|_| End::ClientLost)?;
        self.secure().await?;
        self.be_oneself_again()?;
        Ok(Input::TlsDone)
    }

    /// Shakes hands, within the time there is for that.
    pub(super) async fn secure(&mut self) -> Result<(), End> {
        let Some(acceptor) = self.context.acceptor.clone() else { return Err(End::Tls) };
        let timeouts = &self.context.config.timeouts;
        let left = timeouts.session.map(|whole| (self.began + whole).duration_since(Instant::now()));
        let patience = left.map_or(timeouts.tls_handshake, |left| left.min(timeouts.tls_handshake));
        match self.client.secure(&acceptor, patience).await {
            Ok((facts, handshake)) => {
                self.series.tls_handshake(match handshake {
                    Handshake::Full => TlsResult::Full,
                    Handshake::Resumed => TlsResult::Resumed,
                });
                self.record.encrypted(facts);
                Ok(())
            }
            Err(fault) => {
                self.series.tls_handshake(match fault {
                    HandshakeFault::Timeout => TlsResult::Timeout,
                    _ => TlsResult::Failed,
                });
                tracing::debug!(session = %self.record.session, %fault, "no TLS with the client");
                Err(End::Tls)
            }
        }
    }
}
