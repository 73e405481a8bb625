//! IPAddresses and ServiceCIDRs (upstream: pkg/apis/networking/validation).

use ipnet::IpNet;
use serde_json::{Value, json};

use super::causes::{Causes, Path};
use super::formats;
use crate::alloc::Family;
use crate::fields::Fields;

pub(super) fn ip_address(causes: &mut Causes, address: &Value) {
    let spec = Path::new("spec");
    let path = spec.child("parentRef");
    let parent = &address["spec"]["parentRef"];
    if parent.is_null() {
        causes.required(&path, "");
        return;
    }
    let group = parent.text("group");
    if !group.is_empty() {
        causes.all(&path.child("group"), group, formats::dns_subdomain(group));
    }
    for (field, is_required) in [("resource", true), ("name", true), ("namespace", false)] {
        match parent.text(field) {
            "" if is_required => causes.required(&path.child(field), ""),
            text => causes.all(&path.child(field), text, formats::path_segment(text)),
        }
    }
}

pub(super) fn ip_address_update(causes: &mut Causes, new: &Value, old: &Value) {
    let spec = Path::new("spec");
    let (new, old) = (&new["spec"]["parentRef"], &old["spec"]["parentRef"]);
    causes.immutable(&spec.child("parentRef"), new, old);
}

pub(super) fn service_cidr(causes: &mut Causes, object: &Value) {
    let spec = Path::new("spec");
    let path = spec.child("cidrs");
    let cidrs: Vec<&str> = object["spec"].items("cidrs").iter().filter_map(Value::as_str).collect();
    // Upstream shows its internal type.
    let shown = || json!({ "CIDRs": cidrs });
    match cidrs[..] {
        [] => return causes.required(&path, "at least one CIDR required"),
        [_] => {}
        [first, second] => {
            let family = |cidr: &str| cidr.parse::<IpNet>().ok().map(Family::of_net);
            let families = (family(first), family(second));
            if !matches!(families, (Some(first), Some(second)) if first != second) {
                let message = "may specify no more than one IP for each IP family, i.e \
                               192.168.0.0/24 and 2001:db8::/64";
                return causes.invalid(&path, shown(), message);
            }
        }
        _ => return causes.invalid(&path, shown(), "may only hold up to 2 values"),
    }
    for (index, cidr) in cidrs.iter().enumerate() {
        causes.all(&path.index(index), cidr, formats::canonical_cidr(cidr));
    }
}

/// Ranges stay as they are, but a second family may be added.
pub(super) fn service_cidr_update(causes: &mut Causes, new: &Value, old: &Value) {
    let spec = Path::new("spec");
    let path = spec.child("cidrs");
    let (now, before) = (new["spec"].items("cidrs"), old["spec"].items("cidrs"));
    let is_upgrade = before.len() == 1 && now.len() == 2;
    if now.len() != before.len() && !is_upgrade {
        return causes.invalid(&path, now.to_vec(), formats::IMMUTABLE);
    }
    for (index, (now, before)) in now.iter().zip(before).enumerate() {
        if now != before {
            causes.invalid(&path.index(index), now.clone(), formats::IMMUTABLE);
        }
    }
}
