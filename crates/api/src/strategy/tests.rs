use super::*;
use crate::kinds;

fn kind(api_version: &str, kind: &str) -> &'static Kind {
    kinds::by_kind(api_version, kind).unwrap()
}

fn updated_service(old: Value, new: Value) -> Value {
    let old = json!({ "spec": old, "status": { "loadBalancer": { "ingress": [] } } });
    let mut new = json!({ "spec": new });
    prepare_for_update(kind("v1", "Service"), None, &mut new, &old);
    new["spec"].clone()
}

#[test]
fn a_creator_cannot_set_the_status() {
    let mut pod = json!({ "metadata": {}, "spec": {}, "status": { "phase": "Running" } });
    prepare_for_create(kind("v1", "Pod"), &mut pod);
    assert_eq!(pod["status"], json!({ "phase": "Pending", "qosClass": "BestEffort" }));
    let mut node = json!({ "metadata": {}, "status": { "capacity": { "cpu": "1" } } });
    prepare_for_create(kind("v1", "Node"), &mut node);
    assert_eq!(node["status"]["capacity"]["cpu"], "1", "a node registers with its status");
}

#[test]
fn spec_and_status_are_written_apart() {
    let deployment = kind("apps/v1", "Deployment");
    let old = json!({ "metadata": { "generation": 3 }, "spec": { "replicas": 1 }, "status": { "replicas": 1 } });
    let written = json!({ "metadata": {}, "spec": { "replicas": 2 }, "status": { "replicas": 2 } });

    let mut new = written.clone();
    prepare_for_update(deployment, None, &mut new, &old);
    assert_eq!(
        new,
        json!({ "metadata": { "generation": 4 }, "spec": { "replicas": 2 }, "status": { "replicas": 1 } })
    );
    let mut new = written;
    prepare_for_update(deployment, Some(Subresource::Status), &mut new, &old);
    assert_eq!(
        new,
        json!({ "metadata": { "generation": 3 }, "spec": { "replicas": 1 }, "status": { "replicas": 2 } })
    );
}

#[test]
fn a_put_that_leaves_out_allocated_values_keeps_them() {
    let old = json!({
        "type": "NodePort", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"],
        "ports": [{ "name": "a", "port": 80, "nodePort": 30080 },
                  { "name": "b", "port": 81, "nodePort": 30081 }],
    });
    let new = json!({
        "type": "NodePort",
        "ports": [{ "name": "b", "port": 81 }, { "name": "c", "port": 82, "nodePort": 30080 },
                  { "name": "a", "port": 80 }],
    });
    let spec = updated_service(old, new);
    assert_eq!(spec["clusterIP"], "10.96.0.5");
    assert_eq!(spec["clusterIPs"], json!(["10.96.0.5"]));
    let ports: Vec<i64> = spec.items("ports").iter().map(|p| p.number("nodePort")).collect();
    assert_eq!(ports, [30081, 30080, 0], "a's port has been taken by c");
}

#[test]
fn a_changed_type_drops_only_what_was_not_changed_with_it() {
    let old = json!({
        "type": "LoadBalancer", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"],
        "allocateLoadBalancerNodePorts": true, "externalTrafficPolicy": "Cluster",
        "ports": [{ "port": 80, "nodePort": 30080 }],
    });
    let mut new = old.clone();
    new.set("type", "ClusterIP");
    assert_eq!(
        updated_service(old.clone(), new.clone()),
        json!({
            "type": "ClusterIP", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"],
            "ports": [{ "port": 80 }],
        })
    );
    new["ports"][0].set("nodePort", 30099);
    assert_eq!(updated_service(old.clone(), new)["ports"][0]["nodePort"], 30099);

    let mut new = old.clone();
    new.set("type", "ExternalName");
    let external = updated_service(old, new);
    assert!(!external.has("clusterIP") && !external.has("clusterIPs"));
}

#[test]
fn cluster_ips_follow_a_client_that_knows_only_the_first() {
    let old = json!({ "type": "ClusterIP", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"] });
    let mut new = old.clone();
    new.set("clusterIP", "10.96.0.6");
    assert_eq!(updated_service(old, new)["clusterIPs"], json!(["10.96.0.6"]));

    let mut created = json!({ "spec": { "clusterIP": "None" } });
    prepare_for_create(kind("v1", "Service"), &mut created);
    assert_eq!(created["spec"]["clusterIPs"], json!(["None"]));
}

#[test]
fn quality_of_service_follows_requests_and_limits() {
    let class = |resources| qos_class(&json!({ "containers": [{ "resources": resources }] }));
    let all = json!({ "cpu": "1", "memory": "1Gi" });
    assert_eq!(class(json!({})), "BestEffort");
    assert_eq!(class(json!({ "limits": all, "requests": all })), "Guaranteed");
    assert_eq!(class(json!({ "requests": { "cpu": "1" } })), "Burstable");
    assert_eq!(class(json!({ "limits": all, "requests": { "cpu": "500m" } })), "Burstable");
}

#[test]
fn namespaces_keep_their_finalizer_but_for_the_finalize_subresource() {
    let namespace = kind("v1", "Namespace");
    let mut old = json!({ "metadata": {} });
    prepare_for_create(namespace, &mut old);
    assert_eq!(old["spec"]["finalizers"], json!(["kubernetes"]));
    let emptied = json!({ "metadata": {}, "spec": { "finalizers": [] } });
    let mut new = emptied.clone();
    prepare_for_update(namespace, None, &mut new, &old);
    assert_eq!(new["spec"]["finalizers"], json!(["kubernetes"]));
    let mut new = emptied;
    prepare_for_update(namespace, Some(Subresource::Finalize), &mut new, &old);
    assert_eq!(new["spec"]["finalizers"], json!([]));
}

#[test]
fn an_update_need_not_repeat_what_the_system_wrote() {
    let config_map = kind("v1", "ConfigMap");
    let old = json!({ "metadata": {
        "uid": "1", "creationTimestamp": "2026-01-01T00:00:00Z",
        "deletionTimestamp": "2026-01-02T00:00:00Z", "deletionGracePeriodSeconds": 0,
    } });
    let mut new = json!({ "metadata": {}, "data": { "a": "b" } });
    prepare_for_update(config_map, None, &mut new, &old);
    assert_eq!(new["metadata"], old["metadata"]);
}

#[test]
fn a_job_is_told_from_others_by_its_uid() {
    let job = kind("batch/v1", "Job");
    let labels = |spec: Value| {
        let mut object = json!({ "metadata": { "name": "j", "uid": "u" }, "spec": spec });
        prepare_for_create(job, &mut object);
        complete(job, &mut object);
        object
    };
    let object = labels(json!({ "template": { "metadata": { "labels": { "a": "b" } } } }));
    assert_eq!(
        object["spec"]["selector"],
        json!({ "matchLabels": { "batch.kubernetes.io/controller-uid": "u" } })
    );
    assert_eq!(
        object["spec"]["template"]["metadata"]["labels"],
        json!({
            "a": "b", "batch.kubernetes.io/controller-uid": "u",
            "batch.kubernetes.io/job-name": "j", "controller-uid": "u", "job-name": "j",
        })
    );
    let by_hand = json!({ "manualSelector": true, "selector": { "matchLabels": { "a": "b" } } });
    assert_eq!(labels(by_hand.clone())["spec"], by_hand);
}

#[test]
fn status_and_generation_of_each_kind_start_as_upstreams_do() {
    for (api_version, name, status, generation) in [
        ("v1", "PersistentVolume", json!({ "phase": "Pending" }), json!(null)),
        ("v1", "PersistentVolumeClaim", json!({ "phase": "Pending" }), json!(null)),
        ("v1", "ResourceQuota", json!({}), json!(null)),
        ("v1", "ReplicationController", json!({ "replicas": 0 }), json!(1)),
        ("v1", "PodTemplate", json!({ "x": 1 }), json!(1)),
        ("batch/v1", "Job", json!({}), json!(1)),
        ("batch/v1", "CronJob", json!({}), json!(1)),
        ("certificates.k8s.io/v1", "CertificateSigningRequest", json!({}), json!(null)),
        ("networking.k8s.io/v1", "Ingress", json!({ "loadBalancer": {} }), json!(1)),
        ("networking.k8s.io/v1", "NetworkPolicy", json!({ "x": 1 }), json!(1)),
        ("storage.k8s.io/v1", "VolumeAttachment", json!({ "attached": false }), json!(null)),
    ] {
        let mut object = json!({ "metadata": {}, "spec": {}, "status": { "x": 1 } });
        prepare_for_create(kind(api_version, name), &mut object);
        assert_eq!(object["status"], status, "{name}");
        assert_eq!(object["metadata"]["generation"], generation, "{name}");
    }
}

#[test]
fn a_changed_pod_template_is_a_new_generation_and_a_changed_description_is_none() {
    for (api_version, name, field, expected) in [
        ("v1", "PodTemplate", "template", 4),
        ("networking.k8s.io/v1", "NetworkPolicy", "spec", 4),
        ("scheduling.k8s.io/v1", "PriorityClass", "description", 3),
    ] {
        let mut old = json!({ "metadata": { "generation": 3 } });
        old.set(field, json!({ "a": "b" }));
        let mut new = old.clone();
        new.set(field, json!({ "a": "c" }));
        prepare_for_update(kind(api_version, name), None, &mut new, &old);
        assert_eq!(new["metadata"]["generation"], expected, "{name}");
    }
}

#[test]
fn a_request_for_a_certificate_names_who_sends_it() {
    let csr = kind("certificates.k8s.io/v1", "CertificateSigningRequest");
    let mut object = json!({ "spec": { "username": "root", "uid": "0", "extra": { "a": ["b"] } } });
    set_requester(csr, &mut object, "jane", &["dev".to_owned()]);
    assert_eq!(object["spec"], json!({ "username": "jane", "groups": ["dev"] }));
    let old = object.clone();
    object["spec"].set("username", "root");
    prepare_for_update(csr, None, &mut object, &old);
    assert_eq!(object["spec"], old["spec"]);
}
