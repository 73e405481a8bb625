//! What `kubectl rollout` makes of Deployments: status, history, restart, undo, pause, resume.

use std::path::PathBuf;

use tokio::process::Command;

use crate::world::{World, run};

struct Kubectl {
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// Runs a command that must succeed; returns what it printed.
    async fn run(&self, arguments: &str) -> String {
        let output = Command::new("kubectl")
            .args(arguments.split_whitespace())
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.kubeconfig.parent().unwrap())
            .output()
            .await
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, errors) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "kubectl {arguments}: {out}{errors}");
        out
    }
}

#[test]
fn kubectl_rollout_understands_what_the_controllers_write() {
    if std::process::Command::new("kubectl").arg("version").arg("--client").output().is_err() {
        eprintln!(
            "SKIP kubectl_rollout_understands_what_the_controllers_write: no kubectl in PATH"
        );
        return;
    }
    run(async {
        let world = World::start().await;
        world.nodes(&["node-1", "node-2"]).await;
        let kubectl = Kubectl { kubeconfig: world.serve().await };

        kubectl.run("create deployment nginx --image=nginx --replicas=3 --port=80").await;
        let status = kubectl.run("rollout status deployment/nginx --timeout=60s").await;
        assert!(status.contains("deployment \"nginx\" successfully rolled out"), "{status}");

        kubectl.run("set image deployment/nginx nginx=nginx:2").await;
        kubectl.run("rollout status deployment/nginx --timeout=60s").await;
        let history = kubectl.run("rollout history deployment/nginx").await;
        assert!(history.lines().any(|l| l.starts_with("2 ")), "{history}");

        kubectl.run("rollout undo deployment/nginx").await;
        kubectl.run("rollout status deployment/nginx --timeout=60s").await;
        let image = "get deployment nginx -o jsonpath={.spec.template.spec.containers[0].image}";
        assert_eq!(kubectl.run(image).await, "nginx");

        kubectl.run("rollout restart deployment/nginx").await;
        kubectl.run("rollout status deployment/nginx --timeout=60s").await;
        let history = kubectl.run("rollout history deployment/nginx").await;
        assert!(history.lines().any(|l| l.starts_with("4 ")), "{history}");

        kubectl.run("rollout pause deployment/nginx").await;
        kubectl.run("set image deployment/nginx nginx=nginx:3").await;
        kubectl.run("rollout resume deployment/nginx").await;
        kubectl.run("rollout status deployment/nginx --timeout=60s").await;

        kubectl.run("expose deployment nginx --port=80").await;
        kubectl
            .run("wait --for=jsonpath={.subsets[0].addresses[2].ip} endpoints/nginx --timeout=60s")
            .await;
        let described = kubectl.run("describe deployment nginx").await;
        assert!(described.contains("ScalingReplicaSet"), "{described}");
        kubectl.run("scale deployment nginx --replicas=5").await;
        kubectl.run("rollout status deployment/nginx --timeout=60s").await;
        kubectl.run("delete deployment nginx --cascade=foreground --timeout=60s").await;
        assert_eq!(kubectl.run("get pods,replicasets -o name").await, "");
        world.stop().await;
    });
}
