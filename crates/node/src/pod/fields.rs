//! The downward API: a Pod's own fields and resources as text. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::quantity;
use crate::Addresses;

/// What a field may refer to beside the Pod object itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The pod's addresses; none before it has some.
    pub(crate) pod_ips: Option<Addresses>,
    /// The node's addresses.
    pub(crate) host_ips: Option<Addresses>,
    /// The node's name.
    pub(crate) node_name: String,
    /// The node's allocatable resources: a limit that is not set is all there is.
    pub(crate) allocatable: BTreeMap<String, Quantity>,
}

/// A field's value, or why there is none.
pub(crate) fn field(pod: &Pod, facts: &Facts, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(format!("unsupported fieldPath: {path}")),
        };
        return Ok(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => facts.node_name.clone(),
        "spec.serviceAccountName" => {
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
        }
        "status.hostIP" => primary(facts.host_ips),
        "status.hostIPs" => facts.host_ips.map(|ips| ips.to_string()).unwrap_or_default(),
        "status.podIP" => primary(facts.pod_ips),
        "status.podIPs" => facts.pod_ips.map(|ips| ips.to_string()).unwrap_or_default(),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

fn primary(addresses: Option<Addresses>) -> String {
    addresses.map(|addresses| addresses.primary().to_string()).unwrap_or_default()
}

/// `metadata.labels['key']` as its map and key.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// A map as a file has it: sorted lines of `key="value"`.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let mut text = String::new();
    for (index, (key, value)) in map.into_iter().flatten().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{key}={value:?}");
    }
    text
}

/// A container's resource, or why there is none.
pub(crate) fn resource(
    pod: &Pod,
    facts: &Facts,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let spec = pod.spec.as_ref();
    let container = match selector.container_name.as_deref().filter(|name| !name.is_empty()) {
        None => own,
        Some(name) => spec.and_then(|spec| {
            let init = spec.init_containers.iter().flatten();
            spec.containers.iter().chain(init).find(|container| container.name == name)
        }),
    };
    let container = container.ok_or("resourceFieldRef names no container")?;
    let (list, name) = selector.resource.split_once('.').unwrap_or(("", ""));
    let resources = container.resources.as_ref();
    let limit = resources.and_then(|all| all.limits.as_ref()?.get(name));
    let value = match list {
        "limits" => limit.or_else(|| facts.allocatable.get(name)),
        "requests" => resources.and_then(|all| all.requests.as_ref()?.get(name)).or(limit),
        _ => return Err(format!("unsupported container resource: {}", selector.resource)),
    };
    let value = value.map_or("0", |quantity| quantity.0.as_str());
    let divisor = selector.divisor.as_ref().map_or("1", |quantity| quantity.0.as_str());
    quantity::divided(value, divisor)
        .ok_or_else(|| format!("{}: {value:?} divided by {divisor:?}", selector.resource))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};

    use super::*;

    fn pod() -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some("web".into());
        let labels = [("b", "2"), ("a", "say \"x\"")];
        pod.metadata.labels =
            Some(labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect());
        pod
    }

    #[test]
    fn labels_come_whole_or_one_by_one() {
        let facts = Facts::default();
        assert_eq!(field(&pod(), &facts, "metadata.labels['b']").unwrap(), "2");
        assert_eq!(field(&pod(), &facts, "metadata.labels['c']").unwrap(), "");
        assert_eq!(
            field(&pod(), &facts, "metadata.labels").unwrap(),
            "a=\"say \\\"x\\\"\"\nb=\"2\""
        );
        assert!(field(&pod(), &facts, "spec.containers").is_err());
    }

    #[test]
    fn lists_of_addresses_are_parted_by_commas() {
        let mut facts = Facts::default();
        assert_eq!(field(&pod(), &facts, "status.podIPs").unwrap(), "");
        facts.pod_ips = "10.244.0.5,fd00::5".parse().ok();
        facts.host_ips = "172.30.0.11,fd00::11".parse().ok();
        for (path, value) in [
            ("status.podIP", "10.244.0.5"),
            ("status.podIPs", "10.244.0.5,fd00::5"),
            ("status.hostIP", "172.30.0.11"),
            ("status.hostIPs", "172.30.0.11,fd00::11"),
        ] {
            assert_eq!(field(&pod(), &facts, path).unwrap(), value);
        }
    }

    #[test]
    fn a_limit_that_is_not_set_is_the_nodes() {
        let mut facts = Facts::default();
        facts.allocatable.insert("cpu".into(), Quantity("4".into()));
        let mut container = Container { name: "c".into(), ..Container::default() };
        let selector = |resource: &str| ResourceFieldSelector {
            resource: resource.into(),
            ..ResourceFieldSelector::default()
        };
        let limits = selector("limits.cpu");
        assert_eq!(resource(&pod(), &facts, Some(&container), &limits).unwrap(), "4");
        let limit = [("cpu".to_owned(), Quantity("1500m".into()))].into();
        container.resources =
            Some(ResourceRequirements { limits: Some(limit), ..ResourceRequirements::default() });
        assert_eq!(resource(&pod(), &facts, Some(&container), &limits).unwrap(), "2");
        let mut named = selector("requests.cpu");
        named.container_name = Some("c".into());
        named.divisor = Some(Quantity("1m".into()));
        let mut pod = pod();
        pod.spec = Some(PodSpec { containers: vec![container], ..PodSpec::default() });
        assert_eq!(resource(&pod, &facts, None, &named).unwrap(), "1500");
        assert!(resource(&pod, &facts, None, &limits).is_err());
    }
}
