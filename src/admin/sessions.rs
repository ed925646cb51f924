//! Sessions that are open now.

use serde::Serialize;

use super::Panel;
use super::answer::{self, Answer};
use crate::observe::OpenSession;

/// Sessions that are listed at most.
const MOST: usize = 100;

/// `GET /api/v1/sessions`.
#[derive(Debug, Serialize)]
struct Sessions {
    /// Connections that are open, and how many there may be.
    open: usize,
    max_connections: usize,
    /// Those that have lasted longest.
    sessions: Vec<OpenSession>,
}

/// Who is here.
pub(super) fn list(panel: &Panel) -> Answer {
    let (_, sessions) = panel.live.sessions(MOST);
    let max_connections = panel.config.limits.max_connections;
    answer::json(&Sessions { open: panel.connections.open(), max_connections, sessions })
}
