//! The closed sets of label values. Adding a value is compatible, renaming or removing one is not.

use super::children::Label;

/// Declares an enum whose variants each have one text.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// The label's value, in metrics and logs alike.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// What became of a new connection.
    ConnectionResult {
        /// It became a session.
        Accepted = "accepted",
        /// It was over a limit, banned, or came while draining.
        Refused = "refused",
    }
}

label! {
    /// What a session is doing.
    SessionState {
        /// Between transactions.
        Idle = "idle",
        /// From MAIL to the end of the transaction, but for its data.
        Transaction = "transaction",
        /// Message data is on its way, or its final reply.
        Data = "data",
    }
}

label! {
    /// What became of a recipient.
    RecipientResult {
        /// The backend took it.
        Accepted = "accepted",
        /// The mail store does not know it.
        Unknown = "unknown",
        /// The mail store could not be asked or gave no clear answer.
        Undetermined = "undetermined",
        /// No route serves its domain, or its local part asks for relaying.
        RelayDenied = "relay_denied",
        /// Over a limit of recipients or of unknown ones.
        Limited = "limited",
        /// Refused for a reason that is not the recipient: policy, sender, size.
        Refused = "refused",
    }
}

label! {
    /// Where an answer about a recipient came from.
    RecipientSource {
        /// The verdict cache.
        Cache = "cache",
        /// The cache that instances share.
        Shared = "shared",
        /// A probe that was made, or already under way, for this recipient.
        Probe = "probe",
        /// The backend, in the client's own transaction.
        Live = "live",
        /// The configuration: routes, lists, limits.
        Policy = "policy",
    }
}

label! {
    /// What became of a message.
    MessageResult {
        /// The backend acknowledged it, and so did we.
        Accepted = "accepted",
        /// Refused for good.
        Refused = "refused",
        /// Refused for now.
        Tempfailed = "tempfailed",
        /// The client left before its end.
        Aborted = "aborted",
        /// The backend acknowledged it and the client left before it could be told: it will come again.
        StoredUnacknowledged = "stored_unacknowledged",
    }
}

label! {
    /// What asking a mail store came to.
    ProbeResult {
        /// It knows the recipient.
        Deliverable = "deliverable",
        /// It does not.
        Undeliverable = "undeliverable",
        /// It did not say.
        Unknown = "unknown",
    }
}

label! {
    /// What a cache entry says of its recipient.
    CacheKind {
        /// The mail store knows it.
        Good = "deliverable",
        /// The mail store does not.
        Bad = "undeliverable",
        /// It did not say, and is not asked again for a moment.
        Deferred = "unknown",
    }
}

label! {
    /// What is wanted of the memory that instances share.
    SharedOperation {
        /// Whether a recipient is known, and leave to ask about it.
        Lookup = "lookup",
        /// A verdict, marks of a domain, the end of a lease.
        Learn = "learn",
        /// What a client asked for, and leave to ask for more.
        Count = "count",
        /// Bans, pardons, what is forgotten.
        Tell = "tell",
        /// What others have told, every second.
        Attend = "attend",
    }
}

label! {
    /// What came of it.
    SharedResult {
        /// It was done.
        Ok = "ok",
        /// There was no answer in time.
        Slow = "slow",
        /// It was refused, or the connection was lost.
        Failed = "failed",
        /// There is no connection: nothing was tried.
        Apart = "apart",
        /// Too much is under way: nothing was tried.
        Busy = "busy",
    }
}

label! {
    /// What a connection to a backend is for.
    BackendUse {
        /// Asking about recipients.
        Probe = "probe",
        /// A client's transaction.
        Delivery = "delivery",
    }
}

/// Whether a route has a backend for a use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteState {
    /// One at least takes us.
    Up,
    /// None does, or none was tried yet.
    Down,
}

label! {
    /// What came of the last new session with an address of a backend.
    BackendState {
        /// It took us.
        Up = "up",
        /// It did not.
        Down = "down",
        /// There was none yet.
        Untried = "untried",
    }
}

label! {
    /// What became of a new configuration.
    ReloadResult {
        /// It is in force.
        Done = "done",
        /// It has faults, or cannot be put in force: the old one stays.
        Failed = "failed",
    }
}

label! {
    /// Whom TLS is spoken with.
    TlsSide {
        /// A client.
        Client = "client",
        /// A backend.
        Backend = "backend",
    }
}

label! {
    /// What became of a TLS handshake.
    TlsResult {
        /// Keys were agreed on anew.
        Full = "full",
        /// An earlier session was taken up.
        Resumed = "resumed",
        /// It failed, or the connection ended in it.
        Failed = "failed",
        /// It took too long.
        Timeout = "timeout",
        /// After one that failed, a session with the backend went on without TLS (`tls = "opportunistic"`).
        Fallback = "fallback",
    }
}

label! {
    /// Why a recipient was refused, or would have been. Counted for the report; no label of a metric.
    RefusalCause {
        /// The mail store does not know it.
        Unknown = "unknown",
        /// A list of the configuration denies it.
        Denied = "denied",
        /// No route serves its domain.
        NoRoute = "no-route",
        /// Its local part asks for relaying.
        Routed = "routed",
        /// The backend was not seen to refuse foreign domains.
        RelayUntested = "relay-untested",
        /// The store answered with a temporary reply.
        Deferred = "deferred",
        /// The store refused our question for what it is.
        Policy = "policy",
        /// The store refuses the senders we ask with.
        SenderRefused = "sender-refused",
        /// The store takes it without knowing it.
        Unverified = "unverified",
        /// The store does not serve the domain for us.
        RouteFault = "route-fault",
        /// The store takes any recipient.
        Blind = "blind",
        /// The store refuses in numbers what it knew.
        StoreIll = "store-ill",
        /// No session with the store could be had.
        Unreachable = "unreachable",
        /// The store did not answer in time.
        Timeout = "timeout",
        /// Too many questions waited already.
        NoCapacity = "no-capacity",
        /// The client guesses recipients.
        Guessing = "guessing",
        /// Too many other recipients of the client had no answer yet.
        Busy = "busy",
        /// It belongs to another route than the transaction.
        OtherRoute = "other-route",
        /// It is to come alone, or the one before it was.
        OneRecipient = "one-recipient",
        /// The delivery port refused it, for another reason than that it is unknown.
        Backend = "backend",
        /// The delivery port refused it for the moment, or no session with it could be had.
        BackendDeferred = "backend-deferred",
        /// The delivery port was lost before it answered.
        BackendLost = "backend-lost",
    }
}
