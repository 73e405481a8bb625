//! Jobs and CronJobs.

use serde_json::Value;

use super::{
    AGE, CONTAINERS, Column, IMAGES, NAME, SELECTOR, age, boolean, human_duration, integer,
    label_selector, name, of_containers, or, since, text,
};
use crate::fields::Fields;

pub(super) const JOB: &[Column] = &[
    NAME,
    text("Status", "Status of the job."),
    text("Completions", "Pods that have succeeded, of those wanted."),
    text("Duration", "Time required to complete the job."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const CRON_JOB: &[Column] = &[
    NAME,
    text("Schedule", "When jobs are made, in the form of cron."),
    text("Timezone", "Where the schedule's times are meant."),
    boolean("Suspend", "Whether no jobs are made for now."),
    integer("Active", "Jobs that are running."),
    text("Last Schedule", "Time since a job was made."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn job(job: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, status) = (&job["spec"], &job["status"]);
    let (succeeded, parallelism) = (status.number("succeeded"), spec.number("parallelism"));
    let completions = match spec["completions"].as_i64() {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    };
    let time = |field: &str| status.text(field).parse::<jiff::Timestamp>();
    let duration = match (time("startTime"), time("completionTime")) {
        (Err(_), _) => String::new(),
        (Ok(start), Ok(end)) => human_duration(end.duration_since(start)),
        (Ok(start), Err(_)) => human_duration(now.duration_since(start)),
    };
    let template = &spec["template"];
    vec![
        name(job),
        state(job).into(),
        completions.into(),
        duration.into(),
        age(job, now),
        of_containers(template, "name"),
        of_containers(template, "image"),
        label_selector(&spec["selector"]),
    ]
}

fn state(job: &Value) -> &'static str {
    let holds = |kind: &str| {
        let mut conditions = job["status"].items("conditions").iter();
        let found = conditions.find(|condition| condition.text("type") == kind);
        found.is_some_and(|condition| condition.text("status") == "True")
    };
    if holds("Complete") {
        "Complete"
    } else if holds("Failed") {
        "Failed"
    } else if job["metadata"].has("deletionTimestamp") {
        "Terminating"
    } else if holds("Suspended") {
        "Suspended"
    } else if holds("FailureTarget") {
        "FailureTarget"
    } else {
        "Running"
    }
}

pub(super) fn cron_job(cron_job: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, status) = (&cron_job["spec"], &cron_job["status"]);
    let job = &spec["jobTemplate"]["spec"];
    let last = match status.text("lastScheduleTime") {
        "" => "<none>".to_owned(),
        time => since(time, now),
    };
    let suspend = match spec["suspend"].as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    vec![
        name(cron_job),
        spec.text("schedule").into(),
        or(spec.text("timeZone"), "<none>"),
        suspend.into(),
        status.items("active").len().into(),
        last.into(),
        age(cron_job, now),
        of_containers(&job["template"], "name"),
        of_containers(&job["template"], "image"),
        label_selector(&job["selector"]),
    ]
}
