//! Schedules in cron's five fields or as `@hourly` and the like: what is wrong with one, in the words
//! of the parser that upstream uses (robfig/cron, ParseStandard).

/// Name, least and greatest value, and the words that stand for values.
struct Bounds {
    least: u32,
    most: u32,
    words: &'static [(&'static str, u32)],
}

const MONTHS: &[(&str, u32)] = &[
    ("jan", 1),
    ("feb", 2),
    ("mar", 3),
    ("apr", 4),
    ("may", 5),
    ("jun", 6),
    ("jul", 7),
    ("aug", 8),
    ("sep", 9),
    ("oct", 10),
    ("nov", 11),
    ("dec", 12),
];
const DAYS: &[(&str, u32)] =
    &[("sun", 0), ("mon", 1), ("tue", 2), ("wed", 3), ("thu", 4), ("fri", 5), ("sat", 6)];

const FIELDS: [Bounds; 5] = [
    Bounds { least: 0, most: 59, words: &[] },
    Bounds { least: 0, most: 23, words: &[] },
    Bounds { least: 1, most: 31, words: &[] },
    Bounds { least: 1, most: 12, words: MONTHS },
    Bounds { least: 0, most: 6, words: DAYS },
];

const DESCRIPTORS: [&str; 7] =
    ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// Whether a schedule is one.
///
/// # Errors
/// The parser's message.
pub(super) fn parse(schedule: &str) -> Result<(), String> {
    if schedule.starts_with('@') {
        return descriptor(schedule);
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        let (count, shown) = (fields.len(), fields.join(" "));
        return Err(format!("expected exactly 5 fields, found {count}: [{shown}]"));
    }
    for (field, bounds) in fields.iter().zip(&FIELDS) {
        for range in field.split(',').filter(|range| !range.is_empty()) {
            parse_range(range, bounds)?;
        }
    }
    Ok(())
}

fn descriptor(schedule: &str) -> Result<(), String> {
    if DESCRIPTORS.contains(&schedule) {
        return Ok(());
    }
    if let Some(duration) = schedule.strip_prefix("@every ") {
        return match is_duration(duration) {
            true => Ok(()),
            false => Err(format!(
                "failed to parse duration {schedule}: time: invalid duration {duration:?}"
            )),
        };
    }
    Err(format!("unrecognized descriptor: {schedule}"))
}

/// Go's durations: numbers with units, `1h30m`.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let unit = rest[number..].find(|c: char| c.is_ascii_digit() || c == '.');
        let end = unit.map_or(rest.len(), |at| number + at);
        let units = ["ns", "us", "µs", "ms", "s", "m", "h"];
        let digits = rest[..number].bytes().any(|byte| byte.is_ascii_digit());
        if !digits || !units.contains(&&rest[number..end]) {
            return false;
        }
        rest = &rest[end..];
    }
    true
}

/// `*`, `n`, `n-m`, each with `/step`.
fn parse_range(range: &str, bounds: &Bounds) -> Result<(), String> {
    let (span, step) = match range.split('/').collect::<Vec<_>>()[..] {
        [span] => (span, None),
        [span, step] => (span, Some(step)),
        _ => return Err(format!("too many slashes: {range}")),
    };
    let (start, end) = match span.split('-').collect::<Vec<_>>()[..] {
        ["*" | "?"] => (bounds.least, bounds.most),
        [only] => {
            let only = value(only, bounds)?;
            (only, if step.is_some() { bounds.most } else { only })
        }
        ["*" | "?", _] => (bounds.least, bounds.most),
        [start, end] => (value(start, bounds)?, value(end, bounds)?),
        _ => return Err(format!("too many hyphens: {range}")),
    };
    let step = step.map_or(Ok(1), number)?;
    let (least, most) = (bounds.least, bounds.most);
    if start < least {
        return Err(format!("beginning of range ({start}) below minimum ({least}): {range}"));
    }
    if end > most {
        return Err(format!("end of range ({end}) above maximum ({most}): {range}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {range}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {range}"));
    }
    Ok(())
}

fn value(text: &str, bounds: &Bounds) -> Result<u32, String> {
    let lower = text.to_ascii_lowercase();
    match bounds.words.iter().find(|(word, _)| *word == lower) {
        Some((_, value)) => Ok(*value),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u32, String> {
    let failed = |why: &str| {
        Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: {why}"))
    };
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return failed("invalid syntax");
    }
    match text.parse::<i64>() {
        Ok(number) if number < 0 => Err(format!("negative number ({number}) not allowed: {text}")),
        Ok(number) => Ok(u32::try_from(number).unwrap_or(u32::MAX)),
        Err(_) => failed("value out of range"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_schedule_makes_it_panic(text in "[@*/,?0-9a-zµ .-]{0,24}") {
            for schedule in [text.clone(), format!("{text} * * * *"), format!("@every {text}")] {
                let _ = parse(&schedule);
            }
        }
    }

    #[test]
    fn schedules_are_told_from_what_is_none() {
        for fine in [
            "* * * * *",
            "*/5 * * * *",
            "0 0 1,15 * mon-fri",
            "0 22 * * 1-5",
            "5 4 * JAN sun",
            "@hourly",
            "@every 1h30m",
            "1-10/3 ? * * 0",
        ] {
            assert_eq!(parse(fine), Ok(()), "{fine}");
        }
        for (wrong, message) in [
            ("a b c", "expected exactly 5 fields, found 3: [a b c]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("@sometimes", "unrecognized descriptor: @sometimes"),
            (
                "x * * * *",
                "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax",
            ),
            (
                "@every soon",
                "failed to parse duration @every soon: time: invalid duration \"soon\"",
            ),
        ] {
            assert_eq!(parse(wrong), Err(message.to_owned()), "{wrong}");
        }
    }
}
