//! The table and the goals, from one line per measurement.
//!
//! A line is `ROUND ROW FRONT UNITS SECONDS P50 P99 CPU CONNECTIONS KIB`; lines that begin with `date`,
//! `machine`, `measured` or `version` say what was measured on what. Figures are medians; a ratio is the
//! median of the ratios of measurements of the same round, for those had the same neighbours.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::figure::{Figure, Measured};
use crate::goals::{COLUMNS, Column, GOALS, Goal, OURS, Than};

/// All that was measured.
#[derive(Debug, Default)]
struct Results {
    /// By what they describe: `date`, `machine`, `measured`.
    facts: BTreeMap<String, String>,
    /// Names and versions, in the order they were measured.
    fronts: Vec<(String, String)>,
    /// By row and front, then by round.
    measured: BTreeMap<(String, String), BTreeMap<u32, Measured>>,
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
                round => {
                    let fault = || format!("not understood: {line}");
                    let round = round.parse().map_err(|_| fault())?;
                    let (row, front, measured) = Measured::read(rest).ok_or_else(fault)?;
                    results.measured.entry((row, front)).or_default().insert(round, measured);
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
        let measured = self.of(column.row, front);
        let value = |(figure, factor): &(Figure, f64)| {
            figure.summary(measured.clone().map(|(_, m)| figure.of(m) * factor).collect()).map(legible)
        };
        let values: Option<Vec<String>> = column.shown.iter().map(value).collect();
        let Some(values) = values else { return "–".to_owned() };
        // What a front did not bear is told, not left out of the median in silence.
        let lost = self.rounds().saturating_sub(measured.count());
        let note = if lost == 0 { String::new() } else { format!(" (failed in {lost})") };
        values.join("; ") + &note
    }

    fn rounds(&self) -> usize {
        self.measured.values().map(BTreeMap::len).max().unwrap_or_default()
    }

    /// What was reached of a goal, and whether that is enough.
    fn verdict(&self, goal: &Goal) -> String {
        let figure = goal.figure;
        let ours = self.of(goal.row, OURS).map(|(round, m)| (round, figure.of(m)));
        let (row, front) = match goal.than {
            Than::Nothing => return judged(goal, figure.summary(ours.map(|(_, ours)| ours).collect())),
            Than::Front(front) => (goal.row, front),
            Than::Row(row) => (row, OURS),
        };
        let theirs: BTreeMap<&u32, &Measured> = self.of(row, front).collect();
        let ratios = ours.filter_map(|(round, ours)| Some(ours / figure.of(theirs.get(round)?)));
        judged(goal, figure.summary(ratios.collect()))
    }

    /// By round.
    fn of(&self, row: &str, front: &str) -> impl Iterator<Item = (&u32, &Measured)> + Clone {
        self.measured.get(&(row.to_owned(), front.to_owned())).into_iter().flatten()
    }
}

fn judged(goal: &Goal, reached: Option<f64>) -> String {
    match reached {
        None => "– | not measured".to_owned(),
        Some(reached) if goal.is_met_by(reached) => format!("{} | yes", legible(reached)),
        Some(reached) => format!("{} | **no**", legible(reached)),
    }
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
1 new haproxy 1000 1.0 0 0 0.020 50 0
1 new backstop 900 1.0 0 0 0.030 9 0
2 new haproxy 500 1.0 0 0 0.010 50 0
2 new backstop 600 1.0 0 0 0.018 8 0
3 new haproxy 1 1.0 0 0 0.010 50 0";

    #[test]
    fn figures_are_medians_and_what_was_not_measured_is_a_dash() {
        let table = table(LINES).unwrap();
        let row = table.lines().find(|line| line.starts_with("| Backstop")).unwrap();
        assert_eq!(
            row,
            "| Backstop | – | – | – | – | – | – | 750; 0.032 (failed in 1) | – | – | – | – | – | – |"
        );
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
        assert!(table("1 new haproxy 1000").is_err());
    }
}
