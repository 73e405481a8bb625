//! Pods. STATUS is the phase, overruled by what the containers say, overruled by a deletion.

use serde_json::Value;

use super::{AGE, Column, NAME, age, name, or, since, text, wide};
use crate::fields::Fields;

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    text("Ready", "Containers that are ready, of all."),
    text("Status", "State of the pod, from its containers."),
    text("Restarts", "How often containers were restarted, and when last."),
    AGE,
    wide("IP", "Address of the pod."),
    wide("Node", "Where the pod runs."),
    wide("Nominated Node", "Where room is being made for the pod."),
    wide("Readiness Gates", "Conditions of others that hold, of all."),
];

pub(super) fn row(pod: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let summary = Summary::of(pod);
    let restarts = match &summary.last_restart {
        Some(time) if summary.restarts > 0 => {
            format!("{} ({} ago)", summary.restarts, since(&time.to_string(), now))
        }
        _ => summary.restarts.to_string(),
    };
    let status = &pod["status"];
    let ip = match status.items("podIPs").first() {
        Some(first) => first.text("ip"),
        None => status.text("podIP"),
    };
    vec![
        name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age(pod, now),
        or(ip, "<none>"),
        or(pod["spec"].text("nodeName"), "<none>"),
        or(status.text("nominatedNodeName"), "<none>"),
        readiness_gates(pod),
    ]
}

struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<jiff::Timestamp>,
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let sidecars =
            spec.items("initContainers").iter().filter(|container| is_sidecar(container)).count();
        let mut summary = Self {
            ready: 0,
            total: spec.items("containers").len() + sidecars,
            reason: phase(status),
            restarts: 0,
            last_restart: None,
        };
        let initializing = summary.count_init_containers(spec, status);
        if !initializing || condition(status, "Initialized") {
            summary.count_containers(status);
        }
        let deleting = pod["metadata"].has("deletionTimestamp");
        if deleting && status.text("reason") == "NodeLost" {
            summary.reason = "Unknown".into();
        } else if deleting && !matches!(status.text("phase"), "Succeeded" | "Failed") {
            summary.reason = "Terminating".into();
        }
        summary
    }

    /// Whether the pod still waits for them. Restarts of ordinary init containers are shown only
    /// as long as it does, those of sidecars always.
    fn count_init_containers(&mut self, spec: &Value, status: &Value) -> bool {
        let specs = spec.items("initContainers");
        let mut sidecars = (0, None);
        for (index, container) in status.items("initContainerStatuses").iter().enumerate() {
            let own = specs.iter().find(|c| c.text("name") == container.text("name"));
            let is_sidecar = own.is_some_and(is_sidecar);
            self.count_restarts(container);
            if is_sidecar {
                sidecars.0 += container.number("restartCount");
                sidecars.1 = sidecars.1.max(last_termination(container));
            }
            let state = &container["state"];
            let (terminated, waiting) = (&state["terminated"], &state["waiting"]);
            if state.has("terminated") && terminated.number("exitCode") == 0 {
                continue;
            }
            if is_sidecar && container.is("started") {
                self.ready += usize::from(container.is("ready"));
                continue;
            }
            self.reason = if state.has("terminated") {
                format!("Init:{}", termination(terminated))
            } else if !matches!(waiting.text("reason"), "" | "PodInitializing") {
                format!("Init:{}", waiting.text("reason"))
            } else {
                format!("Init:{index}/{}", specs.len())
            };
            return true;
        }
        (self.restarts, self.last_restart) = sidecars;
        false
    }

    fn count_containers(&mut self, status: &Value) {
        let mut running = false;
        for container in status.items("containerStatuses").iter().rev() {
            self.count_restarts(container);
            let state = &container["state"];
            if !state["waiting"].text("reason").is_empty() {
                self.reason = state["waiting"].text("reason").to_owned();
            } else if state.has("terminated") {
                self.reason = termination(&state["terminated"]);
            } else if container.is("ready") && state.has("running") {
                running = true;
                self.ready += 1;
            }
        }
        // One container may be done while another goes on.
        if self.reason == "Completed" && running {
            let reason = if condition(status, "Ready") { "Running" } else { "NotReady" };
            self.reason = reason.into();
        }
    }

    fn count_restarts(&mut self, container: &Value) {
        self.restarts += container.number("restartCount");
        self.last_restart = self.last_restart.max(last_termination(container));
    }
}

fn phase(status: &Value) -> String {
    let gated = status.items("conditions").iter().any(|condition| {
        condition.text("type") == "PodScheduled" && condition.text("reason") == "SchedulingGated"
    });
    match (gated, status.text("reason")) {
        (true, _) => "SchedulingGated".into(),
        (false, "") => status.text("phase").into(),
        (false, reason) => reason.into(),
    }
}

fn is_sidecar(container: &Value) -> bool {
    container.text("restartPolicy") == "Always"
}

fn termination(terminated: &Value) -> String {
    match (terminated.text("reason"), terminated.number("signal")) {
        ("", 0) => format!("ExitCode:{}", terminated.number("exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.into(),
    }
}

fn last_termination(container: &Value) -> Option<jiff::Timestamp> {
    container["lastState"]["terminated"].text("finishedAt").parse().ok()
}

fn condition(status: &Value, kind: &str) -> bool {
    status
        .items("conditions")
        .iter()
        .any(|condition| condition.text("type") == kind && condition.text("status") == "True")
}

fn readiness_gates(pod: &Value) -> Value {
    let gates = pod["spec"].items("readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let holds = |gate: &&Value| condition(&pod["status"], gate.text("conditionType"));
    format!("{}/{}", gates.iter().filter(holds).count(), gates.len()).into()
}
