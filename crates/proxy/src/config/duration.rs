//! Go's notation of time spans: `1h2m3.5s`, `250ms`, `0`.
//!
//! Upstream rule: Go's `time.ParseDuration` and `metav1.Duration`.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serializer};

/// Parses a span.
///
/// # Errors
/// In words, when the text is no span or is negative.
pub fn parse(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration such as 30s, 1m30s or 250ms");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(bad());
    }
    let mut nanos = 0.0_f64;
    while !rest.is_empty() {
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

/// Writes a span as Go does.
#[must_use]
pub fn format(span: Duration) -> String {
    let total = span.as_nanos();
    if total == 0 {
        return "0s".into();
    }
    let decimal = |value: u128, unit: u128, name: &str| {
        let fraction = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        let dot = if fraction.is_empty() { "" } else { "." };
        format!("{}{dot}{fraction}{name}", value / unit)
    };
    match total {
        ..1_000 => format!("{total}ns"),
        1_000..1_000_000 => decimal(total, 1_000, "µs"),
        1_000_000..1_000_000_000 => decimal(total, 1_000_000, "ms"),
        _ => {
            let (minutes, nanos) = (total / 60_000_000_000, total % 60_000_000_000);
            let seconds = decimal(nanos, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

/// A span in the configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Span(pub Duration);

impl serde::Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format(self.0))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).map(Self).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written_as_go_does() {
        for (text, millis) in [
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("15m0s", 900_000),
            ("1h0m0s", 3_600_000),
            ("250ms", 250),
            ("1.5s", 1_500),
        ] {
            let span = Duration::from_millis(millis);
            assert_eq!(parse(text), Ok(span));
            assert_eq!(format(span), text);
        }
        assert_eq!(parse("0"), Ok(Duration::ZERO));
        assert_eq!(format(Duration::ZERO), "0s");
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for text in ["", "5", "s", "-1s", "1x", "1..s", "1s2"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
