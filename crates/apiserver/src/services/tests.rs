//! Whatever happens to Services, what is taken is what they hold.

use proptest::prelude::*;

use super::*;

const PORTS: RangeInclusive<u16> = 30000..=30019;

fn allocator() -> ServiceAllocator {
    ServiceAllocator::new("10.0.0.0/27".parse().unwrap(), PORTS)
}

/// What one step does to the Service of a number.
#[derive(Clone, Debug)]
enum Step {
    Create { name: usize, spec: Value, stored: bool },
    Update { name: usize, spec: Value, stored: bool },
    Delete { name: usize },
}

fn spec_of() -> impl Strategy<Value = Value> {
    let kind = prop_oneof!["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    let node_port = prop_oneof![3 => Just(0_u16), 1 => 29_999_u16..30_003];
    let port = (1_u16..4, node_port, any::<bool>());
    let ports = proptest::collection::vec(port, 0..3);
    let ip = prop_oneof![
        4 => Just(String::new()),
        1 => Just("None".to_owned()),
        1 => (0_u8..4).prop_map(|n| format!("10.0.0.{n}")),
    ];
    (kind, ports, ip, any::<bool>()).prop_map(|(kind, ports, ip, local)| {
        let ports: Vec<Value> = ports
            .into_iter()
            .map(|(port, node_port, tcp)| {
                let protocol = if tcp { "TCP" } else { "UDP" };
                let mut entry = json!({"port": port, "protocol": protocol});
                if node_port != 0 && kind != "ClusterIP" && kind != "ExternalName" {
                    entry["nodePort"] = node_port.into();
                }
                entry
            })
            .collect();
        let mut spec = json!({"type": kind, "ports": ports});
        if !ip.is_empty() && kind != "ExternalName" {
            spec["clusterIP"] = ip.into();
        }
        if local && kind == "LoadBalancer" {
            spec["externalTrafficPolicy"] = "Local".into();
        }
        spec
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0_usize..6, spec_of(), any::<bool>()).prop_map(|(name, spec, stored)| Step::Create {
            name,
            spec,
            stored
        }),
        (0_usize..6, spec_of(), any::<bool>()).prop_map(|(name, spec, stored)| Step::Update {
            name,
            spec,
            stored
        }),
        (0_usize..6).prop_map(|name| Step::Delete { name }),
    ];
    proptest::collection::vec(step, 0..40)
}

/// Runs a write as the registry does; `stored` says whether the store took it.
fn write(services: &ServiceAllocator, slot: &mut Option<Value>, spec: &Value, stored: bool) {
    let mut new = json!({"metadata": {"name": "x"}, "spec": spec});
    let reservation = match slot.as_ref() {
        None => services
            .prepare_for_create(&mut new)
            .and_then(|()| services.reserve_for_create(&mut new)),
        Some(old) => services
            .prepare_for_update(&mut new, old)
            .and_then(|()| services.reserve_for_update(&mut new, old)),
    };
    if let Ok(reservation) = reservation
        && stored
    {
        reservation.keep();
        *slot = Some(new);
    }
}

proptest! {
    #[test]
    fn what_is_taken_is_what_the_stored_services_hold(steps in steps()) {
        let services = allocator();
        let mut store: Vec<Option<Value>> = vec![None; 6];
        for step in &steps {
            match step {
                Step::Create { name, spec, stored } if store[*name].is_none() => {
                    write(&services, &mut store[*name], spec, *stored);
                }
                Step::Update { name, spec, stored } if store[*name].is_some() => {
                    write(&services, &mut store[*name], spec, *stored);
                }
                Step::Delete { name } => {
                    if let Some(service) = store[*name].take() {
                        services.release(&service);
                    }
                }
                _ => {}
            }
            let rebuilt = allocator();
            for service in store.iter().flatten() {
                rebuilt.rebuild(service);
            }
            let (kept, fresh) = (services.pool.lock(), rebuilt.pool.lock());
            for last in 0..32 {
                let ip = IpAddr::from([10, 0, 0, last]);
                prop_assert_eq!(kept.ips.has(ip), fresh.ips.has(ip), "{} in {:?}", ip, store);
            }
            for port in PORTS {
                let (kept, fresh) = (kept.ports.has(port), fresh.ports.has(port));
                prop_assert_eq!(kept, fresh, "{} in {:?}", port, store);
            }
        }
    }
}

#[test]
fn a_port_that_another_port_claims_is_not_patched_in() {
    let old = json!({"spec": {"type": "NodePort", "ports": [
        {"name": "a", "port": 1, "nodePort": 30001},
        {"name": "b", "port": 2, "nodePort": 30002},
    ]}});
    let mut new = json!({"spec": {"type": "NodePort", "ports": [
        {"name": "a", "port": 1},
        {"name": "b", "port": 2, "nodePort": 30001},
    ]}});
    patch_allocated_values(&mut new, &old);
    assert_eq!(new["spec"]["ports"][0].get("nodePort"), None);
    assert_eq!(new["spec"]["ports"][1]["nodePort"], 30001);
}

#[test]
fn a_client_that_only_knows_cluster_ip_may_write_it() {
    let old = json!({"spec": {"clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5"]}});
    let mut new = json!({"spec": {"clusterIP": "None", "clusterIPs": ["10.0.0.5"]}});
    normalize_cluster_ips(&mut new, Some(&old));
    assert_eq!(new["spec"]["clusterIPs"], json!(["None"]));
    let mut new = json!({"spec": {"clusterIPs": ["10.0.0.5"]}});
    normalize_cluster_ips(&mut new, Some(&old));
    assert_eq!(new["spec"].get("clusterIPs"), None);
}
