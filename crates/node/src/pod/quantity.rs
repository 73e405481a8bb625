//! Resource quantities, as far as environment variables, files and QoS classes need them.

/// A quantity in thousandths; none when it is not one. Exact for what fits 128 bits.
fn thousandths(text: &str) -> Option<i128> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-' || c == '+'));
    let (number, suffix) = text.split_at(digits.unwrap_or(text.len()));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 9 || number.is_empty() {
        return None;
    }
    let negative = whole.starts_with('-');
    let whole = whole.trim_start_matches(['-', '+']);
    let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let (numerator, denominator): (i128, i128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1000),
        "m" => (1, 1),
        "" => (1000, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1000 << 10, 1),
        "Mi" => (1000 << 20, 1),
        "Gi" => (1000 << 30, 1),
        "Ti" => (1000 << 40, 1),
        "Pi" => (1000 << 50, 1),
        "Ei" => (1000_i128 << 60, 1),
        exponent => {
            let power: u32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            (1000_i128.checked_mul(10_i128.checked_pow(power)?)?, 1)
        }
    };
    let value = ceiling(digits.checked_mul(numerator)?, scale.checked_mul(denominator)?)?;
    Some(if negative { -value } else { value })
}

fn ceiling(value: i128, by: i128) -> Option<i128> {
    if by == 0 { None } else { Some((value + by - 1).div_euclid(by)) }
}

/// A quantity as a number of bytes or units, rounded up; none when it is not one.
pub(crate) fn units(text: &str) -> Option<u64> {
    u64::try_from(ceiling(thousandths(text)?, 1000)?).ok()
}

/// `value` in units of `divisor`, rounded up: what a resourceFieldRef yields.
pub(crate) fn divided(value: &str, divisor: &str) -> Option<String> {
    // An absent divisor is sent as "0" by some clients, and means 1.
    let divisor = match thousandths(divisor) {
        None | Some(0) => 1000,
        Some(divisor) => divisor,
    };
    Some(ceiling(thousandths(value)?, divisor)?.to_string())
}

/// Whether a quantity is more than nothing.
pub(crate) fn positive(text: &str) -> bool {
    thousandths(text).is_some_and(|value| value > 0)
}

/// Whether two quantities are the same amount.
pub(crate) fn equal(one: &str, other: &str) -> bool {
    thousandths(one) == thousandths(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_divisor_rounds_up() {
        for (value, divisor, expected) in [
            ("250m", "1", "1"),
            ("250m", "1m", "250"),
            ("2", "0", "2"),
            ("1Gi", "1Mi", "1024"),
            ("1500M", "1G", "2"),
            ("1e3", "1", "1000"),
            ("0.5", "1m", "500"),
        ] {
            assert_eq!(divided(value, divisor).as_deref(), Some(expected), "{value}/{divisor}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_none() {
        for text in ["", "abc", "1X", "1e", "1.0000000001", "e5", "1e99"] {
            assert_eq!(units(text), None, "{text}");
        }
    }
}
