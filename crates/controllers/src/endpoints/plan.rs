//! The Endpoints of a Service. Pure.
//!
//! Past a thousand addresses the object is cut and says so by an annotation.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

use super::subsets::{Entry, repack, truncate};
use crate::endpointslice::endpoint::{AddressType, families, hostname, ips, ports};
use crate::endpointslice::plan::{HEADLESS, TRIGGER_TIME, is_headless};
use crate::object::Meta;
use crate::pod::{is_finished, is_ready, node_name};

pub(super) const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// What to write.
#[derive(Debug, PartialEq)]
pub(super) enum Write {
    Create(Endpoints),
    Replace(Endpoints),
}

/// Plans the Endpoints of `service`, which selects `pods`.
pub(super) fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    present: Option<&Endpoints>,
    trigger: Option<Timestamp>,
) -> Option<Write> {
    let (subsets, cut) = subsets(service, pods);
    let mut wanted = present.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    wanted.metadata.labels = Some(labels(service));
    wanted.subsets = (!subsets.is_empty()).then_some(subsets);
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    if cut {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    if annotations.is_empty() {
        wanted.metadata.annotations = None;
    }
    if present.is_some_and(|p| same(p, &wanted)) {
        return None;
    }
    let annotations = wanted.metadata.annotations.get_or_insert_default();
    match trigger {
        Some(trigger) => {
            annotations.insert(TRIGGER_TIME.to_owned(), trigger.to_string());
        }
        None => {
            annotations.remove(TRIGGER_TIME);
        }
    }
    Some(if present.is_some() { Write::Replace(wanted) } else { Write::Create(wanted) })
}

fn same(a: &Endpoints, b: &Endpoints) -> bool {
    let subsets = |e: &Endpoints| e.subsets.clone().unwrap_or_default();
    let annotations = |e: &Endpoints| e.metadata.annotations.clone().unwrap_or_default();
    subsets(a) == subsets(b)
        && a.metadata.labels == b.metadata.labels
        && annotations(a) == annotations(b)
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

/// The subsets, and whether some addresses had to be left out.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let spec = service.spec.as_ref();
    let publish = spec.is_some_and(|s| s.publish_not_ready_addresses == Some(true));
    let service_ports = spec.and_then(|s| s.ports.as_deref()).unwrap_or_default();
    // Only a headless Service may have endpoints without ports.
    let portless = is_headless(service) && service_ports.is_empty();
    let family = families(service).first().copied().unwrap_or(AddressType::IPv4);
    let entry = |pod: &Arc<Pod>| {
        if is_finished(pod) || (pod.is_terminating() && !publish) {
            return None;
        }
        let ip = ips(pod).find(|ip| AddressType::of(ip) == Some(family))?;
        let ports: Vec<_> = ports(service_ports, pod)
            .into_iter()
            .filter_map(|p| {
                let protocol = p.protocol.unwrap_or_default();
                Some((p.name.unwrap_or_default(), p.port?, protocol, p.app_protocol))
            })
            .collect();
        (portless || !ports.is_empty()).then(|| Entry {
            address: address(service, pod, ip),
            ready: publish || is_ready(pod),
            ports,
        })
    };
    let mut subsets = repack(pods.iter().filter_map(entry).collect());
    let cut = truncate(&mut subsets);
    (subsets, cut)
}

fn address(service: &Service, pod: &Pod, ip: &str) -> EndpointAddress {
    EndpointAddress {
        ip: ip.to_owned(),
        hostname: hostname(service, pod),
        node_name: node_name(pod).map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ContainerPort, ServicePort, ServiceSpec};
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    use serde_json::json;

    use super::*;
    use crate::testing::{at, labels, meta, pod, ready, terminating, unready, with_ip};

    fn service() -> Service {
        let port = |name: &str, port| ServicePort {
            name: Some(name.into()),
            port,
            ..ServicePort::default()
        };
        Service {
            metadata: meta("ns", "web"),
            spec: Some(ServiceSpec {
                selector: Some(labels(&[("app", "web")])),
                cluster_ip: Some("10.96.0.7".into()),
                ports: Some(vec![port("http", 80), port("https", 443)]),
                ..ServiceSpec::default()
            }),
            status: None,
        }
    }

    fn addressed(n: usize) -> Pod {
        with_ip(pod("ns", &format!("p{n}")), &format!("10.244.{}.{}", n / 250, n % 250 + 1))
    }

    fn created(service: &Service, pods: Vec<Pod>) -> Endpoints {
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        match plan(service, &pods, None, Some(at(5))) {
            Some(Write::Create(endpoints)) => endpoints,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_ports_of_one_pod_stand_in_one_subset() {
        let made = created(&service(), vec![ready(addressed(1), 1), unready(addressed(2))]);
        let subsets = made.subsets.unwrap();
        assert_eq!(subsets.len(), 1);
        assert_eq!(subsets[0].ports.as_ref().unwrap().len(), 2);
        assert_eq!(subsets[0].addresses.as_ref().unwrap()[0].ip, "10.244.0.2");
        assert_eq!(subsets[0].not_ready_addresses.as_ref().unwrap()[0].ip, "10.244.0.3");
    }

    /// Ports, ready and not ready addresses of each subset.
    fn shown(endpoints: &Endpoints) -> serde_json::Value {
        let ips = |side: &Option<Vec<EndpointAddress>>| -> Vec<String> {
            side.iter().flatten().map(|a| a.ip.clone()).collect()
        };
        let subsets = endpoints.subsets.iter().flatten().map(|s| {
            let ports: Vec<_> = s.ports.iter().flatten().map(|p| p.port).collect();
            json!([ports, ips(&s.addresses), ips(&s.not_ready_addresses)])
        });
        subsets.collect()
    }

    fn serving(mut pod: Pod, name: &str, port: i32) -> Pod {
        pod.spec.as_mut().unwrap().containers[0].ports = Some(vec![ContainerPort {
            name: Some(name.into()),
            container_port: port,
            ..ContainerPort::default()
        }]);
        pod
    }

    #[test]
    fn ports_with_the_same_addresses_share_a_subset() {
        let mut named = service();
        let ports = named.spec.as_mut().unwrap().ports.as_mut().unwrap();
        ports[0].target_port = Some(IntOrString::String("web".into()));
        let pods = vec![
            serving(ready(addressed(1), 1), "web", 8080),
            serving(ready(addressed(2), 1), "web", 8081),
            serving(unready(addressed(3)), "web", 8080),
            // It has no such port, so it is behind 443 only.
            ready(addressed(4), 1),
        ];
        assert_eq!(
            shown(&created(&named, pods)),
            json!([
                [[8080], ["10.244.0.2"], ["10.244.0.4"]],
                [[8081], ["10.244.0.3"], []],
                [[443], ["10.244.0.2", "10.244.0.3", "10.244.0.5"], ["10.244.0.4"]],
            ])
        );
    }

    #[test]
    fn only_a_headless_service_has_addresses_without_ports() {
        let mut bare = service();
        bare.spec.as_mut().unwrap().ports = None;
        let pods = || vec![ready(addressed(1), 1)];
        assert_eq!(shown(&created(&bare, pods())), json!([]));
        bare.spec.as_mut().unwrap().cluster_ip = Some("None".into());
        let made = created(&bare, pods());
        assert_eq!(shown(&made), json!([[[], ["10.244.0.2"], []]]));
        assert_eq!(made.label(HEADLESS), Some(""));
        assert_eq!(made.label(MANAGED_BY), Some("endpoint-controller"));
    }

    #[test]
    fn unready_and_terminating_pods_are_published_when_asked_for() {
        let mut open = service();
        open.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
        let pods = vec![unready(addressed(1)), terminating(ready(addressed(2), 1))];
        assert_eq!(
            shown(&created(&open, pods)),
            json!([[[80, 443], ["10.244.0.2", "10.244.0.3"], []]])
        );
    }

    #[test]
    fn the_cut_falls_on_unready_addresses_first_and_is_undone() {
        let pods = |ready_ones: usize, others: usize| -> Vec<Pod> {
            let ready_ones = (0..ready_ones).map(|n| ready(addressed(n), 1));
            ready_ones.chain((2000..2000 + others).map(|n| unready(addressed(n)))).collect()
        };
        let counts = |e: &Endpoints| {
            let subset = &e.subsets.as_ref().unwrap()[0];
            let count = |side: &Option<Vec<_>>| side.as_ref().map_or(0, Vec::len);
            (count(&subset.addresses), count(&subset.not_ready_addresses))
        };
        let cut = created(&service(), pods(900, 300));
        assert_eq!(counts(&cut), (900, 100));
        assert_eq!(counts(&created(&service(), pods(1200, 300))), (1000, 0));
        let few: Vec<_> = pods(900, 100).into_iter().map(Arc::new).collect();
        let Some(Write::Replace(whole)) = plan(&service(), &few, Some(&cut), None) else {
            panic!()
        };
        assert_eq!(whole.annotation(OVER_CAPACITY), None);
        assert_eq!(counts(&whole), (900, 100));
    }

    #[test]
    fn terminating_pods_are_left_out() {
        assert_eq!(created(&service(), vec![terminating(ready(addressed(1), 1))]).subsets, None);
    }

    #[test]
    fn what_is_right_already_is_not_written() {
        let pods = [Arc::new(ready(addressed(1), 1))];
        let made = created(&service(), vec![ready(addressed(1), 1)]);
        let mut stored = made.clone();
        stored.metadata.annotations = made.metadata.annotations;
        assert_eq!(plan(&service(), &pods, Some(&stored), Some(at(9))), None);
        assert!(matches!(plan(&service(), &[], Some(&stored), None), Some(Write::Replace(_))));
    }

    #[test]
    fn beyond_a_thousand_addresses_the_object_is_cut() {
        let made = created(&service(), (0..1100).map(|n| ready(addressed(n), 1)).collect());
        assert_eq!(made.annotation(OVER_CAPACITY), Some("truncated"));
        assert_eq!(made.subsets.unwrap()[0].addresses.as_ref().unwrap().len(), 1000);
    }
}
