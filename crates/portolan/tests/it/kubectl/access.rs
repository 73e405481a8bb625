//! Identities inside a lab: a program in a pod uses the API as its service account, and no more of
//! it than the account's role allows.

use serde_json::Value;

use super::cluster::Cluster;

/// A pod that does nothing, as the account that upstream gives to CoreDNS.
const CLIENT: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: coredns, namespace: kube-system}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: kube-system}
spec:
  serviceAccountName: coredns
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: tools, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: nobody, namespace: default}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: tools, command: [sleep, infinity]}]
";

/// What client libraries do inside a cluster (`rest.InClusterConfig`), in shell.
const ASK: &str = "
files=/var/run/secrets/kubernetes.io/serviceaccount
server=https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT_HTTPS
ask() { curl -sS --max-time 20 --cacert $files/ca.crt \"$@\"; }
as_me() { ask -H \"Authorization: Bearer $(cat $files/token)\" \"$server$1\"; }
";

pub(crate) fn pods_use_the_api_as_their_account(cluster: &Cluster) {
    cluster.apply(CLIENT);
    let inside = |script: &str| -> String {
        let script = format!("{ASK}\n{script}");
        cluster.run(&["exec", "-n", "kube-system", "client", "--", "sh", "-ec", &script])
    };
    cluster.run(&[
        "wait",
        "--for=condition=Ready",
        "pod/client",
        "-n",
        "kube-system",
        "--timeout=60s",
    ]);
    cluster.run(&["wait", "--for=condition=Ready", "pod/nobody", "--timeout=60s"]);
    assert_eq!(inside("cat $files/namespace"), "kube-system");
    let json = |script: &str| -> Value {
        let text = inside(script);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{script}: {error}: {text}"))
    };

    let pods = json("as_me /api/v1/namespaces/kube-system/pods");
    assert_eq!(pods["kind"], "PodList");
    let names: Vec<&str> = pods["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|pod| pod["metadata"]["name"].as_str())
        .collect();
    assert!(names.contains(&"client"), "{names:?}");
    assert!(names.iter().any(|name| name.starts_with("kube-proxy-")), "{names:?}");

    let refused = json("as_me /api/v1/namespaces/kube-system/secrets");
    assert_eq!(
        (&refused["code"], refused["message"].as_str()),
        (
            &Value::from(403),
            Some(
                "secrets is forbidden: User \"system:serviceaccount:kube-system:coredns\" cannot \
                 list resource \"secrets\" in API group \"\" in the namespace \"kube-system\""
            )
        )
    );
    for script in [
        "ask $server/api/v1/namespaces/kube-system/pods",
        "ask -H 'Authorization: Bearer nonsense' $server/version",
    ] {
        assert_eq!(json(script)["code"], 401, "{script}");
    }
    assert_eq!(json("ask $server/version")["major"], "1");

    // A pod that wants no token has none.
    let found = cluster.run(&[
        "exec",
        "nobody",
        "--",
        "sh",
        "-c",
        "test -e /var/run/secrets/kubernetes.io/serviceaccount/token || echo none",
    ]);
    assert_eq!(found.trim(), "none");

    let as_account = "--as=system:serviceaccount:kube-system:coredns";
    assert_eq!(cluster.run(&["auth", "can-i", "list", "pods", as_account]).trim(), "yes");
    assert!(cluster.fail(&["auth", "can-i", "list", "secrets", as_account]).starts_with("no"));
    let listed = cluster.run(&["auth", "can-i", "--list", as_account]);
    assert!(listed.contains("endpointslices.discovery.k8s.io"), "{listed}");
    let whoami = cluster.run(&["auth", "whoami", as_account]);
    assert!(whoami.contains("system:serviceaccounts:kube-system"), "{whoami}");
    let token = cluster.run(&["create", "token", "coredns", "-n", "kube-system", "--duration=10m"]);
    assert_eq!(token.trim().split('.').count(), 3);

    // The proxies have no credentials but those of their account.
    let accounts = "jsonpath={.items[*].spec.serviceAccountName}";
    let proxies = cluster.run(&[
        "get",
        "pods",
        "-n",
        "kube-system",
        "-l",
        "k8s-app=kube-proxy",
        "-o",
        accounts,
    ]);
    assert!(
        !proxies.is_empty() && proxies.split(' ').all(|name| name == "kube-proxy"),
        "{proxies}"
    );
}
