use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodReadinessGate, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::*;
use crate::pod::record::{lost, records};

fn pod(policy: &str, init: &[&str], main: &[&str]) -> Pod {
    let container = |name: &&str| Container { name: (*name).into(), ..Container::default() };
    let spec = PodSpec {
        restart_policy: Some(policy.into()),
        init_containers: Some(init.iter().map(container).collect()),
        containers: main.iter().map(container).collect(),
        ..PodSpec::default()
    };
    Pod { spec: Some(spec), ..Pod::default() }
}

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn run(record: &mut Record) {
    record.state = State::Running { since: time(5) };
    record.started = true;
    record.ready = true;
    record.id = Some("abc".into());
}

fn end(record: &mut Record, code: i32) {
    let mut end = lost(record.id.clone(), None);
    end.code = code;
    record.state = State::Terminated(end);
}

fn made(pod: &Pod, records: &[Record], previous: &PodStatus, now: i64) -> PodStatus {
    let facts = Facts {
        records,
        ips: Some(&"10.244.0.5,fd00:10:244::5".parse().unwrap()),
        host_ips: &"172.30.0.11,fd00:172:30::11".parse().unwrap(),
        has_sandbox: true,
        start_time: time(1),
        is_stopped: false,
        failure: None,
        now: time(now),
    };
    status(pod, &facts, previous)
}

fn conditions(status: &PodStatus) -> BTreeMap<&str, (&str, Option<&str>)> {
    let all = status.conditions.iter().flatten();
    all.map(|one| (one.type_.as_str(), (one.status.as_str(), one.reason.as_deref()))).collect()
}

#[test]
fn addresses_of_both_families_are_told_the_primary_first() {
    let pod = pod("Always", &[], &["web"]);
    let status = made(&pod, &records(&pod), &PodStatus::default(), 9);
    assert_eq!(status.pod_ip.as_deref(), Some("10.244.0.5"));
    let ips: Vec<_> = status.pod_ips.iter().flatten().map(|one| one.ip.as_str()).collect();
    assert_eq!(ips, ["10.244.0.5", "fd00:10:244::5"]);
    assert_eq!(status.host_ip.as_deref(), Some("172.30.0.11"));
    let ips: Vec<_> = status.host_ips.iter().flatten().map(|one| one.ip.as_str()).collect();
    assert_eq!(ips, ["172.30.0.11", "fd00:172:30::11"]);
}

#[test]
fn a_pod_goes_from_pending_through_running_to_its_end() {
    let pod = pod("Never", &["setup"], &["web"]);
    let mut records = records(&pod);
    let none = PodStatus::default();
    let status = made(&pod, &records, &none, 9);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(conditions(&status)["Initialized"], ("False", Some("ContainersNotInitialized")));
    end(&mut records[0], 0);
    let status = made(&pod, &records, &none, 9);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(conditions(&status)["Initialized"], ("True", None));
    assert_eq!(conditions(&status)["Ready"], ("False", Some("ContainersNotReady")));
    run(&mut records[1]);
    let status = made(&pod, &records, &none, 9);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(conditions(&status)["Ready"], ("True", None));
    let web = &status.container_statuses.as_ref().unwrap()[0];
    assert!(web.ready && web.started == Some(true));
    assert_eq!(web.container_id.as_deref(), Some("portolan://abc"));
    end(&mut records[1], 0);
    let status = made(&pod, &records, &none, 9);
    assert_eq!(status.phase.as_deref(), Some("Succeeded"));
    assert_eq!(conditions(&status)["Ready"], ("False", Some("PodCompleted")));
    assert_eq!(conditions(&status)["Initialized"], ("True", Some("PodCompleted")));
}

#[test]
fn phases_follow_the_restart_policy() {
    for (policy, codes, phase) in [
        ("Always", [0, 0], "Running"),
        ("Always", [1, 1], "Running"),
        ("OnFailure", [0, 0], "Succeeded"),
        ("OnFailure", [0, 1], "Running"),
        ("Never", [0, 0], "Succeeded"),
        ("Never", [0, 1], "Failed"),
    ] {
        let pod = pod(policy, &[], &["a", "b"]);
        let mut records = records(&pod);
        records.iter_mut().zip(codes).for_each(|(record, code)| end(record, code));
        let status = made(&pod, &records, &PodStatus::default(), 9);
        assert_eq!(status.phase.as_deref(), Some(phase), "{policy} {codes:?}");
    }
}

#[test]
fn a_container_in_back_off_keeps_the_pod_running_but_not_ready() {
    let pod = pod("Always", &[], &["web"]);
    let mut records = records(&pod);
    records[0].state = State::Waiting { reason: "CrashLoopBackOff".into(), message: None };
    records[0].last = Some(lost(None, None));
    records[0].restarts = 3;
    let status = made(&pod, &records, &PodStatus::default(), 9);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let web = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!((web.restart_count, web.ready), (3, false));
    assert!(web.last_state.as_ref().unwrap().terminated.is_some());
}

#[test]
fn a_transition_time_moves_only_with_the_status() {
    let pod = pod("Always", &[], &["web"]);
    let mut records = records(&pod);
    let ready = |status: &PodStatus| {
        let mut all = status.conditions.clone().unwrap().into_iter();
        all.find(|one| one.type_ == "Ready").unwrap().last_transition_time.unwrap().0
    };
    let first = made(&pod, &records, &PodStatus::default(), 10);
    let second = made(&pod, &records, &first, 20);
    assert_eq!(ready(&second), time(10));
    run(&mut records[0]);
    assert_eq!(ready(&made(&pod, &records, &second, 30)), time(30));
}

#[test]
fn what_others_wrote_stays_and_gates_are_honoured() {
    let mut pod = pod("Always", &[], &["web"]);
    pod.spec.as_mut().unwrap().readiness_gates =
        Some(vec![PodReadinessGate { condition_type: "example.com/lb".into() }]);
    let mut records = records(&pod);
    run(&mut records[0]);
    let status = made(&pod, &records, &PodStatus::default(), 9);
    assert_eq!(conditions(&status)["ContainersReady"], ("True", None));
    assert_eq!(conditions(&status)["Ready"], ("False", Some("ReadinessGatesNotReady")));
    let gate = condition("example.com/lb", Truth::yes());
    let previous = PodStatus { conditions: Some(vec![gate]), ..PodStatus::default() };
    let status = made(&pod, &records, &previous, 9);
    assert_eq!(conditions(&status)["Ready"], ("True", None));
    assert_eq!(conditions(&status)["example.com/lb"], ("True", None));
}

#[test]
fn records_of_a_vanished_instance_are_its_unwitnessed_end() {
    let mut pod = pod("Always", &[], &["web"]);
    let mut before = records(&pod);
    run(&mut before[0]);
    before[0].restarts = 2;
    pod.status = Some(made(&pod, &before, &PodStatus::default(), 9));
    let after = records(&pod);
    assert_eq!(after[0].restarts, 2);
    let end = after[0].terminated().unwrap();
    assert_eq!((end.code, end.reason.as_str()), (137, "ContainerStatusUnknown"));
    assert_eq!(end.started, Some(time(5)));
}

#[test]
fn qos_classes_follow_requests_and_limits() {
    let class = |requests: &[(&str, &str)], limits: &[(&str, &str)]| {
        let map = |pairs: &[(&str, &str)]| {
            Some(pairs.iter().map(|(k, v)| ((*k).to_owned(), Quantity((*v).into()))).collect())
        };
        let resources = ResourceRequirements {
            requests: map(requests),
            limits: map(limits),
            ..ResourceRequirements::default()
        };
        let container = Container { resources: Some(resources), ..Container::default() };
        qos_class(&PodSpec { containers: vec![container], ..PodSpec::default() })
    };
    let both = [("cpu", "1"), ("memory", "1Gi")];
    assert_eq!(class(&[], &[]), "BestEffort");
    assert_eq!(class(&[], &both), "Guaranteed");
    assert_eq!(class(&[("cpu", "1000m"), ("memory", "1024Mi")], &both), "Guaranteed");
    assert_eq!(class(&[("cpu", "500m")], &both), "Burstable");
    assert_eq!(class(&[("cpu", "1")], &[]), "Burstable");
}
