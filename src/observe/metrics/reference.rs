//! `docs/metrics.md`: made of what a scraper sees, and held to it.

use std::collections::{BTreeMap, BTreeSet};

use prometheus::proto::{MetricFamily, MetricType};

use super::super::AlarmKind;
use super::{BackendUse, Metrics, RouteState, StoreHealth, process};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
/// Set, the test writes the page instead of comparing it.
const UPDATE: &str = "BACKSTOP_UPDATE_DOCS";
/// Stands for a name that somebody configures.
const CONFIGURED: &str = "\u{1}";

const INTRODUCTION: &str = "\
# Metrics reference

What `GET /metrics` on the admin endpoint shows, made from the source (a test compares). Names and label values are an
interface: they are added to, not changed. No address, domain or client is ever a label; label values in italics are
names from your configuration. Everything that can be counted is present at 0 from the start.

Dashboard, alerts and recording rules are in [`dashboards`](../dashboards); what to do when one fires, in the
[runbook](runbook.md).

| metric | type | labels | meaning |
|---|---|---|---|
";

#[test]
fn the_metrics_page_is_what_a_scraper_sees() {
    let families = every_family();
    let rows = families.iter().filter(|family| !family.name().starts_with("process_")).map(row);
    let process = families.iter().filter(|family| family.name().starts_with("process_")).map(row);
    let page: String = std::iter::once(INTRODUCTION.to_owned()).chain(rows).chain(process).collect();
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(PAGE, &page).unwrap();
    }
    let written = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        written == page,
        "docs/metrics.md is not what is measured; write it anew with\n  \
        {UPDATE}=1 cargo test --lib the_metrics_page\nIt should be:\n\n{page}"
    );
}

#[test]
fn the_metrics_page_leaves_no_family_out() {
    let seen: BTreeSet<String> = every_family().iter().map(|family| family.name().to_owned()).collect();
    // A family without a series is not gathered: the page would not show it.
    let declared = include_str!("families.rs").split('"').filter(|text| is_name(text));
    let missing: Vec<_> = declared.filter(|name| !seen.contains(*name)).collect();
    assert!(missing.is_empty(), "give them a handle in every_family: {missing:?}");
}

fn is_name(text: &str) -> bool {
    text.strip_prefix("backstop_")
        .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
}

/// Everything, with a handle for each kind of configured name.
fn every_family() -> Vec<MetricFamily> {
    let metrics = Metrics::new();
    let _route = metrics.route(CONFIGURED);
    let _listener = metrics.listener(CONFIGURED);
    metrics.certificate_expires(CONFIGURED, std::time::SystemTime::now());
    for purpose in [BackendUse::Probe, BackendUse::Delivery] {
        metrics.route_up(CONFIGURED, purpose, RouteState::Up);
    }
    metrics.store(StoreHealth::Written, 0);
    metrics.sharing(StoreHealth::Written, 0);
    AlarmKind::ALL.iter().for_each(|kind| metrics.alarms(CONFIGURED, *kind, 0));
    metrics.backend(CONFIGURED, CONFIGURED).connections(BackendUse::Probe, 1);
    let mut families = metrics.0.families.registry.gather();
    families.extend(process::families(metrics.0.started));
    families
}

fn row(family: &MetricFamily) -> String {
    let kind = match family.get_field_type() {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        MetricType::SUMMARY | MetricType::UNTYPED => "other",
    };
    let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for label in family.get_metric().iter().flat_map(prometheus::proto::Metric::get_label) {
        let seen = values.entry(label.name()).or_default();
        if !seen.contains(&label.value()) {
            seen.push(label.value());
        }
    }
    let labels: Vec<String> = values.iter().map(|(name, values)| described(name, values)).collect();
    let labels = if labels.is_empty() { "–".to_owned() } else { labels.join("<br>") };
    format!("| `{}` | {kind} | {labels} | {} |\n", family.name(), family.help())
}

fn described(name: &str, values: &[&str]) -> String {
    let configured = values.contains(&CONFIGURED) || name == "version";
    if configured {
        return format!("`{name}`: *{name}*");
    }
    let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
    format!("`{name}`: {}", values.join(", "))
}
