//! Lists of recipients an operator decided about: single addresses and whole domains.

use std::collections::HashSet;

use super::leaf::{Form, Leaf, Misread};
use crate::proto::address::{Domain, LocalCase, Mailbox};

/// One entry as written: `ann@example.org` or `@example.org`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    /// This address.
    Mailbox(Mailbox),
    /// Every address in this domain.
    Domain(Domain),
}

impl Listed {
    /// The domain it is about; none for the bare `postmaster`.
    #[must_use]
    pub const fn domain(&self) -> Option<&Domain> {
        match self {
            Self::Mailbox(mailbox) => mailbox.domain(),
            Self::Domain(domain) => Some(domain),
        }
    }

    /// Reads an entry; none when it is neither an address nor `@domain`.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        Self::parse(text).ok()
    }
}

impl Leaf for Listed {
    const FORM: Form = Form::Text;
    const EXAMPLE: &'static str = "\"ann@example.org\"";
    const KIND: &'static str = "address or @domain";

    fn parse(text: &str) -> Result<Self, Misread> {
        let listed = match text.strip_prefix('@') {
            Some(domain) => Domain::parse(domain).map(Self::Domain),
            None => Mailbox::parse(text).map(Self::Mailbox),
        };
        let remedy = "write an address such as \"ann@example.org\" or a domain such as \"@example.org\"";
        listed.map_err(|fault| Misread::new(fault.to_string(), remedy))
    }

    fn text(&self) -> String {
        match self {
            Self::Mailbox(mailbox) => mailbox.written().to_owned(),
            Self::Domain(domain) => format!("@{domain}"),
        }
    }
}

/// A list of recipients, compared in canonical form.
#[derive(Debug, Clone)]
pub struct RecipientList {
    case: LocalCase,
    mailboxes: HashSet<String>,
    domains: HashSet<Domain>,
}

impl RecipientList {
    /// The list of `entries`, local parts compared as `case` says.
    #[must_use]
    pub fn new(entries: &[Listed], case: LocalCase) -> Self {
        let mut list = Self { case, mailboxes: HashSet::new(), domains: HashSet::new() };
        for entry in entries {
            match entry {
                Listed::Mailbox(mailbox) => {
                    list.mailboxes.insert(mailbox.canonical(case));
                }
                Listed::Domain(domain) => {
                    list.domains.insert(domain.clone());
                }
            }
        }
        list
    }

    /// Whether the address, or its whole domain, is listed.
    #[must_use]
    pub fn contains(&self, recipient: &Mailbox) -> bool {
        recipient.domain().is_some_and(|domain| self.domains.contains(domain)) || self.names(recipient)
    }

    /// Whether the address itself is listed.
    #[must_use]
    pub fn names(&self, recipient: &Mailbox) -> bool {
        !self.mailboxes.is_empty() && self.mailboxes.contains(&recipient.canonical(self.case))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients_are_found_by_address_and_by_domain() {
        let written = ["Ann@example.org", "@Bücher.example", "postmaster"];
        let entries: Vec<Listed> = written.iter().map(|text| Listed::parse(text).unwrap()).collect();
        let sensitive = RecipientList::new(&entries, LocalCase::Sensitive);
        let folding = RecipientList::new(&entries, LocalCase::Insensitive);
        for (address, in_sensitive, in_folding) in [
            ("Ann@EXAMPLE.org", true, true),
            ("\"Ann\"@example.org", true, true),
            ("ann@example.org", false, true),
            ("bob@xn--bcher-kva.example", true, true),
            ("bob@sub.xn--bcher-kva.example", false, false),
            ("PostMaster", true, true),
            ("bob@example.org", false, false),
        ] {
            let mailbox = Mailbox::parse(address).unwrap();
            assert_eq!(sensitive.contains(&mailbox), in_sensitive, "{address}");
            assert_eq!(folding.contains(&mailbox), in_folding, "{address}");
        }
        for bad in ["", "@", "ann", "*@example.org@", "@a b"] {
            assert!(Listed::parse(bad).unwrap_err().remedy.contains("\"@example.org\""), "{bad}");
        }
    }
}
