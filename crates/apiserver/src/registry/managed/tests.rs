use portolan_api::kinds;
use serde_json::json;

use super::*;

fn kind() -> &'static Kind {
    kinds::by_kind("v1", "ConfigMap").unwrap()
}

fn writer(manager: &str) -> Writer {
    Writer { manager: manager.into(), subresource: "" }
}

fn map(data: Value, managed: Option<&Value>) -> Value {
    let mut object = json!({"metadata": {"name": "m"}, "data": data});
    if let Some(managed) = managed {
        object["metadata"]["managedFields"] = managed.clone();
    }
    object
}

#[test]
fn malformed_managers_from_a_client_leave_the_live_ones() {
    let ownership = Ownership::Update(writer("a"));
    let managed = of_new(kind(), &ownership, &map(json!({"x": "1"}), None)).unwrap();
    let live = map(json!({"x": "1"}), Some(&managed));
    for sent in [
        json!([{"operation": "Frob", "fieldsType": "FieldsV1"}]),
        json!([{"operation": "Update", "fieldsType": "FieldsV2", "fieldsV1": {}}]),
        json!([{"operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {"x": {}}}]),
        json!("x"),
        Value::Array(vec![live["metadata"]["managedFields"][0].clone(); 1001]),
    ] {
        let mut new = map(json!({"x": "1"}), None);
        track(kind(), None, &Ownership::Update(writer("b")), &live, &mut new, Some(sent));
        assert_eq!(new, live);
    }
}

#[test]
fn a_part_cannot_set_managers() {
    let ownership = Ownership::Update(writer("a"));
    let managed = of_new(kind(), &ownership, &map(json!({"x": "1"}), None)).unwrap();
    let live = map(json!({"x": "1"}), Some(&managed));
    let mut new = map(json!({"x": "1"}), None);
    let part = Some(Subresource::Status);
    track(kind(), part, &Ownership::Update(writer("b")), &live, &mut new, Some(json!([{}])));
    assert_eq!(new, live);
    let mut new = map(json!({"x": "1"}), None);
    track(kind(), None, &Ownership::Update(writer("b")), &live, &mut new, Some(json!([{}])));
    assert_eq!(new, map(json!({"x": "1"}), None));
}
