//! What is measured for the table, and what Backstop shall reach.

use crate::figure::Figure;

/// A column of the table: what is shown of a row of measurements, each figure times a factor.
pub(crate) struct Column {
    pub(crate) row: &'static str,
    pub(crate) title: &'static str,
    pub(crate) shown: &'static [(Figure, f64)],
}

const fn column(row: &'static str, title: &'static str, shown: &'static [(Figure, f64)]) -> Column {
    Column { row, title, shown }
}

const PER_THOUSAND: &[(Figure, f64)] = &[(Figure::Rate, 1.0), (Figure::CpuPerUnit, 1e3)];
/// Of messages of 25 MB.
const PER_VOLUME: &[(Figure, f64)] = &[(Figure::Rate, 25.0), (Figure::CpuPerUnit, 40.0)];

pub(crate) const COLUMNS: [Column; 13] = [
    column("one", "4 KiB message, 1 per connection (50 clients): per s; CPU-s per 1000", PER_THOUSAND),
    column("many", "20 per connection: per s; CPU-s per 1000", PER_THOUSAND),
    column("large", "25 MB messages (4 clients): MB/s; CPU-s per GB", PER_VOLUME),
    column("chunked", "the same with BDAT: MB/s; CPU-s per GB", PER_VOLUME),
    column("repeated", "refusals, 1000 names repeated: per s; CPU-s per 1000", PER_THOUSAND),
    column("together", "the same, 16 RCPTs a write: per s; CPU-s per 1000", PER_THOUSAND),
    column("new", "refusals, all names new: per s; CPU-s per 1000", PER_THOUSAND),
    column("connect", "connect + QUIT: per s; CPU-s per 1000", PER_THOUSAND),
    column(
        "latency",
        "session of one client: median ms; 99th percentile",
        &[(Figure::P50, 1e-3), (Figure::P99, 1e-3)],
    ),
    column("idle", "idle connection (7500 held): KiB each", &[(Figure::KibPerUnit, 1.0)]),
    column("starttls", "STARTTLS + QUIT (HAProxy: implicit TLS): per s; CPU-s per 1000", PER_THOUSAND),
    column("sealed", "idle inside TLS (3000 held): KiB each", &[(Figure::KibPerUnit, 1.0)]),
    column("behind", "1 message per connection before a real Postfix: per s; CPU-s per 1000", PER_THOUSAND),
];

/// What Backstop shall reach with a row.
pub(crate) struct Goal {
    pub(crate) work: &'static str,
    pub(crate) row: &'static str,
    pub(crate) figure: Figure,
    pub(crate) bound: Bound,
    pub(crate) than: Than,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// What the bound is a multiple of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Than {
    /// What this front does with the same row.
    Front(&'static str),
    /// What Backstop itself does with another row.
    Row(&'static str),
    /// One.
    Nothing,
}

use Bound::{AtLeast, AtMost};
use Figure::{Connections, CpuPerUnit, KibPerUnit, P50, P99, Rate};
use Than::{Front, Nothing, Row};

const fn goal(work: &'static str, row: &'static str, figure: Figure, bound: Bound, than: Than) -> Goal {
    Goal { work, row, figure, bound, than }
}

/// The front whose goals they are.
pub(crate) const OURS: &str = "backstop";

pub(crate) const GOALS: [Goal; 21] = [
    goal("1 message per connection", "one", CpuPerUnit, AtMost(0.75), Front("haproxy")),
    goal("1 message per connection", "one", Rate, AtLeast(1.1), Front("haproxy")),
    goal("20 messages per connection", "many", CpuPerUnit, AtMost(0.9), Front("haproxy")),
    goal("25 MB messages", "large", CpuPerUnit, AtMost(1.0), Front("haproxy")),
    goal("25 MB messages, BDAT", "chunked", CpuPerUnit, AtMost(1.0), Row("large")),
    goal("refusals, names repeated", "repeated", CpuPerUnit, AtMost(0.5), Front("haproxy")),
    goal("refusals, names repeated", "repeated", Rate, AtLeast(2.0), Front("haproxy")),
    goal("refusals, names repeated", "repeated", CpuPerUnit, AtMost(1.5), Front("none")),
    goal("refusals, all names new", "new", Rate, AtLeast(1.0), Front("haproxy")),
    goal("refusals, all names new", "new", Connections, AtMost(10.0), Nothing),
    goal("connect + QUIT", "connect", CpuPerUnit, AtMost(1.25), Front("nginx")),
    goal("session of one client", "latency", P50, AtMost(1.0), Front("haproxy")),
    goal("session of one client", "latency", P99, AtMost(2.0), Front("haproxy")),
    goal("idle connection", "idle", KibPerUnit, AtMost(3.0), Nothing),
    goal("idle connection inside TLS", "sealed", KibPerUnit, AtMost(16.0), Nothing),
    // Handshakes for a second of CPU, 0.9 times as many.
    goal("STARTTLS", "starttls", CpuPerUnit, AtMost(1.11), Front("haproxy")),
    goal("before a real Postfix", "behind", Rate, AtLeast(1.0), Front("none")),
    goal("refusals, two workers", "repeated", CpuPerUnit, AtMost(1.1), Front("alone")),
    goal("1 message per connection, two workers", "one", CpuPerUnit, AtMost(1.1), Front("alone")),
    goal("lookup among ten million entries", "lookups", CpuPerUnit, AtMost(0.05), Row("repeated")),
    goal("cache entry, of ten million", "entries", KibPerUnit, AtMost(0.0977), Nothing),
];

impl Goal {
    /// In words.
    pub(crate) fn wanted(&self) -> String {
        let (sign, value) = match self.bound {
            AtMost(value) => ('≤', value),
            AtLeast(value) => ('≥', value),
        };
        let than = match self.than {
            Front("none") => " × no front".to_owned(),
            Front("alone") => " × one worker".to_owned(),
            Front(front) => format!(" × {front}"),
            Row(row) => format!(" × {row}"),
            Nothing => String::new(),
        };
        format!("{} {sign} {value}{than}", self.figure.name())
    }

    /// Whether this value is good enough.
    pub(crate) fn is_met_by(&self, reached: f64) -> bool {
        match self.bound {
            AtMost(value) => reached <= value,
            AtLeast(value) => reached >= value,
        }
    }
}
