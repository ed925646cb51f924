//! Keys that hold one of a few words.

use super::leaf::{Form, Leaf, Misread};

/// Declares an enum, the words its variants are written as, and the remedy that lists them.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $doc])* $variant,)+ }

        impl $name {
            /// The word it is written as.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl Leaf for $name {
            const FORM: Form = Form::Text;
            const EXAMPLE: &'static str = [$(concat!("\"", $word, "\"")),+][0];
            const KIND: &'static str = "one of";
            const WORDS: &'static [(&'static str, &'static str)] = &[$(($word, concat!($($doc),*))),+];

            fn parse(text: &str) -> Result<Self, Misread> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(not_among(&[$($word),+])),
                }
            }

            fn text(&self) -> String {
                self.as_str().to_owned()
            }
        }
    };
}

/// The fault of a word that is not one of `words`.
fn not_among(words: &[&str]) -> Misread {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    Misread::new("not one of its values", format!("write one of {}", quoted.join(", ")))
}

choice! {
    /// What verdicts do to recipients.
    Mode {
        /// An unknown recipient is refused.
        Enforce = "enforce",
        /// What would be refused is logged; nothing is.
        Shadow = "shadow",
        /// Nobody is asked.
        Off = "off",
    }
}

choice! {
    /// Which of the backends of a route is tried first.
    Balance {
        /// Of two chosen by chance the one with fewer connections in use; of two alike the faster.
        LeastConnections = "least-connections",
        /// Each in its turn.
        RoundRobin = "round-robin",
        /// The first in the order written that serves us.
        Failover = "failover",
    }
}

choice! {
    /// What kind of server a route leads to.
    Profile {
        /// Any.
        Standard = "standard",
        /// Microsoft Exchange: few connections, few errors, no case in local parts.
        Exchange = "exchange",
    }
}

choice! {
    /// Who knows the recipients.
    SourceKind {
        /// The mail store, asked in the session.
        Callout = "callout",
        /// A list in a file.
        File = "file",
    }
}

choice! {
    /// Which answer of the mail store counts.
    StageKind {
        /// The one to RCPT, whatever it is.
        Recipient = "rcpt",
        /// The one to DATA, with a single recipient in the transaction; no data is ever sent.
        Data = "data",
        /// The one to RCPT, or to DATA at a store that takes any recipient at RCPT.
        Auto = "auto",
    }
}

choice! {
    /// What happens to a recipient about whom the store answered, but said nothing.
    OnUnknown {
        /// The client's own MAIL and RCPT at the delivery port decide.
        Live = "live",
        /// A temporary failure.
        Tempfail = "tempfail",
        /// The recipient is taken.
        Accept = "accept",
    }
}

choice! {
    /// Whether connections begin with a PROXY header that says who the client is.
    ProxyProtocol {
        /// They do not; one that does is closed.
        Off = "off",
        /// They do; one that does not is closed.
        Required = "required",
        /// Those from a trusted address may; they are given a moment to.
        Optional = "optional",
        /// Those from a trusted address may, once they were greeted.
        Late = "late",
    }
}

choice! {
    /// How the backend learns the true client.
    ClientAddress {
        /// It does not.
        None = "none",
        /// With XCLIENT.
        Xclient = "xclient",
        /// With a PROXY header, version 1.
        ProxyV1 = "proxy-v1",
        /// With a PROXY header, version 2.
        ProxyV2 = "proxy-v2",
        /// Our connection comes from the client's address.
        Transparent = "transparent",
    }
}

choice! {
    /// Whether a `Received:` line is put before each message.
    Received {
        /// Where nothing else tells the backend who the client is.
        Auto = "auto",
        /// It is.
        Always = "always",
        /// It is not.
        Never = "never",
    }
}

choice! {
    /// What happens to recipients such as `user%other@domain`.
    RoutedRecipients {
        /// They are refused: a backend that trusts our address might relay them.
        Refuse = "refuse",
        /// They are treated as any other.
        Pass = "pass",
    }
}

choice! {
    /// What happens to a bare CR or LF inside a message sent with DATA.
    BareNewline {
        /// The message is refused.
        Reject = "reject",
        /// It becomes CRLF.
        Normalize = "normalize",
    }
}

choice! {
    /// How log lines look.
    LogFormat {
        /// For people.
        Text = "text",
        /// For machines.
        Json = "json",
    }
}

choice! {
    /// What of addresses is kept out of the log.
    Redact {
        /// Nothing.
        None = "none",
        /// What stands before the `@`.
        LocalPart = "local-part",
        /// All of it: a keyed hash stands in its place, the same for the same address.
        Hash = "hash",
    }
}

choice! {
    /// TLS with clients.
    ListenerTls {
        /// None.
        Off = "off",
        /// Offered with STARTTLS.
        StartTls = "starttls",
        /// Offered with STARTTLS, and mail is taken only inside it.
        Required = "required",
        /// From the first octet on.
        Implicit = "implicit",
    }
}

choice! {
    /// The oldest version of TLS that is spoken.
    MinVersion {
        /// RFC 5246.
        Tls12 = "1.2",
        /// RFC 8446.
        Tls13 = "1.3",
    }
}

choice! {
    /// TLS with backends.
    RouteTls {
        /// None.
        Off = "off",
        /// With anyone, where it can be had.
        Opportunistic = "opportunistic",
        /// With anyone, or no mail passes.
        Required = "required",
        /// With who proves to be the backend, or no mail passes.
        Verify = "verify",
        /// With who has one of the keys that are listed, or no mail passes.
        Pin = "pin",
    }
}
