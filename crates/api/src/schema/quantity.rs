//! Quantities (`500m`, `1Gi`, `1e3`): parsing and the canonical form that Kubernetes answers with.
//!
//! Upstream's rules (apimachinery, resource/quantity.go): no precision is lost above a nano, the
//! suffix's family is kept, and the mantissa is the least that needs no fraction.

const WRONG_FORMAT: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
const WRONG_SUFFIX: &str = "unable to parse quantity's suffix";

const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// A parsed quantity in nanos, and how it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quantity {
    pub(crate) nanos: i128,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Decimal,
    Binary,
    Exponent,
}

/// The canonical text of a quantity.
///
/// # Errors
/// Upstream's message for text that is none.
pub fn canonical(text: &str) -> Result<String, String> {
    parse(text).map(render)
}

pub(crate) fn parse(text: &str) -> Result<Quantity, String> {
    let text = text.trim();
    let number_end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_end);
    let (negative, digits) = match number.as_bytes().first() {
        Some(b'-') => (true, &number[1..]),
        Some(b'+') => (false, &number[1..]),
        _ => (false, number),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !is_number(whole) || !is_number(fraction) {
        return Err(WRONG_FORMAT.into());
    }
    let (format, exponent, binary_power) = suffix_of(suffix)?;
    let mantissa: i128 =
        format!("0{whole}{fraction}").parse().map_err(|_| WRONG_FORMAT.to_owned())?;
    let scale = exponent + 9 - i32::try_from(fraction.len()).map_err(|_| WRONG_FORMAT)?;
    let scaled = mantissa.saturating_mul(1 << (10 * binary_power));
    let nanos = if scale >= 0 {
        scaled.saturating_mul(10i128.checked_pow(scale.unsigned_abs()).unwrap_or(i128::MAX))
    } else {
        // Upstream rounds up what is finer than a nano.
        match 10i128.checked_pow(scale.unsigned_abs()) {
            Some(divisor) => scaled / divisor + i128::from(scaled % divisor != 0),
            None => i128::from(scaled != 0),
        }
    };
    Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
}

fn suffix_of(suffix: &str) -> Result<(Format, i32, u32), String> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Ok((Format::Decimal, *exponent, 0));
    }
    if let Some(power) = BINARY.iter().position(|s| *s == suffix) {
        return Ok((Format::Binary, 0, u32::try_from(power).unwrap_or_default()));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).and_then(|digits| digits.parse::<i32>().ok());
    match exponent {
        Some(exponent) if exponent.abs() <= 18 => Ok((Format::Exponent, exponent, 0)),
        _ => Err(WRONG_SUFFIX.into()),
    }
}

fn render(quantity: Quantity) -> String {
    const UNIT: i128 = 1_000_000_000;
    let Quantity { nanos, format } = quantity;
    if nanos == 0 {
        return "0".into();
    }
    if format == Format::Binary && nanos % UNIT == 0 {
        let mut units = nanos / UNIT;
        let mut power = 0;
        while units % 1024 == 0 && power + 1 < BINARY.len() && units.abs() >= 1024 {
            units /= 1024;
            power += 1;
        }
        return format!("{units}{}", BINARY[power]);
    }
    let mut mantissa = nanos;
    let mut step = 0;
    while mantissa % 1000 == 0 && step + 1 < DECIMAL.len() {
        mantissa /= 1000;
        step += 1;
    }
    let (suffix, exponent) = DECIMAL[step];
    match format {
        Format::Exponent if exponent != 0 => format!("{mantissa}e{exponent}"),
        _ => format!("{mantissa}{suffix}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_brought_into_upstreams_form() {
        for (text, expected) in [
            ("0.5", "500m"),
            ("1000m", "1"),
            ("100m", "100m"),
            ("1", "1"),
            ("1.5Gi", "1536Mi"),
            ("2048Mi", "2Gi"),
            ("128Mi", "128Mi"),
            ("1000", "1k"),
            ("1e3", "1e3"),
            ("12e2", "1200"),
            ("0Gi", "0"),
            ("-1.5", "-1500m"),
            ("0.0000000001", "1n"),
            ("110", "110"),
        ] {
            assert_eq!(canonical(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "abc", "1..2", "-", "1-2", "."] {
            assert_eq!(canonical(text).unwrap_err(), WRONG_FORMAT, "{text}");
        }
        for text in ["1Gb", "1e", "1mm", "1 Gi"] {
            assert_eq!(canonical(text).unwrap_err(), WRONG_SUFFIX, "{text}");
        }
    }
}
