//! What `kubectl apply` meant, where its patch cannot say it.
//!
//! kubectl computes its patch by one merge key a list, so two ports of one number fall together
//! before the patch is sent: adding UDP/53 beside TCP/53, or removing one of them, arrives garbled
//! (kubernetes/kubernetes#39188). The same patch carries the manifest itself, as the annotation
//! below, and the object has the manifest of the last time. From these two and the live list the
//! merge is made again, by all keys, for just those lists in which a first key occurs twice.

use serde_json::{Map, Value};

use crate::{ListMerge, MergeKey, MergeSchema};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The manifests of the last `apply` and of this one.
pub(super) struct Applied {
    before: Value,
    now: Value,
}

impl Applied {
    /// None when the patch is not one of `kubectl apply`.
    pub(super) fn of(original: &Value, patch: &Value) -> Option<Self> {
        let manifest = |object: &Value| {
            let text = object["metadata"]["annotations"][LAST_APPLIED].as_str()?;
            serde_json::from_str::<Value>(text).ok().filter(Value::is_object)
        };
        let now = manifest(patch)?;
        Some(Self { before: manifest(original).unwrap_or_default(), now })
    }

    /// Mends the lists that the patch could not express.
    pub(super) fn mend(&self, merged: &mut Value, original: &Value, schema: &dyn MergeSchema) {
        let views = Views { live: original, before: &self.before, now: &self.now };
        mend(merged, views, schema, &mut Vec::new());
    }
}

/// One place, in the object as it was and in the two manifests. Null where there is nothing.
#[derive(Clone, Copy)]
struct Views<'a> {
    live: &'a Value,
    before: &'a Value,
    now: &'a Value,
}

impl<'a> Views<'a> {
    fn field(self, name: &str) -> Self {
        Self { live: &self.live[name], before: &self.before[name], now: &self.now[name] }
    }

    fn lists(self) -> [&'a [Value]; 3] {
        [self.live, self.before, self.now].map(items)
    }
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

fn mend<'a>(
    merged: &mut Value,
    views: Views<'a>,
    schema: &dyn MergeSchema,
    path: &mut Vec<&'a str>,
) {
    match (merged, views.now) {
        (Value::Object(fields), Value::Object(now)) => {
            for name in now.keys() {
                // A list that kubectl took for emptied is still to be looked at.
                if let Some(value) = fields.get_mut(name) {
                    path.push(name);
                    mend(value, views.field(name), schema, path);
                    path.pop();
                }
            }
        }
        (Value::Array(merged), Value::Array(now)) => {
            let ListMerge::ByKey(keys) = schema.list(path) else { return };
            if keys.len() > 1 && views.lists().iter().any(|list| is_ambiguous(list, keys)) {
                *merged = three_way(views, keys);
                return;
            }
            for item in now {
                let same = |list: &'a Value| find(items(list), item, keys).unwrap_or(&Value::Null);
                let views = Views { live: same(views.live), before: same(views.before), now: item };
                if let Some(merged) = merged.iter_mut().find(|m| is_same(m, item, keys)) {
                    mend(merged, views, schema, path);
                }
            }
        }
        _ => {}
    }
}

/// Whether the key that clients know does not tell the items apart.
fn is_ambiguous(list: &[Value], keys: &[MergeKey]) -> bool {
    let first = |item: &Value| item.get(keys[0].field).cloned();
    list.iter().enumerate().any(|(index, item)| {
        list[..index].iter().any(|other| first(other).is_some() && first(other) == first(item))
    })
}

fn is_same(a: &Value, b: &Value, keys: &[MergeKey]) -> bool {
    keys.iter().all(|key| {
        let default = key.default.map(Value::from);
        a.get(key.field).or(default.as_ref()) == b.get(key.field).or(default.as_ref())
    })
}

fn find<'a>(list: &'a [Value], item: &Value, keys: &[MergeKey]) -> Option<&'a Value> {
    list.iter().find(|other| is_same(other, item, keys))
}

/// The manifest's items in its order, each over what is live; then what others have added.
fn three_way(views: Views<'_>, keys: &[MergeKey]) -> Vec<Value> {
    let [live, before, now] = views.lists();
    let wanted = now.iter().map(|item| {
        let null = Value::Null;
        let live = find(live, item, keys).unwrap_or(&null);
        overlay(live, find(before, item, keys).unwrap_or(&null), item)
    });
    let of_others = live
        .iter()
        .filter(|item| find(now, item, keys).is_none() && find(before, item, keys).is_none());
    wanted.chain(of_others.cloned()).collect()
}

/// Fields that the manifest had and has no more go, those that it has are set, others stay.
fn overlay(live: &Value, before: &Value, now: &Value) -> Value {
    let Value::Object(now) = now else { return now.clone() };
    let mut result: Map<String, Value> = live.as_object().cloned().unwrap_or_default();
    for name in before.as_object().into_iter().flat_map(Map::keys) {
        if now.get(name).is_none_or(Value::is_null) {
            result.remove(name);
        }
    }
    for (name, value) in now.iter().filter(|(_, value)| !value.is_null()) {
        let value = overlay(&live[name.as_str()], &before[name.as_str()], value);
        result.insert(name.clone(), value);
    }
    Value::Object(result)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::strategic_merge;

    struct Ports;

    impl MergeSchema for Ports {
        fn list(&self, path: &[&str]) -> ListMerge {
            const NAME: &[MergeKey] = &[MergeKey { field: "name", default: None }];
            const PORT: &[MergeKey] = &[
                MergeKey { field: "port", default: None },
                MergeKey { field: "protocol", default: Some("TCP") },
            ];
            match path.last() {
                Some(&"ports") => ListMerge::ByKey(PORT),
                Some(&"containers") => ListMerge::ByKey(NAME),
                _ => ListMerge::Atomic,
            }
        }
    }

    fn annotated(mut object: Value, manifest: &Value) -> Value {
        object["metadata"] = json!({ "annotations": { LAST_APPLIED: manifest.to_string() } });
        object
    }

    /// Ports after an apply whose patch says `patch` of them.
    fn applied(live: Value, before: Value, now: Value, patch: Value) -> Value {
        let original = annotated(json!({ "ports": live }), &json!({ "ports": before }));
        let mut patch = annotated(json!({ "ports": patch }), &json!({ "ports": now }));
        patch["$setElementOrder/ports"] =
            now.as_array().unwrap().iter().map(|port| json!({ "port": port["port"] })).collect();
        strategic_merge(&original, &patch, &Ports).unwrap()["ports"].clone()
    }

    fn udp() -> Value {
        json!({ "name": "u", "port": 53, "protocol": "UDP" })
    }

    fn tcp() -> Value {
        json!({ "name": "t", "port": 53 })
    }

    fn live(mut port: Value, node_port: u16) -> Value {
        port["nodePort"] = node_port.into();
        port
    }

    #[test]
    fn the_right_one_of_two_protocols_goes() {
        let both = json!([live(tcp(), 1), live(udp(), 2)]);
        let delete = json!([{ "$patch": "delete", "port": 53 }]);
        for (stays, expected) in [(udp(), live(udp(), 2)), (tcp(), live(tcp(), 1))] {
            let result =
                applied(both.clone(), json!([tcp(), udp()]), json!([stays]), delete.clone());
            assert_eq!(result, json!([expected]));
        }
    }

    #[test]
    fn two_protocols_that_the_patch_has_folded_into_one_both_arrive() {
        let folded = json!([{ "name": "u", "port": 53, "protocol": "UDP" },
                            { "$patch": "delete", "port": 54 }]);
        let before = json!([{ "port": 54 }]);
        let result = applied(before.clone(), before, json!([udp(), tcp()]), folded);
        assert_eq!(result, json!([udp(), tcp()]));
    }

    #[test]
    fn what_others_have_added_stays_and_what_the_manifest_lost_goes() {
        let other = json!({ "port": 9, "name": "other" });
        let mut old = tcp();
        old["appProtocol"] = "dns".into();
        let now = json!([udp(), tcp()]);
        let result =
            applied(json!([live(old.clone(), 1), other]), json!([old]), now, json!([udp()]));
        assert_eq!(result, json!([udp(), live(tcp(), 1), other]));
    }

    #[test]
    fn lists_within_items_are_mended_too() {
        let pod = |ports: Value| json!({ "containers": [{ "name": "c", "ports": ports }] });
        let original = annotated(pod(json!([tcp(), udp()])), &pod(json!([tcp(), udp()])));
        let garbled = pod(json!([{ "$patch": "delete", "port": 53 }]));
        let patch = annotated(garbled, &pod(json!([udp()])));
        let result = strategic_merge(&original, &patch, &Ports).unwrap();
        assert_eq!(result["containers"][0]["ports"], json!([udp()]));
    }

    #[test]
    fn without_a_manifest_or_a_double_key_nothing_is_changed() {
        let original = json!({ "ports": [tcp(), udp()] });
        let patch = json!({ "ports": [{ "port": 53, "protocol": "UDP", "name": "x" }] });
        let result = strategic_merge(&original, &patch, &Ports).unwrap();
        assert_eq!(result["ports"][1]["name"], "x");
        let single =
            applied(json!([tcp()]), json!([tcp()]), json!([tcp()]), json!([live(tcp(), 5)]));
        assert_eq!(single, json!([live(tcp(), 5)]));
    }
}
