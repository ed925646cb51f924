//! EHLO: what a backend announces and what we offer.
//!
//! Only keywords we carry are known here; anything else, every `X-` keyword among them, is neither offered
//! nor forwarded. What we offer is the intersection of what the backends announced last, so that nothing is
//! promised that cannot be kept (RFC 5321 §2.2.2).

use super::reply::Reply;

/// An extension we can carry end to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Keyword {
    /// RFC 2920.
    Pipelining = 1,
    /// RFC 1870.
    Size = 1 << 1,
    /// RFC 6152.
    EightBitMime = 1 << 2,
    /// RFC 6531.
    SmtpUtf8 = 1 << 3,
    /// RFC 3461.
    Dsn = 1 << 4,
    /// RFC 3030.
    Chunking = 1 << 5,
    /// RFC 3030; useless without CHUNKING.
    BinaryMime = 1 << 6,
    /// RFC 2034.
    EnhancedStatusCodes = 1 << 7,
    /// RFC 3207.
    StartTls = 1 << 8,
    /// RFC 9422.
    Limits = 1 << 9,
    /// RFC 6710.
    MtPriority = 1 << 10,
}

/// In the order they are offered.
const ALL: [(Keyword, &str); 11] = [
    (Keyword::Pipelining, "PIPELINING"),
    (Keyword::Size, "SIZE"),
    (Keyword::EightBitMime, "8BITMIME"),
    (Keyword::SmtpUtf8, "SMTPUTF8"),
    (Keyword::Dsn, "DSN"),
    (Keyword::Chunking, "CHUNKING"),
    (Keyword::BinaryMime, "BINARYMIME"),
    (Keyword::EnhancedStatusCodes, "ENHANCEDSTATUSCODES"),
    (Keyword::StartTls, "STARTTLS"),
    (Keyword::Limits, "LIMITS"),
    (Keyword::MtPriority, "MT-PRIORITY"),
];

impl Keyword {
    /// The keyword as EHLO spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        ALL.iter().find(|(keyword, _)| *keyword == self).map_or("", |(_, name)| name)
    }

    /// The known keyword of this spelling, in any case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        ALL.iter().find(|(_, spelt)| spelt.eq_ignore_ascii_case(name)).map(|(keyword, _)| *keyword)
    }
}

/// A set of extensions with their arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extensions {
    keywords: u16,
    /// Largest message in octets, none without a fixed one (RFC 1870 §3).
    pub max_size: Option<u64>,
    /// RCPTMAX of LIMITS (RFC 9422 §4.2).
    pub max_recipients: Option<u32>,
    /// RCPTDOMAINMAX of LIMITS (RFC 9422 §4.3).
    pub max_domains: Option<u32>,
}

impl Extensions {
    /// A set of the given keywords without arguments.
    #[must_use]
    pub fn of(keywords: &[Keyword]) -> Self {
        keywords.iter().fold(Self::default(), |set, keyword| set.with(*keyword))
    }

    /// What can be promised for backends that were never asked: what every server of this century has, and
    /// what we do ourselves.
    #[must_use]
    pub fn assumed() -> Self {
        Self::of(&[Keyword::Pipelining, Keyword::Size, Keyword::EightBitMime, Keyword::EnhancedStatusCodes])
    }

    /// Reads a backend's reply to EHLO. Its first line is a greeting and not looked at.
    #[must_use]
    pub fn announced(reply: &Reply) -> Self {
        let mut set = Self::default();
        for line in reply.lines().skip(1) {
            let Ok(line) = std::str::from_utf8(line) else { continue };
            let mut words = line.split_ascii_whitespace();
            let Some(keyword) = words.next().and_then(Keyword::parse) else { continue };
            set = set.with(keyword);
            match keyword {
                Keyword::Size => {
                    set.max_size = words.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0);
                }
                Keyword::Limits => {
                    for (name, limit) in words.filter_map(|word| word.split_once('=')) {
                        let limit = limit.parse().ok().filter(|n| *n > 0);
                        match name {
                            "RCPTMAX" => set.max_recipients = limit,
                            "RCPTDOMAINMAX" => set.max_domains = limit,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        set
    }

    /// Whether `keyword` is in the set.
    #[must_use]
    pub const fn has(&self, keyword: Keyword) -> bool {
        self.keywords & keyword as u16 != 0
    }

    /// The set with `keyword`.
    #[must_use]
    pub const fn with(mut self, keyword: Keyword) -> Self {
        self.keywords |= keyword as u16;
        self
    }

    /// The set without `keyword` and its argument.
    #[must_use]
    pub const fn without(mut self, keyword: Keyword) -> Self {
        self.keywords &= !(keyword as u16);
        match keyword {
            Keyword::Size => self.max_size = None,
            Keyword::Limits => (self.max_recipients, self.max_domains) = (None, None),
            Keyword::Chunking => self.keywords &= !(Keyword::BinaryMime as u16),
            _ => {}
        }
        self
    }

    /// What both sets have, with the smaller of each limit.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let smaller = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        let both = Self {
            keywords: self.keywords & other.keywords,
            max_size: smaller(self.max_size, other.max_size),
            max_recipients: self.max_recipients.into_iter().chain(other.max_recipients).min(),
            max_domains: self.max_domains.into_iter().chain(other.max_domains).min(),
        };
        if both.has(Keyword::Chunking) { both } else { both.without(Keyword::BinaryMime) }
    }

    /// Each extension as EHLO spells it, with its argument.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let all = ALL.iter().filter(|(keyword, _)| self.has(*keyword));
        all.map(|(keyword, name)| match (keyword, self.max_size) {
            (Keyword::Size, Some(size)) => format!("{name} {size}"),
            (Keyword::Limits, _) => {
                let limits = [("RCPTMAX", self.max_recipients), ("RCPTDOMAINMAX", self.max_domains)];
                let limits = limits.into_iter().filter_map(|(limit, max)| Some(format!(" {limit}={}", max?)));
                std::iter::once((*name).to_owned()).chain(limits).collect()
            }
            _ => (*name).to_owned(),
        })
    }

    /// Our answer to EHLO: our name, then one line each.
    #[must_use]
    pub fn offer(&self, hostname: &str) -> Reply {
        let lines: Vec<String> = std::iter::once(hostname.to_owned()).chain(self.lines()).collect();
        Reply::new(250, lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_keywords_are_heard() {
        let reply = Reply::new(
            250,
            "mail.example at your service\nSIZE 36700160\nPIPELINING\nDSN\n8BITMIME\nX-EXPS GSSAPI NTLM\nXEXCH50\nCHUNKING\nLIMITS MAILMAX=3 RCPTMAX=50\nfoo\n",
        );
        let heard = Extensions::announced(&reply);
        assert_eq!(
            heard.offer("mx.example").text(),
            b"mx.example\nPIPELINING\nSIZE 36700160\n8BITMIME\nDSN\nCHUNKING\nLIMITS RCPTMAX=50"
        );
        assert_eq!(Extensions::announced(&Reply::fixed(250, "SIZE 5")), Extensions::default());
    }

    #[test]
    fn an_intersection_promises_only_what_both_keep() {
        let mut a = Extensions::of(&[Keyword::Size, Keyword::Chunking, Keyword::BinaryMime, Keyword::Dsn]);
        let mut b = Extensions::of(&[Keyword::Size, Keyword::BinaryMime, Keyword::Dsn]);
        (a.max_size, b.max_size) = (Some(100), None);
        let both = a.intersection(&b);
        assert!(both.has(Keyword::Dsn) && both.has(Keyword::Size));
        assert!(!both.has(Keyword::Chunking) && !both.has(Keyword::BinaryMime));
        assert_eq!(both.max_size, Some(100));
        assert_eq!(both, b.intersection(&a));
        assert!(!a.without(Keyword::Chunking).has(Keyword::BinaryMime));
    }
}
