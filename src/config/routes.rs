//! Which route a domain takes: the exact name, then the longest `*.suffix`, then `*`.
//!
//! `*.example.org` covers any depth of subdomain, but not `example.org` itself; address literals have no
//! suffix and are found exactly or by `*`. Finding one costs a hash per label, however many routes there are.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::leaf::{Form, Leaf, Misread};
use super::used::Route;
use crate::proto::address::{Domain, Mailbox};

/// The domains one entry of `domains` covers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DomainPattern {
    /// This domain.
    Exact(Domain),
    /// Everything below this domain.
    Below(Domain),
    /// Every domain not named elsewhere.
    Any,
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(domain) => write!(f, "{domain}"),
            Self::Below(domain) => write!(f, "*.{domain}"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl Leaf for DomainPattern {
    const FORM: Form = Form::Text;
    const EXAMPLE: &'static str = "\"example.org\"";
    const KIND: &'static str = "domain pattern";

    fn parse(text: &str) -> Result<Self, Misread> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let pattern = match text.strip_prefix("*.") {
            Some(suffix) => Domain::parse(suffix).ok().filter(|d| !is_literal(d)).map(Self::Below),
            None => Domain::parse(text).ok().map(Self::Exact),
        };
        let remedy = "write \"example.org\", \"*.example.org\" or \"*\"";
        pattern.ok_or_else(|| Misread::new("not a domain", remedy))
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// All routes, at least one.
#[derive(Debug, Clone)]
pub struct Routes {
    first: Arc<Route>,
    all: Vec<Arc<Route>>,
    exact: HashMap<Domain, Arc<Route>>,
    /// By the domain below which they reach.
    below: HashMap<Box<str>, Arc<Route>>,
    any: Option<Arc<Route>>,
}

impl Routes {
    /// The routes in the order written, none without a route. Of two that claim a domain the last would
    /// win; the check refuses them before.
    #[must_use]
    pub fn new(all: Vec<Arc<Route>>) -> Option<Self> {
        let first = Arc::clone(all.first()?);
        let mut routes =
            Self { first, all: Vec::new(), exact: HashMap::new(), below: HashMap::new(), any: None };
        for route in &all {
            for pattern in &route.domains {
                let route = Arc::clone(route);
                match pattern {
                    DomainPattern::Exact(domain) => {
                        routes.exact.insert(domain.clone(), route);
                    }
                    DomainPattern::Below(domain) => {
                        routes.below.insert(domain.as_str().into(), route);
                    }
                    DomainPattern::Any => routes.any = Some(route),
                }
            }
        }
        routes.all = all;
        Some(routes)
    }

    /// The route `domain` takes, none when mail for it is not ours.
    #[must_use]
    pub fn find(&self, domain: &Domain) -> Option<&Arc<Route>> {
        self.exact.get(domain).or_else(|| self.find_below(domain)).or(self.any.as_ref())
    }

    /// Whether only `*` covers `domain`.
    #[must_use]
    pub fn is_by_any(&self, domain: &Domain) -> bool {
        self.any.is_some() && !self.exact.contains_key(domain) && self.suffix_of(domain).is_none()
    }

    /// The entry of `domains` through which `domain` has its route.
    #[must_use]
    pub fn pattern(&self, domain: &Domain) -> Option<DomainPattern> {
        if self.exact.contains_key(domain) {
            return Some(DomainPattern::Exact(domain.clone()));
        }
        let below = self.suffix_of(domain).and_then(|suffix| Domain::parse(suffix).ok());
        below.map(DomainPattern::Below).or_else(|| self.any.is_some().then_some(DomainPattern::Any))
    }

    /// The route mail for `mailbox` takes; the bare `postmaster` takes the first (RFC 5321 §4.5.1).
    #[must_use]
    pub fn of(&self, mailbox: &Mailbox) -> Option<&Arc<Route>> {
        mailbox.domain().map_or(Some(&self.first), |domain| self.find(domain))
    }

    /// The route written first: where the bare `postmaster` goes.
    #[must_use]
    pub const fn first(&self) -> &Arc<Route> {
        &self.first
    }

    /// All routes in the order written.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.all.iter()
    }

    fn find_below(&self, domain: &Domain) -> Option<&Arc<Route>> {
        self.suffix_of(domain).and_then(|suffix| self.below.get(suffix))
    }

    /// What stands behind `*.` in the entry that covers `domain`: the longest suffix.
    fn suffix_of<'d>(&self, domain: &'d Domain) -> Option<&'d str> {
        let mut suffix = domain.parent();
        while let Some(parent) = suffix.filter(|parent| !self.below.contains_key(*parent)) {
            suffix = parent.split_once('.').map(|(_, rest)| rest);
        }
        suffix
    }
}

fn is_literal(domain: &Domain) -> bool {
    domain.as_str().starts_with('[')
}
