//! Probes and the version.
//!
//! `/healthz`, `/livez` and `/readyz` answer `ok`, or with `?verbose` one line per check, as upstream's do.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::query::Query;
use crate::respond;
use crate::server::{Body, Inner};
use crate::status::{Result, Status};

/// The checks behind every probe. The server answers only once it is set up, so what answers at all is ready.
const CHECKS: [&str; 3] = ["ping", "store", "default-service"];

pub(crate) fn respond(inner: &Inner, path: &str, query: &Query) -> Result<Response<Body>> {
    let mut parts = path.split('/').skip(1);
    let probe = parts.next().unwrap_or("");
    let passes = |check: &str| match check {
        "default-service" => inner.has_default_service(),
        _ => true,
    };
    if let Some(check) = parts.next() {
        if !CHECKS.contains(&check) || parts.next().is_some() {
            return Err(Status::unknown_path());
        }
        return Ok(match passes(check) {
            true => respond::text(StatusCode::OK, "ok"),
            false => respond::text(StatusCode::INTERNAL_SERVER_ERROR, "failed"),
        });
    }
    let all = CHECKS.iter().all(|c| passes(c));
    let code = if all { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    if all && !query.flag("verbose") {
        return Ok(respond::text(code, "ok"));
    }
    let mut lines: Vec<String> = CHECKS
        .iter()
        .map(|c| match passes(c) {
            true => format!("[+]{c} ok"),
            false => format!("[-]{c} failed"),
        })
        .collect();
    lines.push(format!("{probe} check {}\n", if all { "passed" } else { "failed" }));
    Ok(respond::text(code, lines.join("\n")))
}

/// What `kubectl version` shows. The Kubernetes version is the one whose API this server follows.
pub(crate) fn version() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "gitVersion": concat!("v1.36.0-portolan.", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}
