//! The families of a Service: what the client named, what follows from its addresses, and what the
//! cluster has (upstream: `Allocators.initIPFamilyFields`).

use serde_json::Value;

use super::{is_headless, needs_cluster_ip};
use crate::alloc::Family;
use crate::cause::{Cause, Reason};
use crate::fields::Fields;
use crate::validation;

const SINGLE: &str = "SingleStack";
const REQUIRE: &str = "RequireDualStack";
const PREFER: &str = "PreferDualStack";

/// Fills in `ipFamilyPolicy` and `ipFamilies`, and on the way back to one family drops the second
/// address. `cluster` are the families of the cluster's service ranges, the primary one first.
///
/// # Errors
/// What contradicts itself or the cluster; the Service may then be half filled in.
pub fn settle_families(
    new: &mut Value,
    old: Option<&Value>,
    cluster: &[Family],
) -> Result<(), Vec<Cause>> {
    let old_spec = old.map(|old| &old["spec"]);
    let spec = &new["spec"];
    if !needs_cluster_ip(spec) || old_spec.is_some_and(|old| prefers_as_before(spec, old)) {
        return Ok(());
    }
    let policy = policy_of(spec, old_spec).to_owned();
    if let Some(spec) = new.object_mut("spec") {
        spec.default_absent("ipFamilyPolicy", policy.as_str());
    }
    none_or(validation::service_addresses(new, old))?;

    let Some(spec) = new.object_mut("spec") else { return Ok(()) };
    let mut causes = Vec::new();
    if let Some(old) = old_spec {
        release(spec, old, &policy, &mut causes);
    }
    if policy == SINGLE {
        for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
            if spec.items(field).len() == 2 {
                let message = format!(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are \
                     specified"
                );
                causes.push(invalid(
                    "spec.ipFamilyPolicy".into(),
                    &policy.as_str().into(),
                    &message,
                ));
            }
        }
    }
    infer_from_addresses(spec, cluster, &mut causes);
    none_or(causes)?;
    complete(spec, &policy, cluster)
}

/// A PreferDualStack Service that its client left alone does not follow the cluster when that
/// becomes dual-stack or single-stack.
fn prefers_as_before(new: &Value, old: &Value) -> bool {
    new.text("type") == old.text("type")
        && new.text("ipFamilyPolicy") == PREFER
        && (!old.has("ipFamilyPolicy") || old.text("ipFamilyPolicy") == PREFER)
        && new.items("clusterIPs") == old.items("clusterIPs")
        && new.items("ipFamilies") == old.items("ipFamilies")
}

fn policy_of<'a>(new: &'a Value, old: Option<&'a Value>) -> &'a str {
    if new.has("ipFamilyPolicy") {
        return new.text("ipFamilyPolicy");
    }
    match old {
        Some(old) if old.has("ipFamilyPolicy") => old.text("ipFamilyPolicy"),
        _ if is_foreign(new) => REQUIRE,
        _ => SINGLE,
    }
}

/// Headless without a selector: its endpoints are somebody else's and may be of any family.
fn is_foreign(spec: &Value) -> bool {
    is_headless(spec) && spec.entries("selector").next().is_none()
}

/// Back to one family: naming the policy is enough, leaving the second out is not.
fn release(new: &mut Value, old: &Value, policy: &str, causes: &mut Vec<Cause>) {
    for (field, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let (now, before) = (new.items(field), old.items(field));
        if policy == SINGLE {
            if now == before && now.len() > 1 {
                let first = now[0].clone();
                new.set(field, vec![first]);
            }
        } else if !now.is_empty() && now.len() < before.len() {
            let message = format!("must be 'SingleStack' to release the secondary {what}");
            causes.push(invalid("spec.ipFamilyPolicy".into(), &policy.into(), &message));
        }
    }
}

fn infer_from_addresses(spec: &mut Value, cluster: &[Family], causes: &mut Vec<Cause>) {
    let mut families = spec.items("ipFamilies").to_vec();
    let named = families.len();
    for (index, ip) in spec.items("clusterIPs").iter().enumerate().skip(named) {
        // `None` says nothing; anything else has been checked to be an address.
        let Some(Ok(ip)) = ip.as_str().map(str::parse) else { break };
        let family = Family::of(ip);
        if cluster.contains(&family) {
            families.push(family.as_str().into());
        } else {
            let message = format!("{} is not configured on this cluster", family.as_str());
            causes.push(invalid(
                format!("spec.clusterIPs[{index}]"),
                &spec["clusterIPs"],
                &message,
            ));
        }
    }
    if families.len() > named {
        spec.set("ipFamilies", families);
    }
}

fn complete(spec: &mut Value, policy: &str, cluster: &[Family]) -> Result<(), Vec<Cause>> {
    let named: Vec<Family> = spec
        .items("ipFamilies")
        .iter()
        .filter_map(|family| Family::parse(family.as_str()?))
        .collect();
    let is_foreign = is_foreign(spec);
    if !is_foreign {
        let mut causes = Vec::new();
        if policy == REQUIRE && cluster.len() < 2 {
            let message = "this cluster is not configured for dual-stack services";
            causes.push(invalid("spec.ipFamilyPolicy".into(), &policy.into(), message));
        }
        for (index, family) in named.iter().enumerate() {
            if !cluster.contains(family) {
                let field = format!("spec.ipFamilies[{index}]");
                let message = "not configured on this cluster";
                causes.push(invalid(field, &family.as_str().into(), message));
            }
        }
        none_or(causes)?;
    }
    let mut families = named;
    if families.is_empty() {
        families.extend(cluster.first());
    }
    if let [only] = families[..]
        && policy != SINGLE
        && (is_foreign || cluster.len() == 2)
    {
        families.push(only.other());
    }
    let families: Vec<Value> = families.into_iter().map(|family| family.as_str().into()).collect();
    spec.set("ipFamilies", families);
    Ok(())
}

fn invalid(field: String, value: &Value, message: &str) -> Cause {
    let message = format!("Invalid value: {value}: {message}");
    Cause { reason: Reason::Invalid, field, message }
}

fn none_or(causes: Vec<Cause>) -> Result<(), Vec<Cause>> {
    if causes.is_empty() { Ok(()) } else { Err(causes) }
}
