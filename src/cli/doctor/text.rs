//! The report as a person reads it: per backend what it is, what is wrong, what to do, what is well.

use std::fmt;

use super::{Examined, Report};
use crate::verify::examine::dnsbl::Listing;
use crate::verify::examine::facts::Reach;
use crate::verify::examine::judge::{Finding, Severity};

/// Columns used.
const WIDTH: usize = 100;
/// Where text begins behind the word that says how much it matters.
const INDENT: usize = 10;

/// Whether words are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    On,
    Off,
}

/// A report, ready to be printed.
pub(super) struct Screen<'r> {
    pub(super) report: &'r Report,
    pub(super) colour: Colour,
}

impl fmt::Display for Screen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for backend in &self.report.backends {
            self.backend(backend, f)?;
        }
        let lists = &self.report.lists;
        if !lists.lookups.is_empty() {
            self.bold(f, "DNS blocklists")?;
            writeln!(f)?;
            lists.findings.iter().try_for_each(|finding| self.finding(finding, f))?;
            for lookup in lists.lookups.iter().filter(|lookup| lookup.listing == Listing::Clear) {
                self.line(f, "32", "ok", &format!("{} is not on {}", lookup.subject, lookup.zone))?;
            }
            writeln!(f)?;
        }
        let count = |severity| self.report.findings().filter(|f| f.severity == severity).count();
        let told = [(Severity::Fault, "fault"), (Severity::Warning, "warning"), (Severity::Note, "note")]
            .map(|(severity, word)| plural(count(severity), word));
        writeln!(f, "{}: {}", plural(self.report.backends.len(), "backend"), told.join(", "))
    }
}

impl Screen<'_> {
    fn backend(&self, examined: &Examined, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Examined { target, facts, judgement, took } = examined;
        self.bold(f, &target.role.address)?;
        let roles =
            [("takes mail for", &target.delivers_for), ("is asked about recipients of", &target.asked_by)];
        let roles: Vec<String> = roles
            .iter()
            .filter(|(_, routes)| !routes.is_empty())
            .map(|(role, routes)| format!("{role} {}", routes.join(", ")))
            .collect();
        writeln!(f, "  {}", roles.join("; "))?;
        if let Reach::Open { took: reached, announced, .. } = &facts.reach {
            let offers: Vec<String> = announced.lines().collect();
            let offers = if offers.is_empty() { "nothing".to_owned() } else { offers.join(", ") };
            let told = format!(
                "reached in {} ms, examined in {:.1} s; announces {offers}",
                reached.as_millis(),
                took.as_secs_f64()
            );
            paragraph(f, 2, 2, &told)?;
        }
        if target.left_out > 0 {
            writeln!(f, "  {} are not asked about", plural(target.left_out, "more domain"))?;
        }
        writeln!(f)?;
        judgement.findings.iter().try_for_each(|finding| self.finding(finding, f))?;
        for well in &judgement.well {
            self.line(f, "32", "ok", well)?;
        }
        if judgement.well.is_empty() { Ok(()) } else { writeln!(f) }
    }

    fn finding(&self, finding: &Finding, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (colour, word) = match finding.severity {
            Severity::Fault => ("1;31", "FAULT"),
            Severity::Warning => ("33", "warning"),
            Severity::Note => ("36", "note"),
        };
        self.line(f, colour, word, &format!("{} [{}]", finding.what, finding.id))?;
        paragraph(f, INDENT, INDENT, &finding.means)?;
        if !finding.remedy.is_empty() {
            paragraph(f, INDENT, INDENT + 3, &format!("-> {}", finding.remedy))?;
        }
        writeln!(f)
    }

    /// A word in its column, and a text behind it.
    fn line(&self, f: &mut fmt::Formatter<'_>, colour: &str, word: &str, text: &str) -> fmt::Result {
        let word = format!("{word:<width$}", width = INDENT - 2);
        match self.colour {
            Colour::On => write!(f, "  \x1b[{colour}m{word}\x1b[0m")?,
            Colour::Off => write!(f, "  {word}")?,
        }
        wrapped(f, INDENT, INDENT, text)
    }

    fn bold(&self, f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
        match self.colour {
            Colour::On => write!(f, "\x1b[1m{text}\x1b[0m"),
            Colour::Off => f.write_str(text),
        }
    }
}

fn paragraph(f: &mut fmt::Formatter<'_>, first: usize, rest: usize, text: &str) -> fmt::Result {
    write!(f, "{:first$}", "")?;
    wrapped(f, first, rest, text)
}

/// `text` in lines, the first of which begins at `column`. Words are never cut.
fn wrapped(f: &mut fmt::Formatter<'_>, mut column: usize, indent: usize, text: &str) -> fmt::Result {
    let mut fresh = true;
    for word in text.split_ascii_whitespace() {
        let length = word.chars().count();
        if !fresh && column + 1 + length > WIDTH {
            write!(f, "\n{:indent$}", "")?;
            (column, fresh) = (indent, true);
        }
        if !fresh {
            f.write_str(" ")?;
            column += 1;
        }
        f.write_str(word)?;
        column += length;
        fresh = false;
    }
    writeln!(f)
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}
