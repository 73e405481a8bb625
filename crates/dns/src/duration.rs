//! Go's notation of time spans: `1h2m3.5s`, `250ms`, `0`.
//!
//! Upstream rule: Go's `time.ParseDuration`.

use std::time::Duration;

/// Parses a span that is not negative.
///
/// # Errors
/// In words, when the text is none.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration such as 30s, 1m30s or 250ms");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos = 0.0_f64;
    while !rest.is_empty() || text.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(bad()),
        };
        rest = &rest[letters..];
        nanos += number * unit;
    }
    Duration::try_from_secs_f64(nanos / 1e9).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_go_does() {
        for (text, millis) in [("5s", 5000), ("1m30s", 90_000), ("1.5s", 1500), ("0", 0)] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1x", "1..s", "1s2"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
