//! The kinds that are served as objects alone, as people make and look at them.

use rcgen::{CertificateParams, KeyPair};

use super::*;

/// Cells of a row, without the ages.
type Cells = &'static [&'static str];

/// What `kubectl create` can do without a file: kind, arguments, what it says, and the rows of
/// `get` and of `get -o wide`.
const CREATED: &[(&str, &str, &str, Cells, Cells)] = &[
    (
        "ingress",
        "web --class=nginx --rule=a.example/*=web:80,tls=cert",
        "ingress.networking.k8s.io/web created",
        &["web", "nginx", "a.example", "80,", "443"],
        &["web", "nginx", "a.example", "80,", "443"],
    ),
    (
        "job",
        "pi --image=perl -- perl -e 1",
        "job.batch/pi created",
        &["pi", "Running", "0/1"],
        &["pi", "Running", "0/1", "pi", "perl", "batch.kubernetes.io/controller-uid=*"],
    ),
    (
        "cronjob",
        "daily --image=perl --schedule=@daily -- date",
        "cronjob.batch/daily created",
        &["daily", "@daily", "<none>", "False", "0", "<none>"],
        &["daily", "@daily", "<none>", "False", "0", "<none>", "daily", "perl", "<none>"],
    ),
    (
        "role",
        "reader --verb=get,list --resource=pods,deployments.apps",
        "role.rbac.authorization.k8s.io/reader created",
        &["reader"],
        &["reader"],
    ),
    (
        "rolebinding",
        "read --role=reader --user=jane --group=dev --serviceaccount=default:default",
        "rolebinding.rbac.authorization.k8s.io/read created",
        &["read", "Role/reader"],
        &["read", "Role/reader", "jane", "dev", "default/default"],
    ),
    (
        "clusterrole",
        "probe --verb=get --non-resource-url=/healthz",
        "clusterrole.rbac.authorization.k8s.io/probe created",
        &["probe"],
        &["probe"],
    ),
    (
        "clusterrolebinding",
        "all --clusterrole=probe --user=jane",
        "clusterrolebinding.rbac.authorization.k8s.io/all created",
        &["all", "ClusterRole/probe"],
        &["all", "ClusterRole/probe", "jane"],
    ),
    (
        "priorityclass",
        "high --value=1000 --preemption-policy=Never",
        "priorityclass.scheduling.k8s.io/high created",
        &["high", "1000", "false", "Never"],
        &["high", "1000", "false", "Never"],
    ),
    (
        "poddisruptionbudget",
        "web --selector=app=web --min-available=50%",
        "poddisruptionbudget.policy/web created",
        &["web", "50%", "N/A", "0"],
        &["web", "50%", "N/A", "0"],
    ),
    ("quota", "small --hard=cpu=1,pods=2", "resourcequota/small created", &["small"], &["small"]),
];

/// Applied from a manifest: what `get` shows, and a line of `describe`.
const APPLIED: &[(&str, &str, Cells, &str)] = &[
    (
        "ingressclass",
        r#"{"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
            "metadata": {"name": "nginx"}, "spec": {"controller": "example.com/nginx"}}"#,
        &["nginx", "example.com/nginx", "<none>"],
        "Controller:   example.com/nginx",
    ),
    (
        "networkpolicy",
        r#"{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "deny"}, "spec": {"podSelector": {"matchLabels": {"a": "b"}}}}"#,
        &["deny", "a=b"],
        "Policy Types: Ingress",
    ),
    (
        "storageclass",
        r#"{"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": {"name": "fast", "annotations":
                {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "example.com/p"}"#,
        &["fast", "(default)", "example.com/p", "Delete", "Immediate", "false"],
        "IsDefaultClass:  Yes",
    ),
    (
        "persistentvolume",
        r#"{"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"},
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
                     "hostPath": {"path": "/v"}}}"#,
        &["pv", "1Gi", "RWO", "Retain", "Pending", "<unset>"],
        "Path:          /v",
    ),
    (
        "persistentvolumeclaim",
        r#"{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast",
                     "resources": {"requests": {"storage": "1Gi"}}}}"#,
        &["data", "Pending", "fast", "<unset>"],
        "StorageClass:  fast",
    ),
    (
        "limitrange",
        r#"{"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "limits"},
            "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"},
                     "default": {"cpu": "1"}, "defaultRequest": {"cpu": "500m"}}]}}"#,
        &["limits"],
        "Container cpu - 1 500m 1 -",
    ),
    (
        "podtemplate",
        r#"{"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "t"},
            "template": {"metadata": {"labels": {"a": "b"}},
                         "spec": {"containers": [{"name": "c", "image": "i"}]}}}"#,
        &["t", "c", "i", "a=b"],
        "Name:         t",
    ),
    (
        "replicationcontroller",
        r#"{"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "old"},
            "spec": {"replicas": 2, "template": {"metadata": {"labels": {"a": "b"}},
                     "spec": {"containers": [{"name": "c", "image": "i"}]}}}}"#,
        &["old", "2", "0", "0"],
        "Selector:     a=b",
    ),
    (
        "runtimeclass",
        r#"{"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "runc"},
            "handler": "runc"}"#,
        &["runc", "runc"],
        "Handler:      runc",
    ),
    (
        "horizontalpodautoscaler",
        r#"{"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "web"}, "spec": {"maxReplicas": 3,
            "targetCPUUtilizationPercentage": 60,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}}"#,
        &["web", "Deployment/web", "cpu:", "<unknown>/60%", "1", "3", "0"],
        "Max replicas:                                          3",
    ),
];

/// The first row of a table without what is an age.
fn row(table: &str) -> Vec<&str> {
    let is_age = |cell: &str| {
        let time = cell.contains('T') && cell.ends_with('Z');
        let number = cell.strip_suffix(['s', 'm']).map(str::parse::<u64>);
        time || matches!(number, Some(Ok(_)))
    };
    cells(table)[1].iter().copied().filter(|cell| !is_age(cell)).collect()
}

/// One space between words, however kubectl aligns them.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `*` at the end of an expected cell stands for anything.
fn assert_row(found: &[&str], expected: &[&str], what: &str) {
    let fits = |(found, expected): (&&str, &&str)| match expected.strip_suffix('*') {
        Some(start) => found.starts_with(start),
        None => found == expected,
    };
    let all = found.len() == expected.len() && found.iter().zip(expected).all(fits);
    assert!(all, "{what}: {found:?} is not {expected:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_kubectl_creates_is_shown_described_and_deleted() {
    let Some(k) = Kubectl::start("what_kubectl_creates_is_shown_described_and_deleted").await
    else {
        return;
    };
    for (kind, arguments, said, plain, wide) in CREATED {
        assert_eq!(k.run(&format!("create {kind} {arguments}")).await.trim(), *said);
        let name = arguments.split(' ').next().unwrap();
        let shown = k.run(&format!("get {kind} {name}")).await;
        // A quota has no columns of its own until somebody counts.
        assert_row(&row(&shown), plain, kind);
        let shown = k.run(&format!("get {kind} {name} -o wide")).await;
        assert_row(&row(&shown), wide, kind);
        let described = k.run(&format!("describe {kind} {name}")).await;
        assert!(described.starts_with("Name:"), "{described}");
        let gone = k.run(&format!("delete {kind} {name}")).await;
        assert!(gone.contains(&format!("{name:?} deleted")), "{gone}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_applied_is_shown_described_and_deleted() {
    let Some(k) = Kubectl::start("what_is_applied_is_shown_described_and_deleted").await else {
        return;
    };
    for (kind, manifest, plain, line) in APPLIED {
        assert!(k.run_with("apply -f -", manifest).await.ends_with(" created\n"), "{kind}");
        assert!(k.run_with("apply -f -", manifest).await.ends_with(" unchanged\n"), "{kind}");
        let name = plain[0];
        let shown = k.run(&format!("get {kind} {name}")).await;
        assert_row(&row(&shown), plain, kind);
        let described = k.run(&format!("describe {kind} {name}")).await;
        assert!(squeezed(&described).contains(&squeezed(line)), "{line}\n{described}");
        k.run(&format!("delete {kind} {name}")).await;
        let gone = k.fail(&format!("get {kind} {name}")).await;
        assert!(gone.contains("NotFound"), "{gone}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_approved_or_denied() {
    let Some(k) = Kubectl::start("a_certificate_is_approved_or_denied").await else { return };
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let request = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, request);
    for (name, verb, condition) in [("yes", "approve", "Approved"), ("no", "deny", "Denied")] {
        let manifest = format!(
            r#"{{"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
                "metadata": {{"name": "{name}"}}, "spec": {{"request": "{request}",
                "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]}}}}"#
        );
        k.run_with("create -f -", &manifest).await;
        let shown = k.run(&format!("get csr {name}")).await;
        let signer = "kubernetes.io/kube-apiserver-client";
        assert_row(&row(&shown), &[name, signer, "admin", "<none>", "Pending"], verb);
        k.run(&format!("certificate {verb} {name}")).await;
        let shown = k.run(&format!("get csr {name}")).await;
        assert_row(&row(&shown), &[name, signer, "admin", "<none>", condition], verb);
        let described = k.run(&format!("describe csr {name}")).await;
        assert!(squeezed(&described).contains(&format!("Status: {condition}")), "{described}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_it_is_found_listed_and_explained() {
    let Some(k) = Kubectl::start("all_of_it_is_found_listed_and_explained").await else { return };
    k.run("create deployment web --image=nginx").await;
    k.run("autoscale deployment web --min=1 --max=3 --cpu-percent=70").await;
    k.run("create job pi --image=perl").await;
    k.run("create cronjob daily --image=perl --schedule=@daily").await;
    let all = k.run("get all -A -o name").await;
    for name in [
        "service/kubernetes",
        "deployment.apps/web",
        "horizontalpodautoscaler.autoscaling/web",
        "cronjob.batch/daily",
        "job.batch/pi",
    ] {
        assert!(all.lines().any(|line| line == name), "{name}: {all}");
    }
    assert!(k.run("get hpa web").await.contains("cpu: <unknown>/70%"));
    let resources = k.run("api-resources --sort-by=name").await;
    for line in [
        ["ingresses", "ing", "networking.k8s.io/v1", "true", "Ingress"],
        ["horizontalpodautoscalers", "hpa", "autoscaling/v2", "true", "HorizontalPodAutoscaler"],
        ["priorityclasses", "pc", "scheduling.k8s.io/v1", "false", "PriorityClass"],
        ["resourcequotas", "quota", "v1", "true", "ResourceQuota"],
    ] {
        assert!(cells(&resources).iter().any(|cells| *cells == line), "{line:?}: {resources}");
    }
    let explained = k.run("explain ingress.spec.rules").await;
    assert!(explained.contains("FIELD: rules <[]IngressRule>"), "{explained}");
    let explained = k.run("explain hpa.spec --api-version=autoscaling/v1").await;
    assert!(explained.contains("targetCPUUtilizationPercentage\t<integer>"), "{explained}");
    k.run("create quota small --hard=pods=2").await;
    let described = k.run("describe namespace default").await;
    assert!(described.contains("Resource Quotas"), "{described}");
    assert!(described.contains("No LimitRange resource."), "{described}");
}
