//! Text from a peer is data: bounded and escaped before anybody reads it.

use std::fmt::{self, Write as _};

/// Characters shown of a text at most.
const MAX_SHOWN: usize = 256;

/// Shows a text with everything unprintable escaped, cut to 256 characters.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'t>(pub &'t str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shown, c) in self.0.chars().enumerate() {
            if shown == MAX_SHOWN {
                return f.write_char('…');
            }
            // Bidirectional controls and separators reorder or break what a reader sees.
            let unsafe_format = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
            if c.is_control() || unsafe_format {
                write!(f, "{}", c.escape_unicode())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_harmful_is_shown() {
        let shown = Escaped("a\x1b[31m\r\nb\u{202e}c\0").to_string();
        assert_eq!(shown, "a\\u{1b}[31m\\u{d}\\u{a}b\\u{202e}c\\u{0}");
        assert_eq!(Escaped("pelé@bücher.example").to_string(), "pelé@bücher.example");
        assert_eq!(Escaped(&"x".repeat(10_000)).to_string().chars().count(), MAX_SHOWN + 1);
    }
}
