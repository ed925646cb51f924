//! The table and the goals, from one line per measurement.
//!
//! A line is `ROW FRONT UNITS SECONDS P50 P99 CPU CONNECTIONS KIB`; lines that begin with `date`, `machine`,
//! `measured` or `version` say what was measured on what. Figures are medians; a ratio is the median of the
//! ratios of measurements of the same round, for those had the same neighbours.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What one measurement says.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Measured {
    units: f64,
    seconds: f64,
    /// Microseconds a session took.
    p50: f64,
    p99: f64,
    /// Seconds of CPU.
    cpu: f64,
    /// Most that were open to the backend at once.
    connections: f64,
    kib: f64,
}

/// One of the figures of a measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Figure {
    Rate,
    CpuPerUnit,
    P50,
    P99,
    Connections,
    KibPerUnit,
}

impl Figure {
    fn of(self, measured: &Measured) -> f64 {
        match self {
            Self::Rate => measured.units / measured.seconds,
            Self::CpuPerUnit => measured.cpu / measured.units,
            Self::P50 => measured.p50,
            Self::P99 => measured.p99,
            Self::Connections => measured.connections,
            Self::KibPerUnit => measured.kib / measured.units,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Rate => "per second",
            Self::CpuPerUnit => "CPU",
            Self::P50 => "median",
            Self::P99 => "99th percentile",
            Self::Connections => "backend connections",
            Self::KibPerUnit => "KiB each",
        }
    }
}

/// A column of the table: what is shown of a row of measurements, each figure times a factor.
struct Column {
    row: &'static str,
    title: &'static str,
    shown: [(Figure, f64); 2],
}

const fn column(row: &'static str, title: &'static str, shown: [(Figure, f64); 2]) -> Column {
    Column { row, title, shown }
}

const PER_THOUSAND: [(Figure, f64); 2] = [(Figure::Rate, 1.0), (Figure::CpuPerUnit, 1e3)];
/// Of messages of 25 MB.
const PER_VOLUME: [(Figure, f64); 2] = [(Figure::Rate, 25.0), (Figure::CpuPerUnit, 40.0)];

const COLUMNS: [Column; 10] = [
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
        [(Figure::P50, 1e-3), (Figure::P99, 1e-3)],
    ),
    column(
        "idle",
        "idle connection (2000 held): KiB; backend connections",
        [(Figure::KibPerUnit, 1.0), (Figure::Connections, 1.0)],
    ),
];

/// What Backstop shall reach.
struct Goal {
    work: &'static str,
    row: &'static str,
    figure: Figure,
    bound: Bound,
    value: f64,
    /// Front and row the value is a ratio to; without, it is absolute.
    to: Option<(&'static str, &'static str)>,
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    AtMost,
    AtLeast,
}

use Bound::{AtLeast, AtMost};
use Figure::{Connections, CpuPerUnit, KibPerUnit, P50, P99, Rate};

const fn goal(
    work: &'static str,
    (row, figure): (&'static str, Figure),
    (bound, value): (Bound, f64),
    to: Option<(&'static str, &'static str)>,
) -> Goal {
    Goal { work, row, figure, bound, value, to }
}

/// The front whose goals they are.
const OURS: &str = "backstop";

const GOALS: [Goal; 14] = [
    goal("1 message per connection", ("one", CpuPerUnit), (AtMost, 0.75), Some(("haproxy", "one"))),
    goal("1 message per connection", ("one", Rate), (AtLeast, 1.1), Some(("haproxy", "one"))),
    goal("20 messages per connection", ("many", CpuPerUnit), (AtMost, 0.9), Some(("haproxy", "many"))),
    goal("25 MB messages", ("large", CpuPerUnit), (AtMost, 1.0), Some(("haproxy", "large"))),
    goal("25 MB messages, BDAT", ("chunked", CpuPerUnit), (AtMost, 1.0), Some((OURS, "large"))),
    goal("refusals, names repeated", ("repeated", CpuPerUnit), (AtMost, 0.5), Some(("haproxy", "repeated"))),
    goal("refusals, names repeated", ("repeated", Rate), (AtLeast, 2.0), Some(("haproxy", "repeated"))),
    goal("refusals, names repeated", ("repeated", CpuPerUnit), (AtMost, 1.5), Some(("none", "repeated"))),
    goal("refusals, all names new", ("new", Rate), (AtLeast, 1.0), Some(("haproxy", "new"))),
    goal("refusals, all names new", ("new", Connections), (AtMost, 10.0), None),
    goal("connect + QUIT", ("connect", CpuPerUnit), (AtMost, 1.25), Some(("nginx", "connect"))),
    goal("session of one client", ("latency", P50), (AtMost, 1.0), Some(("haproxy", "latency"))),
    goal("session of one client", ("latency", P99), (AtMost, 2.0), Some(("haproxy", "latency"))),
    goal("idle connection", ("idle", KibPerUnit), (AtMost, 3.0), None),
];

/// All that was measured.
#[derive(Debug, Default)]
struct Results {
    /// By what they describe: `date`, `machine`, `measured`.
    facts: BTreeMap<String, String>,
    /// Names and versions, in the order they were measured.
    fronts: Vec<(String, String)>,
    /// By row and front.
    measured: BTreeMap<(String, String), Vec<Measured>>,
}

/// The report on these lines, as Markdown.
pub(crate) fn table(lines: &str) -> Result<String, String> {
    let results = Results::read(lines)?;
    results.written().map_err(|fault| fault.to_string())
}

impl Results {
    fn read(lines: &str) -> Result<Self, String> {
        let mut results = Self::default();
        for line in lines.lines() {
            let (first, rest) = line.split_once(' ').ok_or_else(|| format!("not understood: {line}"))?;
            match first {
                "date" | "machine" | "measured" => {
                    results.facts.insert(first.to_owned(), rest.to_owned());
                }
                "version" => {
                    let (name, version) = rest.split_once(' ').unwrap_or((rest, rest));
                    results.fronts.push((name.to_owned(), version.to_owned()));
                }
                row => {
                    let (front, figures) = rest.split_once(' ').unwrap_or((rest, ""));
                    let measured =
                        Measured::read(figures).ok_or_else(|| format!("not understood: {line}"))?;
                    results.measured.entry((row.to_owned(), front.to_owned())).or_default().push(measured);
                }
            }
        }
        Ok(results)
    }

    fn written(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        let fact = |name| self.facts.get(name).map_or("?", String::as_str);
        writeln!(out, "# Backstop beside other fronts\n")?;
        writeln!(
            out,
            "Written by `benches/peers/run`: {}, {}, {}.",
            fact("date"),
            fact("machine"),
            fact("measured")
        )?;
        writeln!(
            out,
            "Medians of interleaved rounds; load, front and sink share the machine; CPU is user + system"
        )?;
        writeln!(out, "of the front alone. Ratios travel between machines, absolute figures hardly.\n")?;
        writeln!(out, "| front | {} |", COLUMNS.map(|column| column.title).join(" | "))?;
        writeln!(out, "|---|{}", "---|".repeat(COLUMNS.len()))?;
        for (front, version) in &self.fronts {
            let cells = COLUMNS.map(|column| self.cell(&column, front));
            writeln!(out, "| {version} | {} |", cells.join(" | "))?;
        }
        writeln!(out, "\n| work | goal | reached | met |\n|---|---|---|---|")?;
        for goal in &GOALS {
            writeln!(out, "| {} | {} | {} |", goal.work, goal.wanted(), self.verdict(goal))?;
        }
        out.truncate(out.trim_end().len());
        Ok(out)
    }

    fn cell(&self, column: &Column, front: &str) -> String {
        let values = column.shown.map(|(figure, factor)| {
            median(self.of(column.row, front).iter().map(|m| figure.of(m) * factor).collect())
        });
        match values {
            [Some(first), Some(second)] => format!("{}; {}", legible(first), legible(second)),
            _ => "–".to_owned(),
        }
    }

    /// What was reached of a goal, and whether that is enough.
    fn verdict(&self, goal: &Goal) -> String {
        let ours = self.of(goal.row, OURS).iter().map(|m| goal.figure.of(m));
        let reached = match goal.to {
            None => median(ours.collect()),
            Some((front, row)) => {
                median(ours.zip(self.of(row, front)).map(|(ours, m)| ours / goal.figure.of(m)).collect())
            }
        };
        let Some(reached) = reached else { return "– | not measured".to_owned() };
        let met = match goal.bound {
            AtMost => reached <= goal.value,
            AtLeast => reached >= goal.value,
        };
        format!("{} | {}", legible(reached), if met { "yes" } else { "**no**" })
    }

    fn of(&self, row: &str, front: &str) -> &[Measured] {
        self.measured.get(&(row.to_owned(), front.to_owned())).map_or(&[], Vec::as_slice)
    }
}

impl Measured {
    fn read(figures: &str) -> Option<Self> {
        let figures: Vec<f64> = figures.split(' ').map(|word| word.parse().ok()).collect::<Option<_>>()?;
        let [units, seconds, p50, p99, cpu, connections, kib] = figures.try_into().ok()?;
        Some(Self { units, seconds, p50, p99, cpu, connections, kib })
    }
}

impl Goal {
    fn wanted(&self) -> String {
        let bound = match self.bound {
            AtMost => '≤',
            AtLeast => '≥',
        };
        match self.to {
            None => format!("{} {bound} {}", self.figure.name(), self.value),
            Some((front, row)) => {
                let what = if row == self.row { "" } else { " with DATA" };
                format!("{} {bound} {} × {front}{what}", self.figure.name(), self.value)
            }
        }
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (lower, upper) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some(f64::midpoint(*lower, *upper))
}

/// Three significant digits.
fn legible(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        0.1.. => format!("{value:.2}"),
        0.01.. => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "date 2020-01-01
machine 2 × any
measured 2 rounds
version none no front
version haproxy HAProxy
version backstop Backstop
new haproxy 1000 1.0 0 0 0.020 50 0
new backstop 900 1.0 0 0 0.030 9 0
new haproxy 500 1.0 0 0 0.010 50 0
new backstop 600 1.0 0 0 0.018 8 0";

    #[test]
    fn figures_are_medians_and_what_was_not_measured_is_a_dash() {
        let table = table(LINES).unwrap();
        let row = table.lines().find(|line| line.starts_with("| Backstop")).unwrap();
        assert_eq!(row, "| Backstop | – | – | – | – | – | – | 750; 0.032 | – | – | – |");
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let table = table(LINES).unwrap();
        assert!(
            table.contains("| refusals, all names new | per second ≥ 1 × haproxy | 1.05 | yes |"),
            "{table}"
        );
        assert!(table.contains("| refusals, all names new | backend connections ≤ 10 | 8.50 | yes |"));
        assert!(table.contains("| idle connection | KiB each ≤ 3 | – | not measured |"));
    }

    #[test]
    fn a_torn_line_is_a_fault() {
        assert!(table("new haproxy 1000").is_err());
    }
}
