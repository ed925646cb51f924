//! What clients did on other instances of the tier, and what they are told of what was done here.
//!
//! Clients are hashes there. A second ledger, bounded like our own, holds what others counted and whom they banned: our own ledger
//! stays as it is, and theirs is added. It is a copy: each answer of the tier replaces what it says of that client. While the tier is
//! away both simply age.

use super::harvest::{Ban, Standing, ban_of, sentence, standing_of};
use super::hour::Tally;
use super::ledger::{Ledger, Sentence};
use crate::net::client_key::ClientKey;
use crate::store::{Counted, Haste, NoLeave, Tier};

/// See the module.
#[derive(Debug)]
pub(super) struct Elsewhere {
    tier: Tier,
    ledger: Ledger,
}

/// What other instances know of a client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) tally: Tally,
    pub(super) ban: Option<Ban>,
    pub(super) sentence: Option<Sentence>,
    pub(super) standing: Standing,
}

impl Default for Known {
    fn default() -> Self {
        Self { tally: Tally::default(), ban: None, sentence: None, standing: Standing::Clean }
    }
}

impl Elsewhere {
    pub(super) fn new(tier: Tier, most: usize) -> Self {
        Self { tier, ledger: Ledger::new(most) }
    }

    /// What stands for a client in the tier.
    pub(super) fn hash(&self, client: ClientKey) -> u128 {
        self.tier.client(client)
    }

    /// What others know of a client.
    pub(super) fn known(&self, client: ClientKey) -> Known {
        let now = self.ledger.now();
        let known = self.ledger.look(local(self.hash(client)), |record| Known {
            tally: record.tally(now),
            ban: ban_of(record, now),
            sentence: record.ban(now),
            standing: standing_of(record, now),
        });
        known.unwrap_or_default()
    }

    /// A client was told something here, and waits no more for so many recipients that others count as pending.
    pub(super) fn told(&self, client: ClientKey, tally: Tally, returned: u16) {
        if !tally.is_empty() || returned > 0 {
            self.tier.told(self.hash(client), tally.unknown, tally.known, returned.into());
        }
    }

    /// Asks for leave on all instances. Gives how many recipients may be asked for, and what the client asked for within the hour,
    /// here (`own`) and elsewhere.
    pub(super) async fn reserve(
        &self,
        client: ClientKey,
        (wanted, most): (u16, u32),
        haste: Haste,
        own: impl Fn() -> Tally,
    ) -> Result<(u16, Tally), NoLeave> {
        let hash = self.hash(client);
        let counted = self.tier.reserve(hash, wanted.into(), most, haste).await?;
        let Counted { granted, unknown, known } = counted;
        let (own, now) = (own(), self.ledger.now());
        let elsewhere = Tally { unknown, known }.beyond(own);
        self.ledger.change(local(hash), now, |record| {
            if elsewhere.unknown > record.tally(now).unknown {
                record.named_unknown(now);
            }
            record.agree(now, elsewhere);
        });
        Ok((u16::try_from(granted).unwrap_or(u16::MAX).min(wanted), own.plus(elsewhere)))
    }

    /// A client was banned here.
    pub(super) fn banned(&self, client: ClientKey, ban: Ban) {
        self.tier.banned(self.hash(client), ban.remaining, (ban.reason.unknown, ban.reason.known));
    }

    /// A client was pardoned here.
    pub(super) fn pardoned(&self, client: ClientKey) {
        let hash = self.hash(client);
        self.is_pardoned(hash);
        self.tier.pardoned(hash);
    }

    /// Another instance banned a client.
    pub(super) fn is_banned(&self, client: u128, ban: Ban) {
        let now = self.ledger.now();
        self.ledger.change(local(client), now, |record| record.sentence(sentence(now, ban)));
    }

    /// A client was pardoned somewhere.
    pub(super) fn is_pardoned(&self, client: u128) {
        let now = self.ledger.now();
        self.ledger.look(local(client), |record| record.pardon(now));
    }

    /// Forgets who counts no more.
    pub(super) fn sweep(&self, set: usize) {
        self.ledger.sweep(set);
    }
}

/// Half of the hash is enough to tell clients apart here.
fn local(client: u128) -> ClientKey {
    let octets = client.to_le_bytes();
    ClientKey::hashed(u64::from_le_bytes(octets.first_chunk().copied().unwrap_or_default()))
}
