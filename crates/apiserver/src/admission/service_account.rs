//! Gives pods their service account and its token (upstream `plugin/pkg/admission/serviceaccount`).
//!
//! Every container gets, at a well-known path, a projection of a token that the node agent asks for and renews, the
//! cluster's authority, and the namespace's name; unless pod or account say otherwise.

use std::time::Duration;

use portolan_api::{Kind, kinds};
use portolan_store::{Event, Stored};
use serde_json::{Value, json};

use crate::registry::{Registry, meta, name_suffix, subject};
use crate::status::{Result, Status};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour and a bit, by which upstream knows tokens that nobody asked for.
const TOKEN_SECONDS: u64 = 60 * 60 + 7;
/// 0644
const FILE_MODE: u64 = 420;
const ROOT_CA: &str = "kube-root-ca.crt";
const DEFAULT_ACCOUNT: &str = "default";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// How long the account that a controller makes in every new namespace is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Completes a defaulted pod.
pub(super) async fn admit(registry: &Registry, namespace: &str, pod: &mut Value) -> Result<()> {
    if pod["metadata"]["annotations"].get(MIRROR).is_some() {
        return Ok(());
    }
    let name = match pod["spec"]["serviceAccountName"].as_str() {
        None | Some("") => DEFAULT_ACCOUNT.to_owned(),
        Some(name) => name.to_owned(),
    };
    let account = match find(registry, namespace, &name).await {
        Some(account) => account,
        None => {
            let why = format!(
                "error looking up service account {namespace}/{name}: serviceaccount {name:?} not \
                 found"
            );
            let pods = kinds::by_kind("v1", "Pod").expect("the table of kinds has Pod");
            return Err(Status::forbidden(subject(pods), meta::name(pod), &why));
        }
    };
    let Some(spec) = pod["spec"].as_object_mut() else { return Ok(()) };
    spec.insert("serviceAccountName".into(), name.as_str().into());
    spec.insert("serviceAccount".into(), name.into());
    let own = spec.get("automountServiceAccountToken").and_then(Value::as_bool);
    let wanted = own.or_else(|| account.value["automountServiceAccountToken"].as_bool());
    let spec = &mut pod["spec"];
    if wanted.unwrap_or(true) {
        mount(spec, || format!("{VOLUME_PREFIX}{}", name_suffix()));
    }
    let secrets = account.value["imagePullSecrets"].as_array().filter(|s| !s.is_empty());
    if let Some(secrets) = secrets
        && spec["imagePullSecrets"].as_array().is_none_or(Vec::is_empty)
    {
        spec["imagePullSecrets"] = secrets.clone().into();
    }
    Ok(())
}

fn account_kind() -> &'static Kind {
    kinds::by_kind("v1", "ServiceAccount").expect("the table of kinds has ServiceAccount")
}

/// The account; the default one may still be on its way into a new namespace.
async fn find(registry: &Registry, namespace: &str, name: &str) -> Option<Stored> {
    let (store, key) = (&registry.store, account_kind().key(Some(namespace), name));
    let revision = store.revision();
    let found = store.get(&key);
    if found.is_some() || name != DEFAULT_ACCOUNT {
        return found;
    }
    let mut changes = store.watch(&key, revision).ok()?;
    let made = async {
        loop {
            match changes.next().await {
                Ok(Event::Put { stored, .. }) if *stored.key == *key => return Some(stored),
                Ok(_) => {}
                Err(_) => return store.get(&key),
            }
        }
    };
    tokio::time::timeout(PATIENCE, made).await.ok().flatten()
}

/// Adds the volume and its mounts where they are not there yet. Pure.
fn mount(spec: &mut Value, new_name: impl FnOnce() -> String) {
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    let known = volumes
        .filter_map(|volume| volume["name"].as_str())
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let is_new = known.is_none();
    let name = known.unwrap_or_else(new_name);
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let Some(container) = container.as_object_mut() else { continue };
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH) {
                continue;
            }
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
            needed = true;
        }
    }
    if !needed || !is_new {
        return;
    }
    let volume = json!({"name": name, "projected": {
        "defaultMode": FILE_MODE,
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
            {"configMap": {"name": ROOT_CA, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{
                "path": "namespace",
                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
            }]}},
        ],
    }});
    match spec.get_mut("volumes").and_then(Value::as_array_mut) {
        Some(volumes) => volumes.push(volume),
        None => spec["volumes"] = json!([volume]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_get_the_mount_unless_they_have_something_there() {
        let own = json!({"name": "mine", "mountPath": MOUNT_PATH});
        let mut spec = json!({
            "initContainers": [{"name": "i"}],
            "containers": [{"name": "a"}, {"name": "b", "volumeMounts": [own]}],
        });
        mount(&mut spec, || "kube-api-access-abcde".into());
        let added = json!([{
            "name": "kube-api-access-abcde", "readOnly": true, "mountPath": MOUNT_PATH,
        }]);
        assert_eq!(spec["initContainers"][0]["volumeMounts"], added);
        assert_eq!(spec["containers"][0]["volumeMounts"], added);
        assert_eq!(spec["containers"][1]["volumeMounts"], json!([own]));
        assert_eq!(spec["volumes"][0]["name"], "kube-api-access-abcde");
        let before = spec.clone();
        mount(&mut spec, || panic!("the volume is there"));
        assert_eq!(spec, before);
    }

    #[test]
    fn without_a_container_that_needs_it_there_is_no_volume() {
        let own = json!({"name": "mine", "mountPath": MOUNT_PATH});
        let mut spec = json!({"containers": [{"name": "b", "volumeMounts": [own]}]});
        let before = spec.clone();
        mount(&mut spec, || "kube-api-access-abcde".into());
        assert_eq!(spec, before);
    }
}
