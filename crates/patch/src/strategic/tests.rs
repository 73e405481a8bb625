use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{MergeKey, merge_patch};

/// Lists named `ports`, `env`, `set` have upstream's strategies, all others are atomic.
struct Names;

impl MergeSchema for Names {
    fn list(&self, path: &[&str]) -> ListMerge {
        const NAME: &[MergeKey] = &[MergeKey { field: "name", default: None }];
        const PORT: &[MergeKey] = &[
            MergeKey { field: "port", default: None },
            MergeKey { field: "protocol", default: Some("TCP") },
        ];
        match path.last() {
            Some(&"env" | &"containers") => ListMerge::ByKey(NAME),
            Some(&"ports") => ListMerge::ByKey(PORT),
            Some(&"set") => ListMerge::Set,
            _ => ListMerge::Atomic,
        }
    }
}

fn merged(original: Value, patch: Value) -> Value {
    strategic_merge(&original, &patch, &Names).unwrap()
}

fn refused(original: Value, patch: Value) {
    let result = strategic_merge(&original, &patch, &Names);
    assert!(matches!(result, Err(PatchError::Malformed(_))), "{result:?}");
}

#[test]
fn items_are_merged_by_their_key_and_others_stay() {
    let original = json!({ "env": [{ "name": "a", "value": "1" }, { "name": "b", "x": 1 }] });
    let patch = json!({ "env": [{ "name": "b", "value": "2", "x": null }, { "name": "c" }] });
    assert_eq!(
        merged(original, patch),
        json!({ "env": [{ "name": "a", "value": "1" }, { "name": "b", "value": "2" }, { "name": "c" }] })
    );
}

#[test]
fn nested_lists_are_merged_too() {
    let original =
        json!({ "containers": [{ "name": "c", "env": [{ "name": "a" }], "args": [1] }] });
    let patch = json!({ "containers": [{ "name": "c", "env": [{ "name": "b" }], "args": [2] }] });
    assert_eq!(
        merged(original, patch),
        json!({ "containers": [
            { "name": "c", "env": [{ "name": "a" }, { "name": "b" }], "args": [2] }
        ] })
    );
}

#[test]
fn patch_directives_delete_and_replace() {
    let original = || json!({ "env": [{ "name": "a" }, { "name": "b" }], "m": { "x": 1, "y": 2 } });
    assert_eq!(
        merged(original(), json!({ "env": [{ "$patch": "delete", "name": "a" }] }))["env"],
        json!([{ "name": "b" }])
    );
    assert_eq!(
        merged(original(), json!({ "env": [{ "$patch": "replace" }, { "name": "c" }] }))["env"],
        json!([{ "name": "c" }])
    );
    assert_eq!(
        merged(original(), json!({ "m": { "$patch": "replace", "z": 3 } }))["m"],
        json!({ "z": 3 })
    );
    assert_eq!(merged(original(), json!({ "m": { "$patch": "delete" } }))["m"], json!({}));
    assert_eq!(
        merged(original(), json!({ "m": { "$retainKeys": ["y", "z"], "z": 3 } }))["m"],
        json!({ "y": 2, "z": 3 })
    );
    refused(original(), json!({ "m": { "$patch": "frobnicate" } }));
    refused(original(), json!({ "m": { "$retainKeys": ["y"], "z": 3 } }));
    refused(original(), json!({ "env": [{ "value": "no key" }] }));
    refused(original(), json!({ "env": ["no object"] }));
}

#[test]
fn directives_leave_no_trace_where_there_was_nothing() {
    let patch = json!({
        "m": { "n": { "x": null, "$retainKeys": ["y"], "y": 1 } },
        "env": [{ "name": "a", "x": null }, { "$patch": "delete", "name": "b" }],
        "$setElementOrder/env": [{ "name": "a" }],
        "$setElementOrder/other": [],
        "$deleteFromPrimitiveList/set": ["x"],
    });
    assert_eq!(
        merged(json!({}), patch),
        json!({ "m": { "n": { "y": 1 } }, "env": [{ "name": "a" }] })
    );
}

#[test]
fn sets_of_primitives_are_united_and_shrunk_by_directive() {
    let original = json!({ "set": ["a", "b"] });
    assert_eq!(
        merged(original.clone(), json!({ "set": ["b", "c"] })),
        json!({ "set": ["a", "b", "c"] })
    );
    let patch = json!({ "$deleteFromPrimitiveList/set": ["a"], "$setElementOrder/set": ["c", "b"], "set": ["c"] });
    assert_eq!(merged(original, patch), json!({ "set": ["c", "b"] }));
}

#[test]
fn element_order_is_followed_and_unnamed_items_keep_their_place() {
    let names =
        |list: &[&str]| Value::Array(list.iter().map(|name| json!({ "name": name })).collect());
    let patch =
        json!({ "$setElementOrder/env": names(&["d", "a", "new"]), "env": names(&["new"]) });
    let result = merged(json!({ "env": names(&["a", "b", "c", "d"]) }), patch);
    // b and c stood before d in the live list, and after a, which now comes last of the named.
    assert_eq!(result["env"], names(&["b", "c", "d", "a", "new"]));
    let only_order = json!({ "$setElementOrder/env": names(&["b", "a"]) });
    let result = merged(json!({ "env": names(&["a", "b"]) }), only_order);
    assert_eq!(result["env"], names(&["b", "a"]));
}

mod ports_of_two_protocols {
    use super::*;

    fn dns() -> Value {
        json!({ "ports": [{ "name": "udp", "port": 53, "protocol": "UDP" },
                          { "name": "tcp", "port": 53, "protocol": "TCP" }] })
    }

    #[test]
    fn stay_separate() {
        let patch = json!({ "ports": [{ "port": 53, "protocol": "UDP", "nodePort": 1 }] });
        let result = merged(dns(), patch);
        assert_eq!(result["ports"][0]["nodePort"], 1);
        assert_eq!(result["ports"][1], dns()["ports"][1]);
    }

    #[test]
    fn an_item_without_protocol_is_the_only_one_or_the_default() {
        let patch = json!({ "ports": [{ "port": 53, "nodePort": 1 }] });
        assert_eq!(merged(dns(), patch.clone())["ports"][1]["nodePort"], 1);
        let udp = json!({ "ports": [{ "port": 53, "protocol": "UDP" }] });
        let expected = json!({ "ports": [{ "port": 53, "protocol": "UDP", "nodePort": 1 }] });
        assert_eq!(merged(udp, patch), expected);
    }

    #[test]
    fn kubectl_apply_adds_the_second() {
        let tcp = json!({ "ports": [{ "port": 53, "protocol": "TCP" }] });
        let patch = json!({
            "$setElementOrder/ports": [{ "port": 53 }, { "port": 53 }],
            "ports": [{ "port": 53, "protocol": "UDP" }],
        });
        let expected =
            json!([{ "port": 53, "protocol": "TCP" }, { "port": 53, "protocol": "UDP" }]);
        assert_eq!(merged(tcp, patch)["ports"], expected);
    }

    #[test]
    fn kubectl_apply_changes_a_protocol() {
        let tcp = json!({ "ports": [{ "name": "a", "port": 53, "protocol": "TCP" }] });
        let patch = json!({
            "$setElementOrder/ports": [{ "port": 53 }],
            "ports": [{ "port": 53, "protocol": "UDP" }],
        });
        let expected = json!([{ "name": "a", "port": 53, "protocol": "UDP" }]);
        assert_eq!(merged(tcp, patch)["ports"], expected);
    }

    #[test]
    fn kubectl_apply_removes_one_of_them() {
        let patch = json!({
            "$setElementOrder/ports": [{ "port": 53 }],
            "ports": [{ "$patch": "delete", "port": 53 },
                      { "name": "tcp", "port": 53, "protocol": "TCP" }],
        });
        assert_eq!(merged(dns(), patch)["ports"], json!([dns()["ports"][1]]));
        let both = json!({ "ports": [{ "$patch": "delete", "port": 53 }] });
        assert_eq!(merged(dns(), both)["ports"], json!([]));
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0i64..5).prop_map(Value::from),
        "[ab]".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Value> {
    value().prop_filter("a root is an object", Value::is_object)
}

proptest! {
    #[test]
    fn without_keys_or_directives_it_is_a_merge_patch(original in object(), patch in object()) {
        // Nulls within lists are values to a merge patch and nothing to a strategic one.
        prop_assume!(!patch.to_string().contains('['));
        prop_assert_eq!(
            strategic_merge(&original, &patch, &Names).unwrap(),
            merge_patch(&original, &patch).unwrap()
        );
    }

    #[test]
    fn an_empty_patch_changes_nothing(original in object()) {
        let result = strategic_merge(&original, &json!({}), &Names).unwrap();
        prop_assert_eq!(result, original);
    }

    #[test]
    fn a_patch_applied_twice_is_applied_once(
        names in prop::collection::vec("[a-d]", 0..5),
        patch in prop::collection::btree_map("[a-f]", 0i64..3, 0..4),
        delete in prop::option::of("[a-f]"),
    ) {
        let mut unique: Vec<Value> = Vec::new();
        for name in names {
            let item = json!({ "name": name });
            if !unique.contains(&item) {
                unique.push(item);
            }
        }
        let mut items: Vec<Value> =
            patch.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        if let Some(name) = delete.filter(|name| !patch.contains_key(name)) {
            items.push(json!({ "$patch": "delete", "name": name }));
        }
        let patch = json!({ "env": items });
        let once = strategic_merge(&json!({ "env": unique }), &patch, &Names).unwrap();
        let twice = strategic_merge(&once, &patch, &Names).unwrap();
        prop_assert_eq!(once, twice);
    }
}
