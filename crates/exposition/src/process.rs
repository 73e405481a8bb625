//! What the kernel says about this process, under the names of Prometheus' client libraries.

use std::fmt::Write as _;
use std::fs;

/// Ticks a second in `/proc`: `USER_HZ`, which is 100 wherever Linux runs.
const TICKS: f64 = 100.0;

/// This process's metrics as OpenMetrics text without the mark of its end. What cannot be read is left out.
#[must_use]
pub fn process() -> String {
    let mut text = String::new();
    let mut add = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            let end = if kind == "counter" { "_total" } else { "" };
            // Writing to a String cannot fail.
            let _ =
                writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{end} {value}");
        }
    };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    add(
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory size in bytes.",
        kilobytes(&status, "VmRSS:"),
    );
    add(
        "process_virtual_memory_bytes",
        "gauge",
        "Virtual memory size in bytes.",
        kilobytes(&status, "VmSize:"),
    );
    add(
        "process_cpu_seconds",
        "counter",
        "Total user and system CPU time spent in seconds.",
        ticks(&stat, 13).zip(ticks(&stat, 14)).map(|(user, system)| user + system),
    );
    let boot = fs::read_to_string("/proc/stat").ok().and_then(|s| number_after(&s, "btime "));
    add(
        "process_start_time_seconds",
        "gauge",
        "Start time of the process since unix epoch in seconds.",
        boot.zip(ticks(&stat, 21)).map(|(boot, since)| boot + since),
    );
    let open = fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
    let open = open.and_then(|n| u32::try_from(n).ok()).map(f64::from);
    add("process_open_fds", "gauge", "Number of open file descriptors.", open);
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    add(
        "process_max_fds",
        "gauge",
        "Maximum number of open file descriptors.",
        number_after(&limits, "Max open files "),
    );
    text
}

fn number_after(text: &str, label: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_whitespace().next()?.parse().ok()
}

fn kilobytes(status: &str, label: &str) -> Option<f64> {
    number_after(status, label).map(|k| k * 1024.0)
}

/// A field of `/proc/self/stat`, in seconds. Fields are counted from 0, the command's name in parentheses being 1.
fn ticks(stat: &str, field: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: f64 = rest.split_whitespace().nth(field.checked_sub(2)?)?.parse().ok()?;
    Some(ticks / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_time_and_files() {
        let text = process();
        for name in [
            "process_resident_memory_bytes",
            "process_start_time_seconds",
            "process_open_fds",
            "process_max_fds",
        ] {
            let value = number_after(&text, &format!("{name} ")).unwrap();
            assert!(value > 0.0, "{name} {value}");
        }
    }

    #[test]
    fn a_name_with_a_parenthesis_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 150 50 0 0 20 0 9 0 4200 0";
        assert_eq!(ticks(stat, 13), Some(1.5));
        assert_eq!(ticks(stat, 14), Some(0.5));
        assert_eq!(ticks(stat, 21), Some(42.0));
    }
}
