//! What one session is held to: what it offers, and its limits.

use std::sync::Arc;

use crate::proto::ehlo::Extensions;

/// Whether TLS is to be had on this listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// Not offered.
    Off,
    /// Offered.
    Offered,
    /// Mail only inside it.
    Required,
    /// Under way.
    Active,
}

/// Whether this client is believed when it says for whom it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Xclient {
    /// It is not: XCLIENT is a command like any other we do not know.
    Refused,
    /// It is.
    Taken,
}

/// What one session is held to.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Our name in greeting and EHLO.
    pub hostname: Arc<str>,
    /// What EHLO offers, STARTTLS apart. Its `max_size` is also what MAIL's SIZE is held against.
    pub offer: Extensions,
    /// Octets of one message; none: the backend's alone decides.
    pub max_size: Option<u64>,
    /// STARTTLS.
    pub tls: Tls,
    /// XCLIENT.
    pub xclient: Xclient,
    /// Per transaction, refused ones counted.
    pub max_recipients: usize,
    /// Wrong commands in the session before it is closed; none: any number.
    pub max_errors: Option<u32>,
}
