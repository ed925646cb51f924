//! Clients that guess recipients: who they are, and pardon for those that are banned.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::json;

use super::Panel;
use super::answer::{self, Answer, Refusal};
use super::target::decoded;
use crate::guard::{Event, Suspicion, Suspicions, Tally};
use crate::net::client_key::ClientKey;

/// Clients of each kind that are listed at most.
const MOST: usize = 100;

/// `GET /api/v1/clients`.
#[derive(Debug, Serialize)]
struct Clients {
    /// Clients that asked for recipients and are remembered, and room for how many.
    known: usize,
    max_clients: usize,
    /// Those with most unknown recipients within the hour.
    clients: Vec<Client>,
    /// How many are banned, and those that stay so longest.
    bans: usize,
    banned: Vec<Client>,
}

#[derive(Debug, Serialize)]
struct Client {
    /// An IPv4 address or an IPv6 /64.
    client: String,
    /// Recipients it asked for within the hour: those refused as unknown, and all that were answered.
    #[serde(flatten)]
    asked: Asked,
    ban: Option<BanStatus>,
}

#[derive(Debug, Serialize)]
struct Asked {
    unknown: u32,
    asked: u32,
}

#[derive(Debug, Serialize)]
struct BanStatus {
    remaining_seconds: u64,
    reason: &'static str,
    /// What it had asked for within an hour when it was banned.
    #[serde(flatten)]
    asked: Asked,
}

/// Who guesses recipients, and who is banned.
pub(super) async fn list(panel: &Panel) -> Answer {
    let Suspicions { clients, banned, bans } = panel.harvest.suspicions(MOST).await;
    let (known, max_clients) = panel.harvest.clients();
    let all = |some: Vec<Suspicion>| some.into_iter().map(Client::of).collect();
    answer::json(&Clients { known, max_clients, clients: all(clients), bans, banned: all(banned) })
}

/// `DELETE /api/v1/clients/{ip}`: lifts a ban.
pub(super) fn pardon(panel: &Panel, encoded: &str) -> Result<Answer, Refusal> {
    let address = decoded(encoded).ok_or_else(|| Refusal::Encoding(encoded.to_owned()))?;
    let client = address.parse::<IpAddr>().map(ClientKey::of).map_err(|_| Refusal::Client(address))?;
    if panel.harvest.ban(client).is_none() {
        return Err(Refusal::NotBanned(client));
    }
    panel.harvest.learn(client, Event::Pardoned);
    tracing::info!(%client, "ban lifted");
    Ok(answer::json(&json!({ "pardoned": client.to_string() })))
}

impl Client {
    fn of(Suspicion { client, tally, ban }: Suspicion) -> Self {
        let ban = ban.map(|ban| BanStatus {
            remaining_seconds: ban.remaining.as_secs(),
            reason: "unknown_recipients",
            asked: Asked::of(ban.reason),
        });
        Self { client: client.to_string(), asked: Asked::of(tally), ban }
    }
}

impl Asked {
    const fn of(tally: Tally) -> Self {
        Self { unknown: tally.unknown, asked: tally.asked() }
    }
}
