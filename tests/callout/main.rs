//! How recipients are verified, rule by rule: the real session and the real prober before a scripted mail store, in
//! memory and on a paused clock.
//!
//! - `replies`: each row of what a probe's reply means is a test by name.
//! - `remembering`: each rule of what is remembered is one.
//! - `stores`: mail stores that behave as stores do.
//! - `askers`: anybody asks, leaves and waits in any order, and the store fails at any moment.
//! - `house`: Backstop between clients and the store.
//!
//! `docs/callout.md` says the same in sentences. Conversations word by word are in `tests/transcripts`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

mod askers;
mod house;
mod remembering;
mod replies;
mod stores;

/// Names in the page that no test has any more would mislead.
#[test]
fn every_test_that_the_page_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    let mut places: Vec<PathBuf> = ["src", "tests"].map(|place| root.join(place)).to_vec();
    while let Some(place) = places.pop() {
        if place.is_dir() {
            places.extend(fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()));
        } else if place.extension().is_some_and(|kind| kind == "rs") {
            sources.push_str(&fs::read_to_string(&place).unwrap());
        } else if place.extension().is_some_and(|kind| kind == "smtp") {
            // Each of them is a test of its name.
            writeln!(sources, "fn {}(", place.file_stem().unwrap().to_string_lossy()).unwrap();
        }
    }
    let page = fs::read_to_string(root.join("docs/callout.md")).unwrap();
    let named: Vec<_> =
        page.split('`').skip(1).step_by(2).filter(|word| word.matches('_').count() > 2).collect();
    assert!(named.len() > 30, "the page names its tests");
    for name in named {
        assert!(sources.contains(&format!("fn {name}(")), "no test is called {name}");
    }
}
