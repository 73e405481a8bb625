//! Probes and the version.
//!
//! `/healthz`, `/livez` and `/readyz` answer `ok`, or with `?verbose` one line per check; `?exclude=NAME` leaves checks
//! out, `/livez/NAME` asks for one (upstream `apiserver/pkg/server/healthz`). Anybody may ask, so why a check failed is
//! only in the log.

use std::time::Duration;

use futures::future::join_all;
use http::header::{HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::query::Query;
use crate::respond;
use crate::server::{Body, Inner};
use crate::status::{Result, Status};

/// The Kubernetes version is the one whose API this server follows.
pub(crate) const VERSION: &str = concat!("v1.36.0-portolan.", env!("CARGO_PKG_VERSION"));

/// How long the store may take to answer (upstream's `--etcd-healthcheck-timeout`).
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// What can be checked, under upstream's names where tools know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// The server answers.
    Ping,
    /// The store's writer takes a transaction.
    Store,
    /// `default/kubernetes`, without which the cluster cannot reach this server.
    DefaultService,
    /// The server is not about to stop.
    Shutdown,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::Ping => "ping",
            Check::Store => "etcd",
            Check::DefaultService => "poststarthook/bootstrap-controller",
            Check::Shutdown => "shutdown",
        }
    }

    async fn run(self, inner: &Inner) -> Result<(), String> {
        match self {
            Check::Ping => Ok(()),
            Check::Store => {
                let nothing = inner.registry.store.commit(Vec::new());
                match tokio::time::timeout(STORE_TIMEOUT, nothing).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err("the store does not answer".to_owned()),
                }
            }
            Check::DefaultService if inner.has_default_service() => Ok(()),
            Check::DefaultService => Err("the Service default/kubernetes is missing".to_owned()),
            Check::Shutdown if inner.stopping.is_cancelled() => {
                Err("the server is shutting down".to_owned())
            }
            Check::Shutdown => Ok(()),
        }
    }
}

/// The checks of a probe: a server that stops is alive and not ready.
fn checks(probe: &str) -> &'static [Check] {
    match probe {
        "readyz" => &[Check::Ping, Check::Store, Check::DefaultService, Check::Shutdown],
        _ => &[Check::Ping, Check::Store, Check::DefaultService],
    }
}

/// Answers `/healthz`, `/livez`, `/readyz` and what is below.
pub(crate) async fn respond(inner: &Inner, path: &str, query: &Query) -> Result<Response<Body>> {
    let path = path.trim_start_matches('/');
    let (probe, single) = path.split_once('/').map_or((path, None), |(p, name)| (p, Some(name)));
    let checks = checks(probe);
    if let Some(name) = single {
        let check = checks.iter().find(|c| c.name() == name).ok_or_else(Status::unknown_path)?;
        return Ok(match check.run(inner).await {
            Ok(()) => plain(StatusCode::OK, "ok".to_owned()),
            Err(why) => {
                plain(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {why}\n"))
            }
        });
    }
    let mut excluded: Vec<&str> = query.all("exclude").collect();
    excluded.sort_unstable();
    excluded.dedup();
    let outcomes = join_all(checks.iter().map(|check| {
        let skipped = excluded.contains(&check.name());
        async move { (*check, if skipped { None } else { Some(check.run(inner).await) }) }
    }))
    .await;
    excluded.retain(|name| !checks.iter().any(|c| c.name() == *name));
    let report = Report { probe, outcomes, unknown: excluded };
    let code = if report.failed() { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
    let verbose = query.all("verbose").next().is_some();
    Ok(plain(code, if report.failed() || verbose { report.text() } else { "ok".to_owned() }))
}

/// What the checks of a probe said; `None` is one that was left out.
struct Report<'a> {
    probe: &'a str,
    outcomes: Vec<(Check, Option<Result<(), String>>)>,
    unknown: Vec<&'a str>,
}

impl Report<'_> {
    fn failed(&self) -> bool {
        self.outcomes.iter().any(|(_, outcome)| matches!(outcome, Some(Err(_))))
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (check, outcome) in &self.outcomes {
            let name = check.name();
            text.push_str(&match outcome {
                None => format!("[+]{name} excluded: ok\n"),
                Some(Ok(())) => format!("[+]{name} ok\n"),
                Some(Err(why)) => {
                    tracing::warn!(check = name, %why, "health check");
                    format!("[-]{name} failed: reason withheld\n")
                }
            });
        }
        if !self.unknown.is_empty() {
            let names: Vec<String> = self.unknown.iter().map(|n| format!("{n:?}")).collect();
            text.push_str(&format!(
                "warn: some health checks cannot be excluded: no matches for {}\n",
                names.join(",")
            ));
        }
        let how = if self.failed() { "failed" } else { "passed" };
        text.push_str(&format!("{} check {how}\n", self.probe));
        text
    }
}

fn plain(code: StatusCode, text: String) -> Response<Body> {
    let mut response = respond::text(code, text);
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// What `kubectl version` shows.
pub(crate) fn version() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_passed_what_failed_and_what_was_left_out() {
        let mut report = Report {
            probe: "livez",
            outcomes: vec![
                (Check::Ping, Some(Ok(()))),
                (Check::Store, None),
                (Check::DefaultService, Some(Err("secret".into()))),
            ],
            unknown: vec!["b", "c"],
        };
        assert_eq!(
            report.text(),
            "[+]ping ok\n[+]etcd excluded: ok\n[-]poststarthook/bootstrap-controller failed: \
             reason withheld\nwarn: some health checks cannot be excluded: no matches for \
             \"b\",\"c\"\nlivez check failed\n"
        );
        report.outcomes.pop();
        report.unknown.clear();
        assert_eq!(report.text(), "[+]ping ok\n[+]etcd excluded: ok\nlivez check passed\n");
    }
}
