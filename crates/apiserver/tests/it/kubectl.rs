//! Real `kubectl` over TLS on loopback: what people type, and what they see.

mod kinds;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use portolan_apiserver::pki::{Usage, write_private};

use crate::support::*;
use crate::tls::{Listening, listen};

struct Kubectl {
    kubeconfig: PathBuf,
    home: PathBuf,
    _server: Listening,
    _fixture: Fixture,
}

impl Kubectl {
    /// None, with a line that says so, where there is no kubectl.
    async fn start(test: &str) -> Option<Kubectl> {
        if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
            println!("SKIP {test}: kubectl is not installed");
            return None;
        }
        let fixture = start().await;
        let server = listen(&fixture).await;
        let admin = fixture.pki.issue("admin", Some("system:masters"), &[], Usage::Client).unwrap();
        let url = format!("https://{}", server.address);
        let kubeconfig = fixture.dir.path().join("kubeconfig");
        write_private(&kubeconfig, &fixture.pki.kubeconfig(&url, "admin", &admin)).unwrap();
        let home = fixture.dir.path().to_owned();
        Some(Kubectl { kubeconfig, home, _server: server, _fixture: fixture })
    }

    async fn output(&self, line: &str, stdin: &str) -> Output {
        let mut words = line.split(' ').filter(|w| !w.is_empty());
        let mut editor = String::new();
        let mut arguments: Vec<String> = Vec::new();
        for word in words.by_ref() {
            match word.strip_prefix("EDITOR=") {
                Some(command) => editor = command.replace('+', " "),
                None => arguments.push(word.to_owned()),
            }
        }
        let input = self.home.join("stdin");
        std::fs::write(&input, stdin).unwrap();
        let mut command = Command::new("kubectl");
        command
            .args(&arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .env("EDITOR", editor)
            .stdin(std::fs::File::open(&input).unwrap());
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// Standard output of a command that succeeds.
    async fn run(&self, line: &str) -> String {
        self.run_with(line, "").await
    }

    async fn run_with(&self, line: &str, stdin: &str) -> String {
        let output = self.output(line, stdin).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {line}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard error of a command that fails.
    async fn fail(&self, line: &str) -> String {
        let output = self.output(line, "").await;
        assert!(!output.status.success(), "kubectl {line} succeeded");
        String::from_utf8(output.stderr).unwrap().trim().to_owned()
    }
}

/// The cells of each line of a table.
fn cells(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|l| l.split_whitespace().collect()).collect()
}

fn manifest(node_port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: nginx-nodeport\nspec:\n  type: NodePort\n  \
         selector:\n    app: nginx\n  ports:\n    - port: 80\n      targetPort: 80\n      nodePort: \
         {node_port}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_applied_shown_diffed_edited_and_deleted() {
    let Some(k) = Kubectl::start("a_service_is_applied_shown_diffed_edited_and_deleted").await
    else {
        return;
    };
    let text = manifest(30080);
    assert_eq!(k.run_with("apply -f -", &text).await, "service/nginx-nodeport created\n");
    assert_eq!(k.run_with("apply -f -", &text).await, "service/nginx-nodeport unchanged\n");
    assert_eq!(k.run_with("diff -f -", &text).await, "");
    let other = manifest(30081);
    let difference = k.output("diff -f -", &other).await;
    assert_eq!(difference.status.code(), Some(1));
    let difference = String::from_utf8(difference.stdout).unwrap();
    assert!(difference.contains("-  - nodePort: 30080\n+  - nodePort: 30081"), "{difference}");
    assert_eq!(k.run_with("apply -f -", &other).await, "service/nginx-nodeport configured\n");

    let wide = k.run("get svc nginx-nodeport -o wide").await;
    let rows = cells(&wide);
    let header = ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"];
    assert_eq!(rows[0], header);
    assert_eq!((rows[1][1], rows[1][3], rows[1][4]), ("NodePort", "<none>", "80:30081/TCP"));
    assert_eq!(rows[1][6], "app=nginx");

    let described = k.run("describe svc nginx-nodeport").await;
    for line in
        ["Type:                     NodePort", "NodePort:                 <unset>  30081/TCP"]
    {
        assert!(described.contains(line), "{described}");
    }
    let edited = k.run("EDITOR=sed+-i+s/30081/30082/ edit svc nginx-nodeport").await;
    assert_eq!(edited, "service/nginx-nodeport edited\n");
    assert!(k.run("get svc").await.contains("80:30082/TCP"));
    assert_eq!(
        k.run("label svc nginx-nodeport tier=web").await,
        "service/nginx-nodeport labeled\n"
    );
    k.run("annotate svc nginx-nodeport note=x").await;
    assert!(k.run("get svc -l tier=web -o name").await.contains("service/nginx-nodeport"));
    let gone = k.run("delete svc nginx-nodeport").await;
    assert!(gone.starts_with("service \"nginx-nodeport\" deleted"), "{gone}");
    assert_eq!(
        k.fail("get svc nginx-nodeport").await,
        "Error from server (NotFound): services \"nginx-nodeport\" not found"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_is_created_exposed_scaled_and_patched() {
    let Some(k) = Kubectl::start("a_deployment_is_created_exposed_scaled_and_patched").await else {
        return;
    };
    let created = k.run("create deployment nginx --image=nginx --replicas=3 --port=80").await;
    assert_eq!(created, "deployment.apps/nginx created\n");
    assert_eq!(k.run("expose deployment nginx --name=web").await, "service/web exposed\n");
    assert_eq!(
        k.run("scale deployment nginx --replicas=0").await,
        "deployment.apps/nginx scaled\n"
    );
    let replicas = "get deploy nginx -o jsonpath={.spec.replicas}";
    assert_eq!(k.run(replicas).await, "0");
    k.run("set image deployment/nginx nginx=nginx:1").await;
    assert!(k.run("get deploy -o wide").await.contains("nginx:1"));
    let patch = r#"patch deploy nginx -p {"spec":{"template":{"spec":{"containers":[{"name":"nginx","env":[{"name":"A","value":"b"}]}]}}}}"#;
    assert_eq!(k.run(patch).await, "deployment.apps/nginx patched\n");
    let image = "get deploy nginx -o jsonpath={.spec.template.spec.containers[0].image}";
    assert_eq!(k.run(image).await, "nginx:1");
    let ports = "get svc web -o jsonpath={.spec.ports[0].port}/{.spec.selector.app}";
    assert_eq!(k.run(ports).await, "80/nginx");
    k.run("delete deploy,svc -l app=nginx").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_validate_and_ask_about_oneself() {
    let Some(k) = Kubectl::start("explain_validate_and_ask_about_oneself").await else { return };
    let explained = k.run("explain service.spec.ports.nodePort").await;
    assert!(explained.contains("FIELD: nodePort <integer>"), "{explained}");
    assert!(k.run("explain deployment --recursive").await.contains("progressDeadlineSeconds"));
    // The way of kubectl before 1.27, which reads the protobuf of version 2.
    let older = "explain service.spec.ports.nodePort --output=plaintext-openapiv2";
    let explained = k.run(older).await;
    assert!(explained.contains("FIELD:    nodePort <integer>"), "{explained}");
    std::fs::write(k.home.join("bad.yaml"), manifest(30080).replace("selector:", "selectr:"))
        .unwrap();
    let path: &Path = &k.home.join("bad.yaml");
    let refused = k.fail(&format!("apply --validate=strict -f {}", path.display())).await;
    assert!(refused.contains("unknown field \"spec.selectr\""), "{refused}");
    assert!(k.run("get svc -o name").await.lines().all(|l| l == "service/kubernetes"));
    std::fs::write(k.home.join("typo.yaml"), manifest(30080).replace("Service", "Servce")).unwrap();
    let unknown = k.fail(&format!("apply -f {}", k.home.join("typo.yaml").display())).await;
    assert!(unknown.contains("no matches for kind \"Servce\" in version \"v1\""), "{unknown}");
    assert_eq!(k.run("auth can-i create pods").await, "yes\n");
    assert!(k.run("auth whoami").await.contains("admin"));
    assert!(k.run("api-resources -o name").await.contains("endpointslices.discovery.k8s.io"));
    assert!(k.run("version").await.contains("Server Version: v1.36.0"));
    assert!(k.run("cluster-info").await.contains("control plane"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_namespaces_and_secrets_come_and_go() {
    let Some(k) = Kubectl::start("pods_namespaces_and_secrets_come_and_go").await else { return };
    assert_eq!(k.run("create ns team").await, "namespace/team created\n");
    k.run("create secret generic s -n team --from-literal=a=b").await;
    let data = "get secret s -n team -o jsonpath={.data.a}";
    assert_eq!(k.run(data).await, "Yg==");
    k.run("create configmap c -n team --from-literal=a=b").await;
    k.run("create serviceaccount default -n team").await;
    assert_eq!(k.run("run p -n team --image=nginx --port=80").await, "pod/p created\n");
    let pods = k.run("get pods -n team").await;
    assert_eq!(cells(&pods)[1][..4], ["p", "0/1", "Pending", "0"]);
    assert!(k.run("describe pod p -n team").await.contains("Status:           Pending"));
    assert!(k.run("delete pod p -n team").await.starts_with("pod \"p\" deleted"));
    k.run("delete ns team --wait=false").await;
    let namespaces = k.run("get ns team").await;
    assert_eq!(cells(&namespaces)[1][1], "Terminating");
    assert_eq!(
        k.fail("create configmap d -n team").await,
        "error: failed to create configmap: configmaps \"d\" is forbidden: unable to create new \
         content in namespace team because it is being terminated"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_applied_on_the_server_with_conflicts_migration_diff_and_prune() {
    let test = "objects_are_applied_on_the_server_with_conflicts_migration_diff_and_prune";
    let Some(k) = Kubectl::start(test).await else { return };
    let deployment = |image: &str, replicas: u32| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n  labels: {{set: \
             a}}\nspec:\n  replicas: {replicas}\n  selector:\n    matchLabels: {{app: web}}\n  \
             template:\n    metadata:\n      labels: {{app: web}}\n    spec:\n      \
             containers:\n      - name: web\n        image: {image}\n"
        )
    };
    let apply = "apply --server-side -f -";
    let text = deployment("nginx", 1);
    let applied = "deployment.apps/web serverside-applied\n";
    assert_eq!(k.run_with(apply, &text).await, applied);
    assert_eq!(k.run_with("diff --server-side -f -", &text).await, "");
    let difference = k.output("diff --server-side -f -", &deployment("nginx:2", 1)).await;
    let difference = String::from_utf8(difference.stdout).unwrap();
    assert!(difference.contains("-      - image: nginx\n+      - image: nginx:2"), "{difference}");
    k.run("scale deployment web --replicas=4").await;
    let output = k.output(apply, &text).await;
    assert!(!output.status.success());
    let refused = String::from_utf8(output.stderr).unwrap();
    assert!(
        refused.starts_with(
            "error: Apply failed with 1 conflict: conflict with \"kubectl\" with subresource \
             \"scale\" using apps/v1: .spec.replicas\nPlease review the fields above"
        ),
        "{refused}"
    );
    assert_eq!(k.run_with(&format!("{apply} --force-conflicts"), &text).await, applied);
    assert_eq!(k.run("get deploy web -o jsonpath={.spec.replicas}").await, "1");
    k.run_with(&format!("{apply} --field-manager=mine"), &text).await;
    let shown = k.run("get deploy web -o yaml --show-managed-fields").await;
    assert!(shown.contains("manager: mine") && shown.contains("f:replicas: {}"), "{shown}");
    assert!(!k.run("get deploy web -o yaml").await.contains("managedFields"));

    // From client-side to server-side: kubectl hands the fields over, and what the manifest drops goes.
    let client_side = manifest(30080);
    k.run_with("apply -f -", &client_side).await;
    let managers = "get svc nginx-nodeport -o jsonpath={.metadata.managedFields[*].manager}";
    assert_eq!(k.run(managers).await, "kubectl-client-side-apply");
    let moved = k.run_with(apply, &client_side.replace("30080", "30081")).await;
    assert_eq!(moved, "service/nginx-nodeport serverside-applied\n");
    // The annotation gets a manager of its own, so that going back stays possible. Which of the two is
    // the later one, and so the last, is decided by where the second ends.
    let shown = k.run(managers).await;
    let mut both: Vec<_> = shown.split(' ').collect();
    both.sort_unstable();
    assert_eq!(both, ["kubectl", "kubectl-last-applied"]);
    let last = "get svc nginx-nodeport -o \
                jsonpath={.metadata.annotations.kubectl\\.kubernetes\\.io/last-applied-configuration}";
    assert!(k.run(last).await.contains("30081"));

    // kubectl itself prunes only what it applies from its own side.
    let map = |name: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n  labels: {{set: a}}\n"
        )
    };
    k.run_with("apply -f -", &map("old")).await;
    let prune = "apply -f - --prune -l set=a --prune-allowlist=core/v1/ConfigMap";
    let pruned = k.run_with(prune, &map("m")).await;
    assert_eq!(pruned, "configmap/m created\nconfigmap/old pruned\n");
}
