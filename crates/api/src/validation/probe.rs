//! Probes and lifecycle hooks, and the handlers that both have.

use serde_json::Value;

use super::causes::{Causes, Path};
use super::formats;
use crate::fields::Fields;

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

pub(super) fn probes(causes: &mut Causes, path: &Path<'_>, container: &Value) {
    for field in PROBES {
        if !container.has(field) {
            continue;
        }
        let (path, probe) = (path.child(field), &container[field]);
        handler(causes, &path, probe, &["exec", "httpGet", "tcpSocket", "grpc"]);
        for number in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            causes.non_negative(&path, probe, number);
        }
        let successes = probe.number("successThreshold");
        if field != "readinessProbe" && successes != 1 {
            causes.invalid(&path.child("successThreshold"), successes, "must be 1");
        }
        if probe.has("terminationGracePeriodSeconds") {
            let path = path.child("terminationGracePeriodSeconds");
            let seconds = probe.number("terminationGracePeriodSeconds");
            if field == "readinessProbe" {
                causes.invalid(&path, seconds, "must not be set for readinessProbes");
            } else if seconds <= 0 {
                causes.invalid(&path, seconds, formats::NOT_POSITIVE);
            }
        }
    }
}

pub(super) fn hooks(causes: &mut Causes, path: &Path<'_>, lifecycle: &Value, grace_period: i64) {
    for field in ["postStart", "preStop"] {
        if !lifecycle.has(field) {
            continue;
        }
        let (path, hook) = (path.child(field), &lifecycle[field]);
        handler(causes, &path, hook, &["exec", "httpGet", "tcpSocket", "sleep"]);
        if hook.has("sleep") {
            let seconds = hook["sleep"].number("seconds");
            if seconds < 0 || seconds > grace_period {
                let message = format!(
                    "must be non-negative and less than terminationGracePeriodSeconds \
                     ({grace_period}). Enable PodLifecycleSleepActionAllowZero feature gate for \
                     zero sleep."
                );
                causes.invalid(&path.child("sleep"), seconds, &message);
            }
        }
    }
}

fn handler(causes: &mut Causes, path: &Path<'_>, handler: &Value, types: &[&str]) {
    let given: Vec<&str> = types.iter().copied().filter(|field| handler.has(field)).collect();
    if given.is_empty() {
        causes.required(path, "must specify a handler type");
    }
    for (index, field) in given.iter().enumerate() {
        if index > 0 {
            let message = "may not specify more than 1 handler type";
            causes.forbidden(&path.child(field), message);
            continue;
        }
        let (path, action) = (path.child(field), &handler[*field]);
        match *field {
            "exec" if action.items("command").is_empty() => {
                causes.required(&path.child("command"), "");
            }
            "httpGet" => {
                if action.text("path").is_empty() {
                    causes.required(&path.child("path"), "");
                }
                port(causes, &path.child("port"), &action["port"]);
                let scheme = action.text("scheme");
                causes.one_of(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]);
                for header in action.items("httpHeaders") {
                    http_header(causes, &path.child("httpHeaders"), header.text("name"));
                }
            }
            "tcpSocket" => port(causes, &path.child("port"), &action["port"]),
            "grpc" => causes.port_number(&path.child("port"), action.number("port")),
            _ => {}
        }
    }
}

fn port(causes: &mut Causes, path: &Path<'_>, port: &Value) {
    match port {
        Value::String(name) => causes.all(path, name, formats::port_name(name)),
        number => causes.port_number(path, number.as_i64().unwrap_or_default()),
    }
}

fn http_header(causes: &mut Causes, path: &Path<'_>, name: &str) {
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    {
        let message = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. \
                       'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
        causes.invalid(path, name, message);
    }
}
