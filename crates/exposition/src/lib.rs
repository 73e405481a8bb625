//! Metrics in the text formats of Prometheus, and what the kernel says of a process.

mod process;

pub use process::process;

/// The older text format (0.0.4) of OpenMetrics text, which names a counter without the `_total` of its
/// samples and ends with a mark.
#[must_use]
pub fn plain(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let counters: Vec<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    for line in open_metrics.lines().filter(|line| *line != END.trim_end()) {
        let named = ["# HELP ", "# TYPE "].iter().find_map(|p| Some((*p, line.strip_prefix(*p)?)));
        match named.and_then(|(prefix, rest)| Some((prefix, rest.split_once(' ')?))) {
            Some((prefix, (name, rest))) if counters.contains(&name) => {
                text.extend([prefix, name, "_total ", rest]);
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// The mark at the end of OpenMetrics text.
const END: &str = "# EOF\n";

/// OpenMetrics text with further metrics before the mark of its end.
#[must_use]
pub fn joined(open_metrics: &str, further: &str) -> String {
    [open_metrics.strip_suffix(END).unwrap_or(open_metrics), further, END].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: &str = "# HELP a_b Some help.\n# TYPE a_b counter\na_b_total{x=\"1\"} 3\n# HELP g G.\n\
                        # TYPE g gauge\ng 1\n# EOF\n";

    #[test]
    fn counters_are_named_with_their_suffix_and_there_is_no_end_mark() {
        assert_eq!(
            plain(OPEN),
            "# HELP a_b_total Some help.\n# TYPE a_b_total counter\na_b_total{x=\"1\"} 3\n\
             # HELP g G.\n# TYPE g gauge\ng 1\n"
        );
    }

    #[test]
    fn there_is_one_end_however_much_is_joined() {
        let text = joined(OPEN, &process());
        assert_eq!(text.matches("# EOF").count(), 1);
        assert!(text.ends_with(END) && text.contains("\nprocess_cpu_seconds_total "));
    }
}
