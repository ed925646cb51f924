//! The values metric labels can have: closed sets, so that nothing a peer sends becomes one.

/// An enum whose variants are label values.
pub trait Label: Copy + 'static {
    /// Every variant.
    const ALL: &'static [Self];
    /// Its value.
    fn as_str(self) -> &'static str;
    /// Its place in [`Self::ALL`].
    fn index(self) -> usize;
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$of])* $variant,)+ }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// What became of a connection.
    ConnectionResult {
        /// Served.
        Accepted = "accepted",
        /// Sent away at once.
        Refused = "refused",
    }
}

label! {
    /// What a session is doing.
    SessionState {
        /// Between transactions.
        Idle = "idle",
        /// In a transaction.
        Transaction = "transaction",
    }
}

label! {
    /// What became of a recipient.
    RecipientResult {
        /// Taken by the backend.
        Accepted = "accepted",
        /// Refused for good.
        Unknown = "unknown",
        /// Put off.
        Undetermined = "undetermined",
        /// Not ours.
        RelayDenied = "relay_denied",
        /// Over a limit.
        Limited = "limited",
    }
}

label! {
    /// Who decided about a recipient.
    RecipientSource {
        /// This instance's memory.
        Cache = "cache",
        /// The memory instances share.
        Shared = "shared",
        /// A probe.
        Probe = "probe",
        /// The delivery port.
        Live = "live",
        /// The configuration.
        Policy = "policy",
    }
}

label! {
    /// What became of a message.
    MessageResult {
        /// The backend has it, and the client knows.
        Accepted = "accepted",
        /// Refused for good.
        Refused = "refused",
        /// Put off.
        Tempfailed = "tempfailed",
        /// Never ended.
        Aborted = "aborted",
        /// The backend has it, and the client was gone before it could be told.
        StoredUnacknowledged = "stored_unacknowledged",
    }
}

label! {
    /// What a probe found.
    ProbeResult {
        /// The recipient exists.
        Deliverable = "deliverable",
        /// It does not.
        Undeliverable = "undeliverable",
        /// Nobody knows.
        Unknown = "unknown",
    }
}

label! {
    /// What a connection to a backend is for.
    BackendUse {
        /// Asking.
        Probe = "probe",
        /// Delivering.
        Delivery = "delivery",
    }
}

label! {
    /// Kinds of cache entries.
    CacheKind {
        /// Recipients that exist.
        Good = "deliverable",
        /// Recipients that do not.
        Bad = "undeliverable",
        /// Questions without an answer.
        Deferred = "unknown",
    }
}
