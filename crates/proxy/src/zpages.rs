//! Pages for people who look into a running proxy: /flagz, /statusz, /metrics/slis, /debug/….
//!
//! Upstream rule: k8s.io/component-base/zpages, …/metrics/prometheus/slis, and `serveMetrics` of
//! cmd/kube-proxy/app/server.go.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;

/// What the pages say that does not change.
#[derive(Debug, Clone)]
pub struct About {
    /// The flags that were given, with their values.
    pub flags: Vec<(String, String)>,
    /// When the proxy started.
    pub started: Timestamp,
    /// The Kubernetes version whose behaviour this is.
    pub emulates: &'static str,
}

/// Every page of the address of metrics.
pub(crate) const PATHS: [&str; 9] = [
    "/configz",
    "/debug/flags/v",
    "/debug/pprof/",
    "/flagz",
    "/healthz",
    "/metrics",
    "/metrics/slis",
    "/proxyMode",
    "/statusz",
];

/// What both pages begin with.
fn head(page: &str) -> String {
    format!("\nkube-proxy {page}\nFor people to read; what stands here, and how, may change.\n\n")
}

/// The flags by name.
pub(crate) fn flagz(about: &About) -> String {
    let mut flags = about.flags.clone();
    flags.sort();
    let mut text = head("flagz");
    for (name, value) in flags {
        let _ = writeln!(text, "{}={}", plain(&name), plain(&value));
    }
    text
}

/// Since when, which version, and where to look further.
pub(crate) fn statusz(about: &About, now: Timestamp) -> String {
    let up = Duration::try_from(now.duration_since(about.started)).unwrap_or_default().as_secs();
    let mut text = head("statusz");
    let _ = writeln!(text, "Started: {}", about.started.strftime("%a %b %e %H:%M:%S UTC %Y"));
    let _ = writeln!(text, "Up: {} hr {:02} min {:02} sec", up / 3600, up / 60 % 60, up % 60);
    let _ = writeln!(text, "Binary version: {}", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(text, "Emulation version: {}", about.emulates);
    let _ = writeln!(text, "Paths: {}", PATHS.join(" "));
    text
}

/// The state of each check, as upstream's service level indicators have it.
pub(crate) fn slis(checks: &[(String, bool)]) -> String {
    let mut text = String::new();
    let name = "kubernetes_healthcheck";
    let _ = writeln!(text, "# HELP {name} Whether a health check passes: 1 if so, or else 0.");
    let _ = writeln!(text, "# TYPE {name} gauge");
    for (check, is_healthy) in checks {
        let labels = format!("name=\"{check}\",type=\"healthz\"");
        let _ = writeln!(text, "{name}{{{labels}}} {}", u8::from(*is_healthy));
    }
    text
}

/// Nothing that would act upon a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The flags of a command line, as given: `--name=value`, `--name value`, or `--name` alone.
pub(crate) fn flags(words: &[String]) -> Vec<(String, String)> {
    let mut flags = Vec::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
            continue;
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => match words.next_if(|next| !next.starts_with('-')) {
                Some(value) => (flag, value.clone()),
                None => (flag, "true".to_owned()),
            },
        };
        flags.push((name.to_owned(), value));
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        let words = ["kube-proxy", "--v=4", "--config", "/c\u{1b}[31m", "--cleanup"];
        About {
            flags: flags(&words.map(str::to_owned)),
            started: Timestamp::UNIX_EPOCH,
            emulates: "1.36",
        }
    }

    #[test]
    fn flags_are_sorted_and_harmless() {
        let text = flagz(&about());
        assert!(text.ends_with("\n\ncleanup=true\nconfig=/c\u{fffd}[31m\nv=4\n"), "{text}");
    }

    #[test]
    fn the_time_since_the_start_is_told() {
        let now = Timestamp::from_second(3_723).unwrap();
        let text = statusz(&about(), now);
        for line in ["Started: Thu Jan  1 00:00:00 UTC 1970", "Up: 1 hr 02 min 03 sec"] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn every_check_has_its_line() {
        let text = slis(&[("IPv4".into(), true), ("IPv6".into(), false)]);
        assert!(text.contains("kubernetes_healthcheck{name=\"IPv4\",type=\"healthz\"} 1\n"));
        assert!(text.contains("kubernetes_healthcheck{name=\"IPv6\",type=\"healthz\"} 0\n"));
    }
}
