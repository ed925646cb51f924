//! What a client asked for within the last hour.
//!
//! A window that slides: twenty-one spans of three minutes, the oldest of which counts for as much of it as is still within
//! the hour. What is younger than 57 minutes counts fully, what is older than 63 not at all: the hour holds within 5 %.

/// Seconds of a span.
const SPAN: u32 = 180;
/// Spans in an hour.
const HOUR: u8 = 20;
/// Spans kept: the one that is going on, and an hour before it.
const SPANS: u8 = HOUR + 1;

/// Seconds since the table of clients began.
pub(super) type Second = u32;

/// Recipients a client asked for, by what it was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// The mail store does not know them.
    pub unknown: u32,
    /// They were accepted.
    pub known: u32,
}

/// The tally of each span.
#[derive(Debug, Default)]
pub(super) struct Hour {
    /// By number of the span, modulo their number.
    spans: [Span; SPANS as usize],
    /// When something was added last.
    seen: Second,
}

#[derive(Debug, Clone, Copy, Default)]
struct Span {
    unknown: u16,
    known: u16,
}

impl Tally {
    /// Whether these are too many unknown ones, where `most` are not: more than that, and more than 80 % of all.
    #[must_use]
    pub const fn exceeds(self, most: u32) -> bool {
        self.unknown > most && self.unknown > self.known.saturating_mul(4)
    }

    /// How many more unknown ones it takes until they are too many; at least one.
    #[must_use]
    pub fn allowance(self, most: u32) -> u32 {
        let least = most.max(self.known.saturating_mul(4));
        least.saturating_add(1).saturating_sub(self.unknown).max(1)
    }

    /// How many more may be unknown while they are not more than 80 % of all.
    #[must_use]
    pub const fn spare(self) -> u32 {
        self.known.saturating_mul(4).saturating_sub(self.unknown)
    }

    /// All that was asked for and answered.
    #[must_use]
    pub const fn asked(self) -> u32 {
        self.unknown.saturating_add(self.known)
    }

    /// Whether there was none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.asked() == 0
    }
}

impl Hour {
    /// One that begins now, with nothing in it.
    pub(super) fn new(now: Second) -> Self {
        Self { spans: Default::default(), seen: now }
    }

    /// When something was added last.
    pub(super) const fn seen(&self) -> Second {
        self.seen
    }

    /// Adds what was asked for now.
    pub(super) fn add(&mut self, now: Second, tally: Tally) {
        let (newest, current) = (self.seen / SPAN, now / SPAN);
        for behind in 1..=current.saturating_sub(newest).min(SPANS.into()) {
            self.spans[place(newest.wrapping_add(behind))] = Span::default();
        }
        self.seen = self.seen.max(now);
        self.spans[place(current)].add(tally);
    }

    /// Makes it what somebody who knows better has counted: what is more came now, what is less was the oldest.
    pub(super) fn agree(&mut self, now: Second, counted: Tally) {
        let before = self.tally(now);
        self.add(now, counted.beyond(before));
        if before.beyond(counted).is_empty() {
            return;
        }
        let current = now / SPAN;
        let first = current.saturating_sub(u32::from(HOUR) - 1);
        if let Some(oldest) = current.checked_sub(HOUR.into()) {
            self.spans[place(oldest)] = Span::default();
        }
        let mut left = counted;
        for number in (first..=current).rev() {
            let span = &mut self.spans[place(number)];
            let kept = Tally {
                unknown: left.unknown.min(span.unknown.into()),
                known: left.known.min(span.known.into()),
            };
            *span = Span::default();
            span.add(kept);
            left = left.beyond(kept);
        }
        // Of the oldest, which counted in part.
        self.spans[place(first)].add(left);
    }

    /// What was asked for within the hour before now.
    pub(super) fn tally(&self, now: Second) -> Tally {
        let (newest, current) = (self.seen / SPAN, now / SPAN);
        let mut whole = Tally::default();
        // Spans behind the newest are what they were an hour and more ago.
        for number in current.saturating_sub(u32::from(HOUR) - 1)..=current.min(newest) {
            whole = whole.plus(self.span(newest, number));
        }
        let Some(oldest) = current.checked_sub(HOUR.into()) else { return whole };
        let within = SPAN - now % SPAN;
        let Tally { unknown, known } = self.span(newest, oldest);
        whole.plus(Tally { unknown: unknown * within / SPAN, known: known * within / SPAN })
    }

    /// What is known of a span, where it is still kept.
    fn span(&self, newest: u32, number: u32) -> Tally {
        if number > newest || newest - number > HOUR.into() {
            return Tally::default();
        }
        let Span { unknown, known } = self.spans[place(number)];
        Tally { unknown: unknown.into(), known: known.into() }
    }
}

impl Tally {
    /// How much more it is than another.
    pub(super) const fn beyond(self, other: Self) -> Self {
        Self {
            unknown: self.unknown.saturating_sub(other.unknown),
            known: self.known.saturating_sub(other.known),
        }
    }

    pub(super) const fn plus(self, other: Self) -> Self {
        Self {
            unknown: self.unknown.saturating_add(other.unknown),
            known: self.known.saturating_add(other.known),
        }
    }
}

impl Span {
    /// Where one of the two does not fit any more both are halved: what counts then is how they compare.
    fn add(&mut self, tally: Tally) {
        let (mut unknown, mut known) = (
            u32::from(self.unknown).saturating_add(tally.unknown),
            u32::from(self.known).saturating_add(tally.known),
        );
        while unknown.max(known) > u32::from(u16::MAX) {
            (unknown, known) = (unknown / 2, known / 2);
        }
        self.unknown = u16::try_from(unknown).unwrap_or(u16::MAX);
        self.known = u16::try_from(known).unwrap_or(u16::MAX);
    }
}

const fn place(span: u32) -> usize {
    span as usize % SPANS as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNKNOWN: Tally = Tally { unknown: 1, known: 0 };

    #[test]
    fn the_hour_holds_within_5_percent() {
        // Guesses at irregular times; at each second the count lies between those of 57 and of 63 minutes.
        let mut hour = Hour::new(17);
        let mut guesses: Vec<u32> = Vec::new();
        let mut random = 12_345_u32;
        for now in 17..20_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Busy and quiet times take turns, some quiet ones longer than all that is kept.
            if random >> 24 < [40, 3, 0, 0, 90][now as usize / 1777 % 5] {
                hour.add(now, UNKNOWN);
                guesses.push(now);
            }
            let within = |seconds: u32| guesses.iter().filter(|&&at| at + seconds > now).count();
            let counted = hour.tally(now).unknown as usize;
            assert!((within(57 * 60)..=within(63 * 60)).contains(&counted), "{counted} at {now}");
        }
        assert!(guesses.len() > 1000);
    }

    #[test]
    fn what_somebody_else_counted_is_taken_over_and_ages_as_it_did() {
        let tally = |unknown, known| Tally { unknown, known };
        let mut hour = Hour::new(0);
        hour.agree(100, tally(60, 5));
        hour.agree(2000, tally(100, 5));
        assert_eq!(hour.tally(2000), tally(100, 5));
        hour.agree(3650, tally(70, 5));
        assert_eq!(hour.tally(3650), tally(70, 5));
        // The forty that came later are still there when the others are an hour old.
        hour.agree(4000, tally(40, 2));
        assert_eq!(hour.tally(5500), tally(40, 2));
        assert_eq!(hour.tally(2000 + 63 * 60).unknown, 0);
        hour.agree(9000, Tally::default());
        assert_eq!(hour.tally(9000), Tally::default());
    }

    #[test]
    fn a_steady_rate_is_counted_as_what_it_is() {
        let mut hour = Hour::new(0);
        for guess in 0..500 {
            let now = guess * 36;
            hour.add(now, UNKNOWN);
            if now >= 3600 {
                assert!(
                    (99..=101).contains(&hour.tally(now).unknown),
                    "{} at {now}",
                    hour.tally(now).unknown
                );
            }
        }
    }

    #[test]
    fn too_many_are_more_than_the_limit_and_more_than_four_in_five() {
        let tally = |unknown, known| Tally { unknown, known };
        for (unknown, known, too_many) in [
            (100, 0, false),
            (101, 0, true),
            (101, 25, true),
            (101, 26, false),
            (104, 26, false),
            (105, 26, true),
            (700, 300, false),
            (0, 0, false),
        ] {
            let tally = tally(unknown, known);
            assert_eq!(tally.exceeds(100), too_many, "{tally:?}");
            if !too_many {
                let allowance = tally.allowance(100);
                let after = |more| Tally { unknown: unknown + more, known }.exceeds(100);
                assert!(!after(allowance - 1) && after(allowance), "{tally:?}");
            }
        }
        assert_eq!(tally(200, 0).allowance(100), 1, "never none at all");
    }

    #[test]
    fn numbers_that_do_not_fit_keep_their_relation() {
        let mut hour = Hour::new(0);
        hour.add(0, Tally { unknown: 900_000, known: 100_000 });
        let Tally { unknown, known } = hour.tally(0);
        assert!(unknown > 30_000 && (unknown / 9).abs_diff(known) < 10, "{unknown} {known}");
    }
}
