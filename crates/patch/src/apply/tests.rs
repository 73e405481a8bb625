use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A small schema: a struct whose fields are named after what they are.
#[derive(Clone, Copy, Debug)]
enum Type {
    Root,
    Leaf,
    Labels,
    Finalizers,
    Ports,
    Port,
    Inner,
}

const KEYS: &[MergeKey] = &[
    MergeKey { field: "port", default: None },
    MergeKey { field: "protocol", default: Some("TCP") },
];

impl FieldSchema for Type {
    fn shape(self) -> Shape {
        match self {
            Type::Root | Type::Port | Type::Inner => Shape::Struct,
            Type::Leaf => Shape::Leaf,
            Type::Labels => Shape::Map,
            Type::Finalizers => Shape::Set,
            Type::Ports => Shape::Keyed(KEYS),
        }
    }

    fn field(self, name: &str) -> Option<Field<Self>> {
        let schema = match (self, name) {
            (Type::Root, "labels") => Type::Labels,
            (Type::Root, "finalizers") => Type::Finalizers,
            (Type::Root, "ports") => Type::Ports,
            (Type::Root | Type::Inner, "inner" | "always") => Type::Inner,
            _ => Type::Leaf,
        };
        Some(Field { schema, always: name == "always" })
    }

    fn item(self) -> Option<Self> {
        match self {
            Type::Labels | Type::Finalizers => Some(Type::Leaf),
            Type::Ports => Some(Type::Port),
            _ => None,
        }
    }
}

fn set(value: &Value) -> Value {
    field_set(Type::Root, value).unwrap().to_value()
}

fn parsed(value: Value) -> FieldSet {
    FieldSet::parse(&value).unwrap()
}

#[test]
fn a_configuration_owns_its_leaves_its_items_and_its_empty_objects() {
    let config = json!({
        "labels": { "a": "b" },
        "finalizers": ["x"],
        "ports": [{ "port": 80, "name": "web" }, { "port": 80, "protocol": "UDP" }],
        "atomic": { "a": { "b": 1 } },
        "inner": {},
    });
    assert_eq!(
        set(&config),
        json!({
            "f:labels": { "f:a": {} },
            "f:finalizers": { "v:\"x\"": {} },
            "f:ports": {
                "k:{\"port\":80,\"protocol\":\"TCP\"}": { ".": {}, "f:name": {}, "f:port": {} },
                "k:{\"port\":80,\"protocol\":\"UDP\"}": { ".": {}, "f:port": {}, "f:protocol": {} },
            },
            "f:atomic": {},
            "f:inner": {},
        })
    );
}

#[test]
fn items_without_a_key_and_with_the_same_key_are_refused() {
    for (ports, error) in [
        (
            json!([{ "port": 80 }, { "port": 80, "protocol": "TCP" }]),
            ".ports: duplicate entries for key [port=80,protocol=\"TCP\"]",
        ),
        (
            json!([{ "name": "x" }]),
            ".ports: element 0: associative list with keys has an element that omits key field \
             \"port\" (and doesn't have default value)",
        ),
    ] {
        let refused = field_set(Type::Root, &json!({ "ports": ports })).unwrap_err();
        assert_eq!(refused.to_string(), error);
    }
}

#[test]
fn what_a_write_takes_and_removes() {
    let cases = [
        // old, new, taken, removed
        (json!({}), json!({ "a": 1 }), json!({ "f:a": {} }), json!({})),
        (json!({ "a": 1 }), json!({}), json!({}), json!({ "f:a": {} })),
        (
            json!({}),
            json!({ "labels": { "a": "b" } }),
            json!({ "f:labels": { ".": {}, "f:a": {} } }),
            json!({}),
        ),
        (
            json!({}),
            json!({ "always": { "a": 1 } }),
            json!({ "f:always": { "f:a": {} } }),
            json!({}),
        ),
        (
            json!({ "ports": [{ "port": 1 }, { "port": 2, "x": 1 }] }),
            json!({ "ports": [{ "port": 2, "x": 2 }] }),
            json!({ "f:ports": { "k:{\"port\":2,\"protocol\":\"TCP\"}": { "f:x": {} } } }),
            json!({ "f:ports": { "k:{\"port\":1,\"protocol\":\"TCP\"}": { ".": {}, "f:port": {} } } }),
        ),
        // Two items of one key are owned together.
        (
            json!({ "ports": [{ "port": 1, "x": 1 }, { "port": 1, "x": 2 }] }),
            json!({ "ports": [{ "port": 1, "x": 1 }, { "port": 1, "x": 3 }] }),
            json!({ "f:ports": { "k:{\"port\":1,\"protocol\":\"TCP\"}": {} } }),
            json!({}),
        ),
        (json!({ "inner": {} }), json!({ "inner": {} }), json!({}), json!({})),
    ];
    for (old, new, taken, removed) in cases {
        let found = compare(Type::Root, &old, &new);
        assert_eq!(found.taken, parsed(taken), "{old} {new}");
        assert_eq!(found.removed, parsed(removed), "{old} {new}");
    }
}

#[test]
fn items_keep_the_order_of_the_configuration_and_others_their_place() {
    let list = |ports: &[u16]| -> Value {
        let items: Vec<Value> = ports.iter().map(|port| json!({ "port": port })).collect();
        json!({ "ports": items })
    };
    for (live, config, merged) in [
        (&[1, 2, 3][..], &[2, 4][..], &[1, 2, 3, 4][..]),
        (&[1, 2, 3], &[3, 1], &[2, 3, 1]),
        (&[1, 9, 2], &[2, 1], &[9, 2, 1]),
        (&[9], &[1, 2], &[9, 1, 2]),
        (&[], &[1], &[1]),
    ] {
        assert_eq!(merge(Type::Root, &list(live), &list(config)), list(merged));
    }
}

#[test]
fn what_nobody_owns_any_more_goes() {
    let mut object = json!({
        "labels": { "mine": "1", "shared": "2", "other": "3" },
        "ports": [{ "port": 1, "x": 1, "y": 1 }, { "port": 2 }],
        "inner": { "a": 1, "by default": 1 },
    });
    let last = json!({
        "f:labels": { "f:mine": {}, "f:shared": {} },
        "f:ports": {
            "k:{\"port\":1,\"protocol\":\"TCP\"}": { ".": {}, "f:port": {}, "f:x": {} },
            "k:{\"port\":2,\"protocol\":\"TCP\"}": { ".": {}, "f:port": {} },
        },
        "f:inner": { "f:a": {} },
    });
    let owned = json!({
        "f:labels": { "f:shared": {} },
        "f:ports": { "k:{\"port\":1,\"protocol\":\"TCP\"}": { ".": {}, "f:port": {} } },
    });
    prune(Type::Root, &mut object, &parsed(last), &parsed(owned));
    assert_eq!(
        object,
        json!({ "labels": { "shared": "2", "other": "3" }, "ports": [{ "port": 1, "y": 1 }] })
    );
}

#[test]
fn malformed_sets_are_refused_and_spellings_of_one_key_are_one() {
    let mut deep = json!({});
    for _ in 0..200 {
        deep = json!({ "f:a": deep });
    }
    for bad in [json!([]), json!({ "x:a": {} }), json!({ "k:[]": {} }), json!({ "i:x": {} }), deep]
    {
        assert!(FieldSet::parse(&bad).is_err(), "{bad}");
    }
    let two =
        json!({ "k:{\"b\":1,\"a\":2}": { "f:x": {} }, "k:{ \"a\":2, \"b\":1 }": { "f:y": {} } });
    assert_eq!(parsed(two).paths(), ["[a=2,b=1].x", "[a=2,b=1].y"]);
}

fn objects() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let labels = prop::collection::btree_map(name.clone(), 0..3u8, 0..3);
    let finalizers = prop::collection::btree_set(name, 0..3);
    let ports = prop::collection::btree_map(1..4u8, (0..3u8, any::<bool>()), 0..3);
    let inner = prop::option::of(prop::option::of(0..3u8));
    (labels, finalizers, ports, inner, prop::option::of(0..3u8)).prop_map(
        |(labels, finalizers, ports, inner, atomic)| {
            let ports: Vec<Value> = ports
                .iter()
                .map(|(port, (x, udp))| match udp {
                    true => json!({ "port": port, "protocol": "UDP", "x": x }),
                    false => json!({ "port": port, "x": x }),
                })
                .collect();
            let mut object = json!({});
            if !labels.is_empty() {
                object["labels"] = json!(labels);
            }
            if !finalizers.is_empty() {
                object["finalizers"] = json!(finalizers);
            }
            if !ports.is_empty() {
                object["ports"] = ports.into();
            }
            if let Some(a) = inner {
                object["inner"] = a.map_or(json!({}), |a| json!({ "a": a }));
            }
            if let Some(x) = atomic {
                object["atomic"] = json!({ "x": x });
            }
            object
        },
    )
}

/// Anything, also what no schema would let through.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        prop::sample::select(vec!["a", "TCP", "f:a", "k:{}", ".", "v:1"]).prop_map(Value::from),
    ];
    let name = prop::sample::select(vec![
        "labels",
        "finalizers",
        "ports",
        "inner",
        "always",
        "port",
        "protocol",
        "f:labels",
        "k:{}",
        ".",
        "f:ports",
        "k:{\"port\":1}",
        "v:null",
        "i:0",
    ]);
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..4)
                .prop_map(|map| map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn values_that_fit_no_schema_do_no_harm(a in anything(), b in anything(), c in anything()) {
        let merged = merge(Type::Root, &a, &b);
        let found = compare(Type::Root, &a, &merged);
        prop_assert!(compare(Type::Root, &a, &a).is_empty());
        prop_assert!(found.taken.union(&found.removed).paths().len() < 1_000);
        let set = field_set(Type::Root, &b).unwrap_or_default();
        let foreign = FieldSet::parse(&c).unwrap_or_default();
        let mut pruned = merged;
        prune(Type::Root, &mut pruned, &foreign, &set);
        prop_assert_eq!(FieldSet::parse(&foreign.to_value()).unwrap(), foreign);
    }

    #[test]
    fn a_set_survives_its_written_form(object in objects()) {
        let set = field_set(Type::Root, &object).unwrap();
        prop_assert_eq!(FieldSet::parse(&set.to_value()).unwrap(), set);
    }

    #[test]
    fn sets_obey_their_algebra(a in objects(), b in objects(), c in objects()) {
        let [a, b, c] = [a, b, c].map(|object| field_set(Type::Root, &object).unwrap());
        prop_assert_eq!(a.union(&b), b.union(&a));
        prop_assert_eq!(a.intersection(&b), b.intersection(&a));
        prop_assert_eq!(a.union(&b).union(&c), a.union(&b.union(&c)));
        prop_assert_eq!(a.difference(&b).union(&a.intersection(&b)), a.clone());
        prop_assert!(a.difference(&b).intersection(&b).is_empty());
        prop_assert_eq!(
            a.difference(&b.union(&c)),
            a.difference(&b).difference(&c)
        );
        prop_assert_eq!(a.without(&FieldSet::EMPTY), a);
    }

    #[test]
    fn an_object_differs_from_itself_in_nothing_and_the_difference_turns_around(
        a in objects(), b in objects(),
    ) {
        prop_assert!(compare(Type::Root, &a, &a).is_empty());
        let (there, back) = (compare(Type::Root, &a, &b), compare(Type::Root, &b, &a));
        prop_assert_eq!(there.is_empty(), back.is_empty());
        // What goes one way comes the other.
        prop_assert!(there.removed.difference(&back.taken).is_empty());
        prop_assert!(back.removed.difference(&there.taken).is_empty());
    }

    #[test]
    fn applying_twice_is_applying_once_and_the_configuration_is_in_the_result(
        live in objects(), config in objects(),
    ) {
        let once = merge(Type::Root, &live, &config);
        prop_assert_eq!(merge(Type::Root, &once, &config), once.clone());
        let wanted = field_set(Type::Root, &config).unwrap();
        // An empty object says nothing of what others have put into it.
        let has = field_set(Type::Root, &once).unwrap();
        let missing = wanted.difference(&has);
        prop_assert!(missing.difference(&FieldSet::of_fields(&[&["inner"]])).is_empty());
    }

    #[test]
    fn letting_go_of_everything_leaves_what_was_there_before(live in objects(), config in objects()) {
        let (mine, theirs) = (
            field_set(Type::Root, &config).unwrap(),
            field_set(Type::Root, &live).unwrap(),
        );
        let mut object = merge(Type::Root, &live, &config);
        let names = |object: &Value| field_set(Type::Root, object).unwrap();
        prune(Type::Root, &mut object, &mine, &theirs);
        prop_assert!(names(&object).difference(&theirs).is_empty(), "{}", object);
        // Pruning again finds nothing more.
        let again = { let mut o = object.clone(); prune(Type::Root, &mut o, &mine, &theirs); o };
        prop_assert_eq!(again, object);
    }
}
