//! What of a Service cannot change once it is set (upstream: validateUpgradeDowngradeClusterIPs,
//! validateUpgradeDowngradeIPFamilies, validateLoadBalancerClassField).

use serde_json::Value;

use super::causes::{Causes, Path};
use super::formats;
use super::service::is_headless;
use crate::fields::Fields;

const ONCE_SET: &str = "may not change once set";

pub(super) fn validate(causes: &mut Causes, new: &Value, old: &Value) {
    let (new, old) = (&new["spec"], &old["spec"]);
    let path = Path::new("spec");
    let is = |spec: &Value, type_: &str| spec.text("type") == type_;
    if !is(new, "ExternalName") && !is(old, "ExternalName") {
        if !(is_headless(new) && is_headless(old)) {
            list(causes, &path, "clusterIPs", "clusterIP", new, old);
        }
        // A headless service without selector may change its families.
        let free = is_headless(new) && is_headless(old);
        if !free {
            list(causes, &path, "ipFamilies", "ipFamily", new, old);
        }
    }
    if is(new, "LoadBalancer")
        && is(old, "LoadBalancer")
        && new["loadBalancerClass"] != old["loadBalancerClass"]
    {
        let class = new["loadBalancerClass"].clone();
        causes.invalid(&path.child("loadBalancerClass"), class, ONCE_SET);
    }
    let checked =
        |spec: &Value| is(spec, "LoadBalancer") && spec.text("externalTrafficPolicy") == "Local";
    if checked(new)
        && checked(old)
        && new.number("healthCheckNodePort") != old.number("healthCheckNodePort")
    {
        causes.forbidden(&path.child("healthCheckNodePort"), formats::IMMUTABLE);
    }
}

/// The first stays, the second may be added, or removed together with the policy.
fn list(
    causes: &mut Causes,
    path: &Path<'_>,
    field: &str,
    singular: &str,
    new: &Value,
    old: &Value,
) {
    let (now, before) = (new.items(field), old.items(field));
    let path_of_list = path.child(field);
    let all = || new[field].clone();
    if now.len() == before.len() {
        for (index, (now, before)) in now.iter().zip(before).enumerate() {
            if now != before {
                causes.invalid(&path_of_list.index(index), all(), ONCE_SET);
            }
        }
        return;
    }
    match (now.first(), before.first()) {
        (None, Some(_)) => {
            let message = format!("primary {singular} can not be unset");
            causes.invalid(&path_of_list.index(0), all(), &message);
        }
        (Some(now), Some(before)) if now != before => {
            causes.invalid(&path_of_list.index(0), all(), ONCE_SET);
        }
        _ => {}
    }
    if now.len() == 1 && before.len() == 2 && new.text("ipFamilyPolicy") != "SingleStack" {
        let message =
            format!("must be set to 'SingleStack' when releasing the secondary {singular}");
        let policy = new["ipFamilyPolicy"].clone();
        causes.invalid(&path.child("ipFamilyPolicy"), policy, &message);
    }
}
