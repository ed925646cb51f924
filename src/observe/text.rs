//! The form of a text line, as `tracing` writes it, made cheaply: each refusal has its line, which was half of what one from memory cost.
//!
//! Nearly all that is logged is plain text, which needs no look at each character, and a second has one date.

use std::cell::RefCell;
use std::error::Error;
use std::fmt::{self, Debug, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::{RecordFields, VisitOutput as _};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};
use tracing_subscriber::fmt::time::FormatTime;

use crate::proto::received::civil;

/// `message key=value …`, texts between quotes.
#[derive(Debug)]
pub(super) struct Fields;

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = Line { writer, empty: true, outcome: Ok(()) };
        fields.record(&mut line);
        line.outcome
    }
}

struct Line<'w> {
    writer: Writer<'w>,
    empty: bool,
    outcome: fmt::Result,
}

impl Line<'_> {
    /// Whether a field needs nothing that only `tracing` knows of: colours, and what is no value.
    fn is_simple(&self, field: &Field) -> bool {
        let name = field.name();
        !self.writer.has_ansi_escapes()
            && name != "message"
            && !name.starts_with("r#")
            && !name.starts_with("log.")
    }

    fn simply(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        if self.outcome.is_err() {
            return;
        }
        let space = if std::mem::replace(&mut self.empty, false) { "" } else { " " };
        let named = [space, field.name(), "="].into_iter().try_for_each(|part| self.writer.write_str(part));
        self.outcome = named.and_then(|()| value(&mut self.writer));
    }

    fn as_tracing_does(&mut self, record: impl FnOnce(&mut DefaultVisitor<'_>)) {
        if self.outcome.is_err() {
            return;
        }
        let mut visitor =
            DefaultVisitor::new(self.writer.by_ref(), std::mem::replace(&mut self.empty, false));
        record(&mut visitor);
        self.outcome = visitor.finish();
    }
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if self.is_simple(field) && value.bytes().all(is_plain) {
            self.simply(field, |writer| {
                ["\"", value, "\""].into_iter().try_for_each(|part| writer.write_str(part))
            });
        } else {
            self.as_tracing_does(|visitor| visitor.record_str(field, value));
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.as_tracing_does(|visitor| visitor.record_error(field, value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if self.is_simple(field) {
            self.simply(field, |writer| write!(writer, "{value:?}"));
        } else {
            self.as_tracing_does(|visitor| visitor.record_debug(field, value));
        }
    }
}

/// Whether it stands between quotes as it is.
const fn is_plain(octet: u8) -> bool {
    matches!(octet, b' '..=b'~') && !matches!(octet, b'"' | b'\\')
}

/// `2026-01-31T23:59:59.123456Z`.
#[derive(Debug)]
pub(super) struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        SECOND.with_borrow_mut(|(second, text)| {
            if text.is_empty() || *second != now.as_secs() {
                *second = now.as_secs();
                text.clear();
                date(*second, text)?;
            }
            writer.write_str(text)?;
            let (mut fraction, mut rest) = (*b".000000Z", now.subsec_micros());
            for place in fraction.iter_mut().skip(1).take(6).rev() {
                *place = b'0' + u8::try_from(rest % 10).unwrap_or_default();
                rest /= 10;
            }
            writer.write_str(str::from_utf8(&fraction).unwrap_or_default())
        })
    }
}

thread_local! {
    /// The last second that was written, and how.
    static SECOND: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

fn date(seconds: u64, text: &mut String) -> fmt::Result {
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    write!(text, "{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}", month + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::captured::{Buffer, captured};
    use super::super::log::Format;
    use super::*;

    /// What `tracing` itself would write.
    fn by_default(told: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let sink = buffer.clone();
        let subscriber =
            tracing_subscriber::fmt().with_writer(move || sink.clone()).with_ansi(false).finish();
        tracing::subscriber::with_default(subscriber, told);
        buffer.text()
    }

    fn behind_the_time(line: &str) -> &str {
        line.split_once(' ').expect("a time").1
    }

    proptest! {
        #[test]
        fn a_line_is_what_tracing_would_write(text in ".{0,40}", plain in "[ -~]{0,40}", number: i64) {
            let tell = || tracing::info!(text, plain, number, shown = %text, debug = ?plain, "a message of {number}");
            let (ours, theirs) = (captured(Format::Text, "info", tell), by_default(tell));
            prop_assert_eq!(behind_the_time(&ours), behind_the_time(&theirs));
        }
    }

    #[test]
    fn a_date_is_as_in_rfc_3339() {
        for (seconds, written) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_769_903_999, "2026-01-31T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            let mut text = String::new();
            date(seconds, &mut text).unwrap();
            assert_eq!(text, written);
        }
    }

    #[test]
    fn a_time_has_six_digits_behind_the_second() {
        let line = captured(Format::Text, "info", || tracing::info!("x"));
        let (time, _) = line.split_once(' ').unwrap();
        assert!(time.len() == "2026-01-31T23:59:59.123456Z".len() && time.ends_with('Z'), "{time}");
        assert_eq!(time.as_bytes()[19], b'.');
    }
}
