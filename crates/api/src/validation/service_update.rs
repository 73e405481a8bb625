//! What of a Service cannot change once it is set (upstream: validateUpgradeDowngradeClusterIPs,
//! validateUpgradeDowngradeIPFamilies, validateLoadBalancerClassField). The values that the causes
//! show are upstream's, also where it shows the addresses for the families.

use serde_json::Value;

use super::causes::{Causes, Path};
use super::formats;
use super::service::is_headless;
use crate::fields::Fields;
use crate::strategy::service::needs_health_check_node_port;

const ONCE_SET: &str = "may not change once set";

pub(super) fn validate(causes: &mut Causes, new: &Value, old: &Value) {
    let (new, old) = (&new["spec"], &old["spec"]);
    let path = Path::new("spec");
    let is = |spec: &Value, type_: &str| spec.text("type") == type_;
    if !is(new, "ExternalName") && !is(old, "ExternalName") {
        let headless = (is_headless(new), is_headless(old));
        if headless != (true, true) {
            cluster_ips(causes, &path, new, old);
        }
        // A headless Service may change its families, and so may one that becomes headless.
        if headless == (false, false) {
            ip_families(causes, &path, new, old);
        }
    }
    if is(new, "LoadBalancer")
        && is(old, "LoadBalancer")
        && new["loadBalancerClass"] != old["loadBalancerClass"]
    {
        let class = new["loadBalancerClass"].clone();
        causes.invalid(&path.child("loadBalancerClass"), class, ONCE_SET);
    }
    if needs_health_check_node_port(new)
        && needs_health_check_node_port(old)
        && new.number("healthCheckNodePort") != old.number("healthCheckNodePort")
    {
        causes.forbidden(&path.child("healthCheckNodePort"), formats::IMMUTABLE);
    }
}

/// The first stays, the second may be added, or removed together with the policy.
fn cluster_ips(causes: &mut Causes, path: &Path<'_>, new: &Value, old: &Value) {
    let (now, before) = (new.items("clusterIPs"), old.items("clusterIPs"));
    let list = path.child("clusterIPs");
    let shown = || Value::from(now.to_vec());
    if now.len() == before.len() {
        for (index, (now, before)) in now.iter().zip(before).enumerate() {
            if now != before {
                causes.invalid(&list.index(index), shown(), ONCE_SET);
            }
        }
        return;
    }
    match (now.first(), before.first()) {
        (None, Some(_)) => {
            causes.invalid(&list.index(0), shown(), "primary clusterIP can not be unset");
        }
        (Some(now), Some(before)) if now != before => {
            causes.invalid(&list.index(0), shown(), ONCE_SET);
        }
        _ => {}
    }
    if now.len() == 1 && before.len() > 1 {
        released_with_policy(causes, path, new, "clusterIP");
    }
}

fn ip_families(causes: &mut Causes, path: &Path<'_>, new: &Value, old: &Value) {
    let (now, before) = (new.items("ipFamilies"), old.items("ipFamilies"));
    let list = path.child("ipFamilies");
    let first = list.index(0);
    if now.len() == before.len() {
        for (now_one, before) in now.iter().zip(before) {
            if now_one != before {
                causes.invalid(&first, now.to_vec(), ONCE_SET);
            }
        }
        return;
    }
    let ips = new.items("clusterIPs");
    if now.len() < before.len() && ips.is_empty() {
        causes.invalid(&first, now.to_vec(), "primary ipFamily can not be unset");
    }
    if let (Some(now), Some(before)) = (now.first(), before.first())
        && now != before
    {
        causes.invalid(&first, ips.to_vec(), ONCE_SET);
    }
    if now.len() == 1 && before.len() > 1 {
        released_with_policy(causes, path, new, "ipFamily");
    }
}

fn released_with_policy(causes: &mut Causes, path: &Path<'_>, new: &Value, what: &str) {
    if new.text("ipFamilyPolicy") != "SingleStack" {
        let message = format!("must be set to 'SingleStack' when releasing the secondary {what}");
        let policy = new["ipFamilyPolicy"].clone();
        causes.invalid(&path.child("ipFamilyPolicy"), policy, &message);
    }
}
