//! The metrics as a scraper sees them.

use super::children::Label;
use super::*;

/// The value of the series written exactly so, labels in alphabetical order.
fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    let text = metrics.render();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    line.parse().ok()
}

#[test]
fn what_a_handle_can_count_is_present_at_0() {
    let metrics = Metrics::new();
    let _route = metrics.route("exchange");
    let _listener = metrics.listener("mx");
    let _backend = metrics.backend("exchange", "10.0.0.5:25");
    for (series, expected) in [
        (r#"backstop_build_info{version="0.1.0"}"#, 1.0),
        (r#"backstop_connections_total{listener="mx",result="refused"}"#, 0.0),
        (r#"backstop_sessions{listener="mx",state="data"}"#, 0.0),
        (r#"backstop_recipients_total{result="relay_denied",route="exchange",source="policy"}"#, 0.0),
        (r#"backstop_messages_total{result="stored_unacknowledged",route="exchange"}"#, 0.0),
        (r#"backstop_message_bytes_total{route="exchange"}"#, 0.0),
        (r#"backstop_probes_total{result="unknown",route="exchange"}"#, 0.0),
        ("backstop_probe_duration_seconds_count", 0.0),
        (r#"backstop_verify_duration_seconds_count{source="cache"}"#, 0.0),
        (r#"backstop_cache_entries{verdict="undeliverable"}"#, 0.0),
        ("backstop_cache_evictions_total", 0.0),
        (r#"backstop_verdict_contradicted_total{cached="deliverable",route="exchange"}"#, 0.0),
        (r#"backstop_backend_up{backend="10.0.0.5:25",route="exchange"}"#, 0.0),
        (r#"backstop_backend_connections{backend="10.0.0.5:25",route="exchange",use="probe"}"#, 0.0),
        (r#"backstop_backend_connection_limit{backend="10.0.0.5:25",route="exchange"}"#, 0.0),
        ("backstop_session_duration_seconds_count", 0.0),
        ("backstop_transaction_added_seconds_count", 0.0),
    ] {
        assert_eq!(value(&metrics, series), Some(expected), "{series}");
    }
}

#[test]
fn every_label_value_is_at_its_own_position() {
    fn distinct<L: Label + PartialEq>() {
        assert!(L::ALL.iter().enumerate().all(|(at, value)| value.index() == at));
    }
    distinct::<ConnectionResult>();
    distinct::<SessionState>();
    distinct::<RecipientResult>();
    distinct::<RecipientSource>();
    distinct::<MessageResult>();
    distinct::<ProbeResult>();
    distinct::<CacheKind>();
    distinct::<BackendState>();
    distinct::<BackendUse>();
}

#[test]
fn handles_of_one_name_count_together() {
    let metrics = Metrics::new();
    metrics.route("a").recipient(RecipientResult::Unknown, RecipientSource::Cache);
    metrics.route("a").recipient(RecipientResult::Unknown, RecipientSource::Cache);
    metrics.route("b").recipient(RecipientResult::Unknown, RecipientSource::Probe);
    let count = |route: &str, source: &str| {
        let labels = format!(r#"result="unknown",route="{route}",source="{source}""#);
        value(&metrics, &format!("backstop_recipients_total{{{labels}}}"))
    };
    assert_eq!(count("a", "cache"), Some(2.0));
    assert_eq!(count("a", "probe"), Some(0.0));
    assert_eq!(count("b", "probe"), Some(1.0));
}

#[test]
fn two_servers_do_not_share_numbers() {
    let (one, other) = (Metrics::new(), Metrics::new());
    one.cache_evictions(1);
    assert_eq!(value(&one, "backstop_cache_evictions_total"), Some(1.0));
    assert_eq!(value(&other, "backstop_cache_evictions_total"), Some(0.0));
}

#[test]
fn a_session_is_in_one_state_until_it_is_dropped() {
    let metrics = Metrics::new();
    let listener = metrics.listener("mx");
    let states = || {
        ["idle", "transaction", "data"]
            .map(|state| value(&metrics, &format!(r#"backstop_sessions{{listener="mx",state="{state}"}}"#)))
    };
    let mut session = listener.session();
    let other = listener.session();
    session.is(SessionState::Transaction);
    assert_eq!(states(), [Some(1.0), Some(1.0), Some(0.0)]);
    session.is(SessionState::Data);
    session.is(SessionState::Data);
    assert_eq!(states(), [Some(1.0), Some(0.0), Some(1.0)]);
    drop((session, other));
    assert_eq!(states(), [Some(0.0), Some(0.0), Some(0.0)]);
}

#[test]
fn what_is_told_of_a_backend_is_shown() {
    let metrics = Metrics::new();
    let backend = metrics.backend("exchange", "store:25");
    let open = || {
        value(&metrics, r#"backstop_backend_connections{backend="store:25",route="exchange",use="delivery"}"#)
    };
    backend.connections(BackendUse::Delivery, 3);
    assert_eq!(open(), Some(3.0));
    backend.connections(BackendUse::Delivery, 0);
    assert_eq!(open(), Some(0.0));
    let up = || value(&metrics, r#"backstop_backend_up{backend="store:25",route="exchange"}"#);
    assert_eq!(up(), Some(0.0));
    backend.up();
    assert_eq!(up(), Some(1.0));
    backend.down();
    assert_eq!(up(), Some(0.0));
}

#[test]
fn the_cache_tells_totals() {
    let metrics = Metrics::new();
    metrics.cache(CacheKind::Bad, 7);
    metrics.cache(CacheKind::Bad, 5);
    metrics.cache_evictions(5);
    metrics.cache_evictions(7);
    metrics.cache_evictions(6);
    assert_eq!(value(&metrics, r#"backstop_cache_entries{verdict="undeliverable"}"#), Some(5.0));
    assert_eq!(value(&metrics, "backstop_cache_evictions_total"), Some(7.0));
}

#[test]
fn durations_fall_into_buckets_around_their_goals() {
    let metrics = Metrics::new();
    metrics.probed(Duration::from_millis(3));
    metrics.verified(RecipientSource::Cache, Duration::from_micros(50));
    for (series, expected) in [
        (r#"backstop_probe_duration_seconds_bucket{le="0.002"}"#, 0.0),
        (r#"backstop_probe_duration_seconds_bucket{le="0.004"}"#, 1.0),
        (r#"backstop_probe_duration_seconds_bucket{le="32.768"}"#, 1.0),
        (r#"backstop_verify_duration_seconds_bucket{source="cache",le="0.0000625"}"#, 1.0),
        (r#"backstop_verify_duration_seconds_bucket{source="cache",le="32.768"}"#, 1.0),
        (r#"backstop_transaction_added_seconds_bucket{le="0.00025"}"#, 0.0),
        (r#"backstop_session_duration_seconds_bucket{le="819.2"}"#, 0.0),
    ] {
        assert_eq!(value(&metrics, series), Some(expected), "{series}");
    }
}

#[test]
fn the_process_is_described_under_the_usual_names() {
    let metrics = Metrics::new();
    for name in ["virtual_memory_bytes", "resident_memory_bytes", "open_fds", "max_fds", "start_time_seconds"]
    {
        let value = value(&metrics, &format!("process_{name}"));
        assert!(value.is_some_and(|value| value > 0.0), "{name}: {value:?}");
    }
    assert!(value(&metrics, "process_cpu_seconds_total").is_some_and(|seconds| seconds >= 0.0));
}

#[test]
fn a_configured_name_cannot_break_the_format() {
    let metrics = Metrics::new();
    metrics.route("a\"} 1\nb").message(MessageResult::Accepted, 5);
    assert!(metrics.render().contains(r#"route="a\"} 1\nb""#));
}
