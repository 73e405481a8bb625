//! Jobs and what else makes, scales and protects pods.

use super::*;

#[test]
fn jobs() {
    let sound = object("batch/v1", "Job", json!({ "spec": { "template": pod_template("Never") } }));
    check(
        &sound,
        &[
            case(
                "/spec/template/spec/restartPolicy",
                json!("Always"),
                &[
                    "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \
                   \"Never\"",
                ],
            ),
            case(
                "/spec/parallelism",
                json!(-1),
                &["spec.parallelism: Invalid value: -1: must be greater than or equal to 0"],
            ),
            case(
                "/spec/completionMode",
                json!("Some"),
                &["spec.completionMode: Unsupported value: \"Some\": supported values: \
                   \"Indexed\", \"NonIndexed\""],
            ),
            case(
                "/spec/backoffLimitPerIndex",
                json!(1),
                &["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"],
            ),
            case(
                "/spec/selector",
                json!({ "matchLabels": { "a": "c" } }),
                &[
                    "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"c\",\
                     \"batch.kubernetes.io/controller-uid\":\"u\"}}: `selector` not auto-generated",
                    "spec.template.metadata.labels: Invalid value: {\"a\":\"b\",\
                     \"batch.kubernetes.io/controller-uid\":\"u\",\
                     \"batch.kubernetes.io/job-name\":\"x\",\"controller-uid\":\"u\",\
                     \"job-name\":\"x\"}: `selector` does not match template `labels`",
                ],
            ),
            case(
                "/spec/podFailurePolicy",
                json!({ "rules": [{ "action": "FailJob" }] }),
                &["spec.podFailurePolicy.rules[0]: Invalid value: null: specifying one of \
                   OnExitCodes and OnPodConditions is required"],
            ),
        ],
    );
    check_updates(
        &sound,
        &[
            case("/spec/parallelism", json!(3), &[]),
            case("/spec/suspend", json!(true), &[]),
            case(
                "/spec/completions",
                json!(3),
                &["spec.completions: Invalid value: 3: field is immutable"],
            ),
            case(
                "/spec/completionMode",
                json!("Indexed"),
                &["spec.completionMode: Invalid value: \"Indexed\": field is immutable"],
            ),
        ],
    );
    let causes = updated(&sound, |job| set(job, "/spec/template/spec/nodeName", json!("n")));
    assert_eq!(causes.len(), 1);
    assert!(causes[0].starts_with("spec.template: Invalid value: "), "{causes:?}");
    assert!(causes[0].ends_with(": field is immutable"), "{causes:?}");
    let mut suspended = sound;
    set(&mut suspended, "/spec/suspend", json!(true));
    check_updates(
        &suspended,
        &[case("/spec/template/spec/nodeSelector", json!({ "zone": "a" }), &[])],
    );
}

#[test]
fn cron_jobs() {
    let sound = object(
        "batch/v1",
        "CronJob",
        json!({ "spec": {
            "schedule": "*/5 * * * *",
            "jobTemplate": { "spec": { "template": pod_template("OnFailure") } },
        } }),
    );
    check(
        &sound,
        &[
            case("/spec/schedule", json!(""), &["spec.schedule: Required value"]),
            case(
                "/spec/schedule",
                json!("* *"),
                &["spec.schedule: Invalid value: \"* *\": expected exactly 5 fields, found 2: \
                   [* *]"],
            ),
            case(
                "/spec/schedule",
                json!("TZ=UTC * * * * *"),
                &[
                    "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in \
                   schedule, use timeZone field instead",
                ],
            ),
            case(
                "/spec/timeZone",
                json!("local"),
                &[
                    "spec.timeZone: Invalid value: \"local\": timeZone must be an explicit time zone \
                   as defined in https://www.iana.org/time-zones",
                ],
            ),
            case("/spec/timeZone", json!("Europe/Oslo"), &[]),
            case(
                "/spec/concurrencyPolicy",
                json!("Queue"),
                &["spec.concurrencyPolicy: Unsupported value: \"Queue\": supported values: \
                   \"Allow\", \"Forbid\", \"Replace\""],
            ),
            case(
                "/spec/jobTemplate/spec/manualSelector",
                json!(true),
                &["spec.jobTemplate.spec.manualSelector: Unsupported value: \"true\": supported \
                   values: \"nil\", \"false\""],
            ),
            case(
                "/spec/jobTemplate/spec/template/spec/restartPolicy",
                json!("Always"),
                &["spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid \
                   values: \"OnFailure\", \"Never\""],
            ),
        ],
    );
    let mut long = sound;
    let name = "a".repeat(53);
    set(&mut long, "/metadata/name", json!(name));
    assert_eq!(
        created(&long),
        [format!("metadata.name: Invalid value: {name:?}: must be no more than 52 characters")]
    );
}

#[test]
fn horizontal_pod_autoscalers() {
    let sound = object(
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        json!({ "spec": {
            "maxReplicas": 3,
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "web" },
        } }),
    );
    check(
        &sound,
        &[
            case(
                "/spec/maxReplicas",
                json!(0),
                &[
                    "spec.maxReplicas: Invalid value: 0: must be greater than 0",
                    "spec.maxReplicas: Invalid value: 0: must be greater than or equal to \
                     `minReplicas`",
                ],
            ),
            case(
                "/spec/minReplicas",
                json!(0),
                &["spec.minReplicas: Invalid value: 0: must be greater than or equal to 1"],
            ),
            case(
                "/spec/scaleTargetRef/name",
                json!(""),
                &["spec.scaleTargetRef.name: Required value"],
            ),
            case(
                "/spec/metrics",
                json!([{ "type": "Resource", "resource": { "name": "cpu",
                    "target": { "type": "Utilization" } } }]),
                &["spec.metrics[0].resource.target.averageUtilization: Required value: must set \
                   either a target utilization or a target average value"],
            ),
            case(
                "/spec/metrics",
                json!([{ "type": "Pods" }]),
                &["spec.metrics[0].pods: Required value: must populate information for the given \
                   metric source"],
            ),
            case(
                "/spec/behavior",
                json!({ "scaleUp": { "policies": [], "stabilizationWindowSeconds": 3601 } }),
                &[
                    "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must \
                     be less than or equal to 3600",
                    "spec.behavior.scaleUp.policies: Required value: must specify at least one \
                     Policy",
                ],
            ),
        ],
    );
}

#[test]
fn pod_disruption_budgets() {
    let sound = object(
        "policy/v1",
        "PodDisruptionBudget",
        json!({ "spec": { "minAvailable": 1, "selector": { "matchLabels": { "a": "b" } } } }),
    );
    check(
        &sound,
        &[
            case("/spec/minAvailable", json!("50%"), &[]),
            case(
                "/spec/minAvailable",
                json!("101%"),
                &["spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%"],
            ),
            case(
                "/spec/minAvailable",
                json!(-1),
                &["spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"],
            ),
            case(
                "/spec/maxUnavailable",
                json!(1),
                &["spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":1,\"selector\":\
                   {\"matchLabels\":{\"a\":\"b\"}}}: minAvailable and maxUnavailable cannot be both \
                   set"],
            ),
            case(
                "/spec/unhealthyPodEvictionPolicy",
                json!("Never"),
                &["spec.unhealthyPodEvictionPolicy: Unsupported value: \"Never\": supported \
                   values: \"AlwaysAllow\", \"IfHealthyBudget\""],
            ),
        ],
    );
}

#[test]
fn replication_controllers_and_pod_templates() {
    let sound = object(
        "v1",
        "ReplicationController",
        json!({ "spec": { "template": pod_template("Always") } }),
    );
    check(
        &sound,
        &[
            case(
                "/spec/template",
                Value::Null,
                &["spec.selector: Required value", "spec.template: Required value"],
            ),
            case(
                "/spec/selector",
                json!({ "a": "c" }),
                &["spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does \
                   not match template `labels`"],
            ),
            case(
                "/spec/template/spec/restartPolicy",
                json!("Never"),
                &["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported \
                   values: \"Always\""],
            ),
        ],
    );
    check(
        &object("v1", "PodTemplate", json!({ "template": pod_template("Always") })),
        &[case(
            "/template/spec/containers",
            json!([]),
            &["template.spec.containers: Required value"],
        )],
    );
}
