//! Objects as people write them, all the way to what is stored and printed.
//!
//! Each case under `tests/golden` has the manifest (`object.yaml`) and what comes of it: the object
//! after check, defaults and strategy (`stored.json`), and its row (`table.txt`). With
//! `UPDATE_GOLDEN=1` the results are written anew; the difference is then there to be read.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use portolan_api::kinds::Kind;
use portolan_api::schema::{self, ContentType, Strictness};
use portolan_api::{defaults, kinds, printers, strategy, validate_create, validate_update};
use serde_json::{Value, json};

fn cases() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<PathBuf> =
        directory.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(!cases.is_empty());
    cases
}

fn stored(case: &Path) -> (&'static Kind, Value) {
    let text = std::fs::read(case.join("object.yaml")).unwrap();
    let decoded = schema::decode(&text, ContentType::Yaml).unwrap();
    let mut object = decoded.value;
    let name = |field: &str| object[field].as_str().unwrap().to_owned();
    let kind = kinds::by_kind(&name("apiVersion"), &name("kind")).unwrap();
    schema::check(kind, &mut object, &decoded.duplicates, Strictness::Strict).unwrap();
    if kind.scope == kinds::Scope::Namespaced && object["metadata"]["namespace"].is_null() {
        object["metadata"]["namespace"] = "default".into();
    }
    object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    defaults(kind, &mut object);
    strategy::prepare_for_create(kind, &mut object);
    (kind, object)
}

fn compare(file: &Path, actual: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(file, actual).unwrap();
    }
    let expected = std::fs::read_to_string(file).unwrap_or_default();
    assert_eq!(actual, expected, "{}", file.display());
}

#[test]
fn manifests_are_stored_and_printed_as_recorded() {
    for case in cases() {
        let (kind, object) = stored(&case);
        let pretty = serde_json::to_string_pretty(&object).unwrap() + "\n";
        compare(&case.join("stored.json"), &pretty);

        let now = "2026-01-01T00:05:00Z".parse().unwrap();
        let cells = printers::row(kind, &object, now);
        let rows = printers::columns(kind).iter().zip(&cells).map(|(column, cell)| {
            let cell = cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
            format!("{}: {cell}\n", column.name)
        });
        compare(&case.join("table.txt"), &rows.collect::<String>());
    }
}

#[test]
fn recorded_objects_are_valid_and_stay_so_when_written_back() {
    for case in cases() {
        let (kind, object) = stored(&case);
        assert_eq!(validate_create(kind, &object), [], "{}", case.display());

        let mut again = object.clone();
        schema::check(kind, &mut again, &[], Strictness::Strict).unwrap();
        defaults(kind, &mut again);
        strategy::prepare_for_update(kind, None, &mut again, &object);
        assert_eq!(again, object, "{}", case.display());
        assert_eq!(validate_update(kind, None, &again, &object), [], "{}", case.display());
    }
}

/// What a typed client does to an object: what it does not know or finds empty is gone.
#[test]
fn a_typed_client_can_write_back_what_it_has_read() {
    use k8s_openapi::api::{apps::v1 as apps, core::v1 as core, networking::v1 as networking};

    fn through<T: serde::Serialize + serde::de::DeserializeOwned>(object: &Value) -> Value {
        serde_json::to_value(serde_json::from_value::<T>(object.clone()).unwrap()).unwrap()
    }
    for case in cases() {
        let (kind, object) = stored(&case);
        let mut sent = match kind.kind {
            "Service" => through::<core::Service>(&object),
            "Pod" => through::<core::Pod>(&object),
            "Deployment" => through::<apps::Deployment>(&object),
            "DaemonSet" => through::<apps::DaemonSet>(&object),
            "StatefulSet" => through::<apps::StatefulSet>(&object),
            "IPAddress" => through::<networking::IPAddress>(&object),
            "ServiceCIDR" => through::<networking::ServiceCIDR>(&object),
            other => panic!("{other} has no typed form here"),
        };
        schema::check(kind, &mut sent, &[], Strictness::Strict).unwrap();
        defaults(kind, &mut sent);
        strategy::prepare_for_update(kind, None, &mut sent, &object);
        assert_eq!(validate_update(kind, None, &sent, &object), [], "{}", case.display());
        let generation = |object: &Value| object["metadata"]["generation"].clone();
        assert_eq!(generation(&sent), generation(&object), "{}", case.display());
    }
}

#[test]
fn a_status_can_be_anything_the_schema_allows() {
    let pod = kinds::by_kind("v1", "Pod").unwrap();
    let old = json!({ "metadata": { "name": "a", "namespace": "b" }, "spec": {} });
    let mut new = old.clone();
    new["status"] = json!({ "phase": "Running" });
    let part = Some(kinds::Subresource::Status);
    strategy::prepare_for_update(pod, part, &mut new, &old);
    assert_eq!(new["status"]["phase"], "Running");
    assert_eq!(validate_update(pod, part, &new, &old), []);
}
