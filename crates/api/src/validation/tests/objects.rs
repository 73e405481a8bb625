//! Kinds that are served as objects alone: one sound object each, and what is wrong after a change.

mod access;
mod networking;
mod storage;
mod workloads;

use super::*;

/// What a change of one field of a sound object brings about.
struct Case {
    /// JSON pointer to the field; what is missing on the way is made.
    field: &'static str,
    value: Value,
    causes: &'static [&'static str],
}

fn case(field: &'static str, value: Value, causes: &'static [&'static str]) -> Case {
    Case { field, value, causes }
}

fn set(object: &mut Value, pointer: &str, value: Value) {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    let mut at = object;
    for step in parent.split('/').skip(1) {
        at = match at {
            Value::Array(items) => &mut items[step.parse::<usize>().unwrap()],
            other => other.object_mut(step).unwrap(),
        };
    }
    match (at, value) {
        (Value::Array(items), value) => items[last.parse::<usize>().unwrap()] = value,
        (object, Value::Null) => drop(object.unset(last)),
        (object, value) => object.set(last, value),
    }
}

/// The sound object has no causes; each case has exactly its own.
fn check(sound: &Value, cases: &[Case]) {
    assert_eq!(created(sound), Vec::<String>::new(), "{sound}");
    for case in cases {
        let mut object = sound.clone();
        set(&mut object, case.field, case.value.clone());
        assert_eq!(created(&object), case.causes, "{} = {}", case.field, case.value);
    }
}

/// As [`check`], of updates of the sound object.
fn check_updates(sound: &Value, cases: &[Case]) {
    for case in cases {
        let causes = updated(sound, |object| set(object, case.field, case.value.clone()));
        assert_eq!(causes, case.causes, "{} = {}", case.field, case.value);
    }
}

fn object(api_version: &str, kind: &str, more: Value) -> Value {
    let mut object = json!({
        "apiVersion": api_version, "kind": kind, "metadata": { "name": "x", "uid": "u" },
    });
    if kind_of(&object).scope == kinds::Scope::Namespaced {
        object["metadata"].set("namespace", "default");
    }
    for (field, value) in more.as_object().unwrap() {
        object.set(field, value.clone());
    }
    object
}

fn pod_template(restart_policy: &str) -> Value {
    json!({
        "metadata": { "labels": { "a": "b" } },
        "spec": {
            "restartPolicy": restart_policy, "containers": [{ "name": "c", "image": "i" }],
        },
    })
}
