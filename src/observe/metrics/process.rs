//! What is true of the whole process: the `process_*` family, read from `/proc/self` at each scrape, and its log.
//!
//! What cannot be read is left out: a number that is missing is seen, a 0 would be believed. The start time
//! is ours and not the kernel's, which counts from a boot time that `ProcSubset=pid` hides.

use std::time::{SystemTime, UNIX_EPOCH};

use procfs::process::{LimitValue, Process};
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};

use crate::observe::log;

/// What is known of this process now.
pub(super) fn families(started: SystemTime) -> Vec<MetricFamily> {
    let since_epoch = started.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut families = counter(
        "backstop_log_lines_lost_total",
        "Log lines not written since whoever takes them is too slow.",
        as_f64(log::lost()),
    );
    families.extend(gauge(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        since_epoch.as_secs_f64(),
    ));
    if let Ok(process) = Process::myself() {
        families.extend(times_and_memory(&process));
        families.extend(descriptors(&process));
    }
    families
}

fn times_and_memory(process: &Process) -> Vec<MetricFamily> {
    let Ok(stat) = process.stat() else { return Vec::new() };
    let cpu = as_f64(stat.utime.saturating_add(stat.stime)) / as_f64(procfs::ticks_per_second());
    let resident = as_f64(stat.rss) * as_f64(procfs::page_size());
    let mut families =
        counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", cpu);
    families.extend(gauge(
        "process_virtual_memory_bytes",
        "Virtual memory size in bytes.",
        as_f64(stat.vsize),
    ));
    families.extend(gauge("process_resident_memory_bytes", "Resident memory size in bytes.", resident));
    families
}

fn descriptors(process: &Process) -> Vec<MetricFamily> {
    let mut families = Vec::new();
    if let Ok(open) = process.fd_count() {
        families.extend(gauge("process_open_fds", "Number of open file descriptors.", as_f64(open as u64)));
    }
    if let Ok(limits) = process.limits() {
        let max = match limits.max_open_files.soft_limit {
            LimitValue::Value(max) => as_f64(max),
            LimitValue::Unlimited => f64::INFINITY,
        };
        families.extend(gauge("process_max_fds", "Maximum number of open file descriptors.", max));
    }
    families
}

/// A counter made anew for each scrape: one that is kept would have to be moved by differences, which two
/// scrapes at once would both add.
fn counter(name: &str, help: &str, value: f64) -> Vec<MetricFamily> {
    let counter = Counter::new(name, help).expect("names in this file are well formed");
    counter.inc_by(value);
    counter.collect()
}

fn gauge(name: &str, help: &str, value: f64) -> Vec<MetricFamily> {
    let gauge = Gauge::new(name, help).expect("names in this file are well formed");
    gauge.set(value);
    gauge.collect()
}

/// Prometheus knows floating point alone; exact up to 2^53.
fn as_f64(number: u64) -> f64 {
    number as f64
}
