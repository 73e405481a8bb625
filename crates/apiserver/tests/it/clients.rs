//! Other people's clients: kube's watcher and controller, and the Python client.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use portolan_apiserver::pki::{Usage, write_private};
use serde_json::json;

use crate::support::*;
use crate::tls::listen;

#[tokio::test]
async fn a_kube_watcher_that_slept_too_long_lists_again_and_ends_up_right() {
    let t = start_forgetful().await;
    t.post(CONFIG_MAPS, config_map("m")).await.ok();
    let maps: Api<ConfigMap> = Api::default_namespaced(t.client());
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut events = watcher::watcher(maps.clone(), config).boxed();
        tokio::time::timeout(PATIENCE, async {
            while !matches!(events.try_next().await.unwrap(), Some(Event::InitDone)) {}
        })
        .await
        .unwrap();
        // Nobody reads: the server cuts the watch off, and forgets what it had not sent.
        for i in 0..60 {
            let change = json!({"data": {"a": i.to_string()}});
            t.patch(&format!("{CONFIG_MAPS}/m"), "merge-patch", change).await.ok();
        }
        let (mut expired, mut listed) = (false, false);
        tokio::time::timeout(PATIENCE, async {
            loop {
                match events.next().await.unwrap() {
                    Ok(Event::InitApply(map)) if listed => {
                        if map.data.unwrap()["a"] == "59" {
                            return;
                        }
                    }
                    Ok(Event::Init) => listed = true,
                    Ok(_) => {}
                    Err(watcher::Error::WatchError(status)) => {
                        assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
                        expired = true;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await
        .expect("the watcher never saw the last change");
        assert!(expired);
    }
}

/// Marks each ConfigMap that is not marked yet.
async fn mark(map: Arc<ConfigMap>, client: Arc<Client>) -> Result<Action, kube::Error> {
    if !map.annotations().contains_key("seen") {
        let maps: Api<ConfigMap> = Api::namespaced((*client).clone(), &map.namespace().unwrap());
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"seen": "yes"}}}));
        maps.patch(&map.name_any(), &PatchParams::default(), &patch).await?;
    }
    Ok(Action::await_change())
}

#[tokio::test]
async fn a_kube_controller_reconciles_all_that_there_is_and_comes() {
    let t = start().await;
    let create = async |name: &str| t.post(CONFIG_MAPS, config_map(name)).await.ok();
    for i in 0..5 {
        create(&format!("before-{i}")).await;
    }
    let maps: Api<ConfigMap> = Api::default_namespaced(t.client());
    let on_error = |_: Arc<ConfigMap>, _: &kube::Error, _: Arc<Client>| {
        Action::requeue(Duration::from_millis(10))
    };
    let controller = Controller::new(maps.clone(), watcher::Config::default());
    let running =
        tokio::spawn(controller.run(mark, on_error, Arc::new(t.client())).for_each(|_| async {}));
    for i in 0..5 {
        create(&format!("after-{i}")).await;
    }
    maps.delete("before-0", &DeleteParams::default()).await.unwrap();
    tokio::time::timeout(PATIENCE, async {
        loop {
            let all = maps.list(&ListParams::default()).await.unwrap();
            let seen: BTreeSet<String> = all
                .iter()
                .filter(|m| m.annotations().get("seen").is_some_and(|s| s == "yes"))
                .map(ResourceExt::name_any)
                .collect();
            if seen.len() == 9 && !seen.contains("before-0") {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the controller missed some");
    running.abort();
}

/// A Python that has the client: the one that `scripts/python` made, or the machine's.
fn python() -> Option<String> {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/python/bin/python");
    [ours.to_string_lossy().into_owned(), "python3".to_owned()].into_iter().find(|python| {
        let mut command = Command::new(python);
        command.args(["-c", "import kubernetes.informer"]);
        command.output().is_ok_and(|output| output.status.success())
    })
}

#[tokio::test]
async fn the_python_client_creates_watches_patches_and_deletes() {
    let Some(python) = python() else {
        println!(
            "SKIP the_python_client_creates_watches_patches_and_deletes: there is no Python with \
             the package kubernetes (scripts/python installs it)"
        );
        return;
    };
    let t = start().await;
    let server = listen(&t).await;
    let admin = t.pki.issue("admin", Some("system:masters"), &[], Usage::Client).unwrap();
    let kubeconfig = t.dir.path().join("kubeconfig");
    let url = format!("https://{}", server.address);
    write_private(&kubeconfig, &t.pki.kubeconfig(&url, "admin", &admin)).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/client.py");
    let home = t.dir.path().to_owned();
    let output = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(python);
        command.arg(script).env("KUBECONFIG", kubeconfig).env("HOME", home);
        command.output().unwrap()
    });
    let output = tokio::time::timeout(4 * PATIENCE, output).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complained}");
    assert!(said.ends_with("13 checks passed\n"), "{said}{complained}");
}
