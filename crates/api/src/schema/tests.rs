use portolan_patch::{ListMerge, MergeSchema};
use serde_json::json;

use super::*;
use crate::kinds;

fn service() -> &'static Kind {
    kinds::by_kind("v1", "Service").unwrap()
}

fn refused(kind: &Kind, mut object: Value) -> String {
    check(kind, &mut object, &[], Strictness::Strict).unwrap_err().0
}

#[test]
fn wrong_types_are_told_in_the_words_of_go() {
    for (object, expected) in [
        (
            json!({ "spec": { "ports": [{ "port": "80" }] } }),
            "json: cannot unmarshal string into Go struct field ServicePort.spec.ports.port of type int32",
        ),
        (
            json!({ "spec": "x" }),
            "json: cannot unmarshal string into Go struct field Service.spec of type v1.ServiceSpec",
        ),
        (
            json!({ "spec": { "ports": {} } }),
            "json: cannot unmarshal object into Go struct field ServiceSpec.spec.ports of type []v1.ServicePort",
        ),
        (
            json!({ "metadata": { "labels": { "a": 1 } } }),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            json!({ "spec": { "ports": [{ "port": 80.5 }] } }),
            "json: cannot unmarshal number 80.5 into Go struct field ServicePort.spec.ports.port of type int32",
        ),
        (
            json!({ "spec": { "ports": [{ "port": 3000000000u32 }] } }),
            "json: cannot unmarshal number 3000000000 into Go struct field ServicePort.spec.ports.port of type int32",
        ),
        (
            json!({ "spec": { "ports": [{ "targetPort": true }] } }),
            "json: cannot unmarshal bool into Go value of type int32",
        ),
        (
            json!({ "spec": { "type": 1 } }),
            "json: cannot unmarshal number into Go struct field ServiceSpec.spec.type of type v1.ServiceType",
        ),
        (json!([]), "json: cannot unmarshal array into Go value of type v1.Service"),
    ] {
        let expected =
            format!("Service in version \"v1\" cannot be handled as a Service: {expected}");
        assert_eq!(refused(service(), object), expected);
    }
}

#[test]
fn unknown_and_duplicate_fields_follow_the_strictness() {
    let body = br#"{"spec":{"foo":1,"type":"NodePort","ports":[{"port":80,"bar":{},"port":81}]}}"#;
    let decoded = decode(body, ContentType::Json).unwrap();
    assert_eq!(decoded.duplicates, ["spec.ports[0].port"]);
    let run = |strictness| {
        let mut object = decoded.value.clone();
        (check(service(), &mut object, &decoded.duplicates, strictness), object)
    };
    let (strict, _) = run(Strictness::Strict);
    assert_eq!(
        strict.unwrap_err().0,
        "Service in version \"v1\" cannot be handled as a Service: strict decoding error: \
         unknown field \"spec.foo\", unknown field \"spec.ports[0].bar\", \
         duplicate field \"spec.ports[0].port\""
    );
    let (warned, object) = run(Strictness::Warn);
    assert_eq!(
        warned.unwrap(),
        [
            "unknown field \"spec.foo\"",
            "unknown field \"spec.ports[0].bar\"",
            "duplicate field \"spec.ports[0].port\""
        ]
    );
    assert_eq!(object, json!({ "spec": { "type": "NodePort", "ports": [{ "port": 81 }] } }));
    assert_eq!(run(Strictness::Ignore).0.unwrap(), Vec::<String>::new());
}

#[test]
fn nulls_mean_unset() {
    let mut object = json!({
        "metadata": { "creationTimestamp": null, "labels": { "a": null }, "name": "x" },
        "spec": { "ports": [null], "selector": null },
    });
    check(service(), &mut object, &[], Strictness::Strict).unwrap();
    let expected = json!({
        "metadata": { "labels": { "a": "" }, "name": "x" }, "spec": { "ports": [{}] },
    });
    assert_eq!(object, expected);
}

#[test]
fn self_decoding_types_are_checked() {
    let pod = kinds::by_kind("v1", "Pod").unwrap();
    let secret = kinds::by_kind("v1", "Secret").unwrap();
    let cpu = |cpu: Value| json!({ "spec": { "containers": [{ "resources": { "limits": { "cpu": cpu } } }] } });
    for (value, canonical) in [(json!(0.5), "500m"), (json!("1000m"), "1"), (json!(2), "2")] {
        let mut object = cpu(value);
        check(pod, &mut object, &[], Strictness::Strict).unwrap();
        assert_eq!(object, cpu(canonical.into()));
    }
    assert!(refused(pod, cpu("x".into())).contains("quantities must match"));
    let time = json!({ "metadata": { "creationTimestamp": "yesterday" } });
    assert!(refused(pod, time).contains("parsing time \"yesterday\""));
    let data = json!({ "data": { "a": "!" } });
    assert!(refused(secret, data).ends_with("illegal base64 data at input byte 0"));
}

#[test]
fn times_are_brought_to_utc_and_their_precision() {
    let event = kinds::by_kind("v1", "Event").unwrap();
    let time = "2026-01-01T02:00:00.5+01:00";
    let mut object = json!({ "metadata": { "creationTimestamp": time }, "eventTime": time });
    check(event, &mut object, &[], Strictness::Strict).unwrap();
    assert_eq!(object["metadata"]["creationTimestamp"], "2026-01-01T01:00:00Z");
    assert_eq!(object["eventTime"], "2026-01-01T01:00:00.500000Z");
}

#[test]
fn malformed_bodies_are_refused() {
    for body in [&b"{"[..], b"", b"{} x", b"{\"a\":}", b"\xff"] {
        assert!(decode(body, ContentType::Json).is_err(), "{body:?}");
    }
    assert!(decode(b"a: [", ContentType::Yaml).is_err());
    let deep = "[".repeat(100_000);
    assert!(decode(deep.as_bytes(), ContentType::Json).is_err());
}

#[test]
fn yaml_gives_the_same_value_as_json_and_tells_duplicates() {
    let text = b"kind: Service\nspec:\n  ports:\n  - port: 80\n    name: \"80\"\n    port: 81\n  type: NodePort\n  on: true\n";
    let decoded = decode(text, ContentType::Yaml).unwrap();
    assert_eq!(
        decoded.value,
        json!({ "kind": "Service", "spec": {
            "ports": [{ "port": 81, "name": "80" }], "type": "NodePort", "on": true
        } })
    );
    assert_eq!(decoded.duplicates, ["spec.ports[0].port"]);
}

#[test]
fn lists_are_merged_as_upstreams_tags_say() {
    let keys = |api_version, kind, path: &[&str]| match merge_schema(
        kinds::by_kind(api_version, kind).unwrap(),
    )
    .list(path)
    {
        ListMerge::ByKey(keys) => keys.iter().map(|key| key.field).collect::<Vec<_>>().join("+"),
        other => format!("{other:?}"),
    };
    let pod = ["spec", "template", "spec"];
    let below = |rest: &[&'static str]| [&pod[..], rest].concat();
    assert_eq!(keys("v1", "Service", &["spec", "ports"]), "port+protocol");
    assert_eq!(keys("v1", "Service", &["metadata", "finalizers"]), "Set");
    assert_eq!(keys("v1", "Service", &["metadata", "ownerReferences"]), "uid");
    assert_eq!(keys("v1", "Service", &["spec", "externalIPs"]), "Atomic");
    assert_eq!(keys("v1", "Service", &["spec", "nonsense", "x"]), "Atomic");
    let deployment = |rest| keys("apps/v1", "Deployment", &below(rest));
    assert_eq!(deployment(&["containers"]), "name");
    assert_eq!(deployment(&["containers", "env"]), "name");
    assert_eq!(deployment(&["containers", "ports"]), "containerPort+protocol");
    assert_eq!(deployment(&["containers", "volumeMounts"]), "mountPath");
    assert_eq!(deployment(&["containers", "args"]), "Atomic");
    assert_eq!(deployment(&["tolerations"]), "Atomic");
    assert_eq!(deployment(&["volumes"]), "name");
}

#[test]
fn every_overlay_names_a_field_that_exists() {
    for overlay in overlay::all() {
        let known = ["io.k8s.api.", "io.k8s.apimachinery.pkg."].iter().any(|prefix| {
            let types = types::Types::get();
            match types.component(&format!("{prefix}{}", overlay.component)) {
                Some(types::Type::Struct(index)) => {
                    types.structure(*index).field(overlay.field).is_some()
                }
                _ => false,
            }
        });
        assert!(known, "{}.{}", overlay.component, overlay.field);
    }
}

#[test]
fn openapi_is_closed_and_named_like_upstreams() {
    for kind in kinds::all() {
        assert!(openapi::is_known(kind.schema), "{}", kind.schema);
        let components = components(kind.group, kind.version);
        assert_eq!(openapi::dangling(&components), Vec::<String>::new());
        let gvk = json!([{ "group": kind.group, "version": kind.version, "kind": kind.kind }]);
        assert_eq!(components[kind.schema]["x-kubernetes-group-version-kind"], gvk);
    }
    let core = components("", "v1");
    let ports = &core["io.k8s.api.core.v1.ServiceSpec"]["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "port");
    assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["port", "protocol"]));
    let target = &core["io.k8s.api.core.v1.ServicePort"]["properties"]["targetPort"];
    assert!(target["description"].is_string(), "{target}");
    assert_eq!(
        target["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.apimachinery.pkg.util.intstr.IntOrString"
    );
    let int_or_string = &core["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
    assert_eq!(int_or_string["format"], "int-or-string");
    assert!(core.contains_key("io.k8s.api.core.v1.ServiceList"));
    assert!(core.contains_key("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"));
}

#[test]
fn ownership_follows_upstreams_list_struct_and_map_types() {
    use portolan_patch::apply::{FieldSet, field_set};
    let cases = [
        (
            "v1",
            "Service",
            json!({ "spec": { "selector": { "a": "b" }, "externalIPs": ["1.2.3.4"],
                "ports": [{ "port": 53, "protocol": "UDP" }, { "port": 53 }] } }),
            json!({ "f:spec": { "f:selector": {}, "f:externalIPs": {}, "f:ports": {
                "k:{\"port\":53,\"protocol\":\"TCP\"}": { ".": {}, "f:port": {} },
                "k:{\"port\":53,\"protocol\":\"UDP\"}": { ".": {}, "f:port": {}, "f:protocol": {} },
            } } }),
        ),
        (
            "apps/v1",
            "Deployment",
            json!({ "spec": { "selector": { "matchLabels": { "a": "b" } }, "template": { "spec": {
                "nodeSelector": { "a": "b" },
                "containers": [{ "name": "c", "args": ["x"], "resources": { "limits": { "cpu": "1" } },
                    "ports": [{ "containerPort": 80 }],
                    "env": [{ "name": "E", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } }],
                }] } } } }),
            json!({ "f:spec": { "f:selector": {}, "f:template": { "f:spec": {
                "f:nodeSelector": {},
                "f:containers": { "k:{\"name\":\"c\"}": {
                    ".": {}, "f:name": {}, "f:args": {}, "f:resources": { "f:limits": { "f:cpu": {} } },
                    "f:ports": { "k:{\"containerPort\":80,\"protocol\":\"TCP\"}":
                        { ".": {}, "f:containerPort": {} } },
                    "f:env": { "k:{\"name\":\"E\"}": { ".": {}, "f:name": {},
                        "f:valueFrom": { "f:secretKeyRef": {} } } },
                } } } } } }),
        ),
        (
            "discovery.k8s.io/v1",
            "EndpointSlice",
            json!({ "endpoints": [{ "addresses": ["10.0.0.1"] }], "metadata": { "ownerReferences": [
                { "uid": "u", "name": "n" }] } }),
            json!({ "f:endpoints": {},
                "f:metadata": { "f:ownerReferences": { "k:{\"uid\":\"u\"}": {} } } }),
        ),
    ];
    for (api_version, kind, object, expected) in cases {
        let schema = owned_type(kinds::by_kind(api_version, kind).unwrap());
        let set = field_set(schema, &object).unwrap();
        assert_eq!(set, FieldSet::parse(&expected).unwrap(), "{kind}: {}", set.to_value());
    }
}

#[test]
fn openapi_says_what_is_owned_whole() {
    let core = components("", "v1");
    let selector = &core["io.k8s.api.core.v1.ServiceSpec"]["properties"]["selector"];
    assert_eq!(selector["x-kubernetes-map-type"], "atomic");
    let reference = &core["io.k8s.api.core.v1.ObjectReference"];
    assert_eq!(reference["x-kubernetes-map-type"], "atomic");
    let claims = &core["io.k8s.api.core.v1.ResourceRequirements"]["properties"]["claims"];
    assert_eq!(claims["x-kubernetes-list-type"], "map");
    assert_eq!(claims["x-kubernetes-list-map-keys"], json!(["name"]));
    assert!(claims.get("x-kubernetes-patch-strategy").is_none());
}
