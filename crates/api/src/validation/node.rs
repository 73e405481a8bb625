//! Nodes.

use std::collections::HashSet;

use serde_json::Value;

use super::causes::{Causes, Path};
use super::formats;
use crate::fields::Fields;

pub(super) fn validate(causes: &mut Causes, node: &Value) {
    let (spec, path) = (&node["spec"], Path::new("spec"));
    let cidrs = spec.items("podCIDRs");
    let list = path.child("podCIDRs");
    for (index, cidr) in cidrs.iter().filter_map(Value::as_str).enumerate() {
        causes.all(&list.index(index), cidr, formats::cidr(cidr));
    }
    if cidrs.len() > 2 {
        let message = "may specify no more than one CIDR for each IP family";
        causes.invalid(&list, spec["podCIDRs"].clone(), message);
    }
    if spec.has("podCIDR") && cidrs.first().is_some_and(|first| *first != spec["podCIDR"]) {
        let message = "must contain spec.podCIDR as its first element";
        causes.invalid(&list, spec["podCIDRs"].clone(), message);
    }
    let list = path.child("taints");
    let mut seen = HashSet::new();
    for (index, taint) in spec.items("taints").iter().enumerate() {
        let path = list.index(index);
        let (key, effect) = (taint.text("key"), taint.text("effect"));
        causes.all(&path.child("key"), key, formats::qualified_name(key));
        let value = taint.text("value");
        causes.all(&path.child("value"), value, formats::label_value(value));
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        causes.one_of(&path.child("effect"), effect, &effects);
        if !seen.insert((key, effect)) {
            causes.duplicate(&path, taint.clone());
        }
    }
}

pub(super) fn validate_update(causes: &mut Causes, new: &Value, old: &Value) {
    let path = Path::new("spec");
    let (new, old) = (&new["spec"], &old["spec"]);
    if !old.items("podCIDRs").is_empty() && new["podCIDRs"] != old["podCIDRs"] {
        let message = "node updates may not change podCIDR except from \"\" to valid";
        causes.forbidden(&path.child("podCIDRs"), message);
    }
    if !old.text("providerID").is_empty() && new["providerID"] != old["providerID"] {
        let message = "node updates may not change providerID except from \"\" to valid";
        causes.forbidden(&path.child("providerID"), message);
    }
}
