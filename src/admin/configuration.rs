//! The settings in force, each with where it was written. Secrets read `(set)`.

use serde::Serialize;

use super::Panel;
use super::answer::{self, Answer};
use crate::config::Origin;

/// `GET /api/v1/configuration`.
#[derive(Debug, Serialize)]
struct Configuration<'p> {
    settings: Vec<Setting<'p>>,
}

#[derive(Debug, Serialize)]
struct Setting<'p> {
    /// Such as `route[0].verify.timeout`.
    key: &'p str,
    /// As TOML.
    value: &'p str,
    /// A file, a variable or a flag; null where the default holds.
    origin: Option<String>,
}

/// All of them, in the order of the reference.
pub(super) fn list(panel: &Panel) -> Answer {
    let settings = panel.config.shown.iter().map(|shown| Setting {
        key: &shown.key,
        value: &shown.value,
        origin: (shown.origin != Origin::Default).then(|| shown.origin.to_string()),
    });
    answer::json(&Configuration { settings: settings.collect() })
}
