//! What a profile presets: other defaults, for keys that were not written.
//!
//! Sessions need no preset: for every profile they are left after 8 minutes, and 4 idle ones at most, before
//! Exchange would close them (after 10, and 5).

use crate::config::choice::Profile;
use crate::config::settings;

/// Exchange takes 20 connections from one address; two are left to others there.
const EXCHANGE_CONNECTIONS: usize = 18;
/// Refusals in one session: Postfix slows down after 10.
const STANDARD_REFUSALS: u32 = 10;
/// Exchange closes after 5 protocol errors.
const EXCHANGE_REFUSALS: u32 = 5;

/// Gives the keys that were not written the values of the route's profile.
pub(super) fn preset(route: &mut settings::Route, written: impl Fn(&str) -> bool) {
    match route.profile {
        Profile::Standard => {}
        Profile::Exchange => {
            if !written("max_connections") {
                route.max_connections = EXCHANGE_CONNECTIONS;
            }
            if !written("verify.case_sensitive") {
                route.verify.case_sensitive = false;
            }
        }
    }
}

/// Refusals such a server is taken to endure in one session, until it shows how many.
pub(super) const fn refusals_endured(profile: Profile) -> u32 {
    match profile {
        Profile::Standard => STANDARD_REFUSALS,
        Profile::Exchange => EXCHANGE_REFUSALS,
    }
}
