//! Volumes, claims and classes of storage (upstream: pkg/apis/core/validation,
//! pkg/apis/storage/validation).

use serde_json::Value;

use super::causes::{Causes, Path};
use super::{formats, selector};
use crate::fields::{Fields, same};
use crate::schema::quantity;

const ACCESS_MODES: &[&str] =
    &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

/// Fields of a volume's spec that are no source.
const NOT_SOURCES: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

const MOST_PARAMETERS: usize = 512;
const PARAMETERS_BYTES: usize = 256 << 10;

/// The one source of a volume's spec, and what is too much.
fn sources(spec: &Value) -> impl Iterator<Item = &str> {
    let fields = spec.as_object().into_iter().flatten();
    fields.map(|(field, _)| field.as_str()).filter(|field| !NOT_SOURCES.contains(field))
}

fn access_modes(causes: &mut Causes, path: &Path<'_>, modes: &[Value]) {
    for mode in modes.iter().filter_map(Value::as_str) {
        causes.one_of_or_empty(path, mode, ACCESS_MODES);
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        let message = "may not use ReadWriteOncePod with other access modes";
        causes.forbidden(path, message);
    }
}

fn positive(causes: &mut Causes, path: &Path<'_>, quantity: &Value) {
    let text = quantity.as_str().unwrap_or_default();
    if quantity::parse(text).is_ok_and(|quantity| quantity.nanos <= 0) {
        causes.invalid(path, text, "must be greater than zero");
    }
}

fn class_name(causes: &mut Causes, path: &Path<'_>, spec: &Value, field: &str) {
    let name = spec.text(field);
    if !name.is_empty() {
        causes.all(&path.child(field), name, formats::dns_subdomain(name));
    }
}

pub(super) fn persistent_volume(causes: &mut Causes, volume: &Value) {
    let (spec, path) = (&volume["spec"], Path::new("spec"));
    if spec.items("accessModes").is_empty() {
        causes.required(&path.child("accessModes"), "");
    }
    access_modes(causes, &path.child("accessModes"), spec.items("accessModes"));
    let (capacity, own) = (&spec["capacity"], path.child("capacity"));
    let given = spec.entries("capacity").count();
    if given == 0 {
        causes.required(&own, "");
    } else if given > 1 || !capacity.has("storage") {
        causes.not_supported_value(&own, capacity, &["storage"]);
    }
    for (name, quantity) in spec.entries("capacity") {
        positive(causes, &own.key(name), quantity);
    }
    let reclaim = spec.text("persistentVolumeReclaimPolicy");
    let policies = ["Delete", "Recycle", "Retain"];
    causes.one_of_or_empty(&path.child("persistentVolumeReclaimPolicy"), reclaim, &policies);
    let mut given = sources(spec);
    match given.next() {
        None => causes.required(&path, "must specify a volume type"),
        Some(_) => {
            for extra in given {
                let message = "may not specify more than 1 volume type";
                causes.forbidden(&path.child(extra), message);
            }
        }
    }
    for source in ["hostPath", "local", "nfs"] {
        if spec.has(source) {
            path_source(causes, &path.child(source), source, &spec[source]);
        }
    }
    if spec.has("csi") {
        let (csi, path) = (&spec["csi"], path.child("csi"));
        for field in ["driver", "volumeHandle"] {
            if csi.text(field).is_empty() {
                causes.required(&path.child(field), "");
            }
        }
    }
    if spec.has("local") && !spec.has("nodeAffinity") {
        let message = "Local volume requires node affinity";
        causes.required(&Path::new("metadata").child("annotations"), message);
    }
    if spec["hostPath"].text("path") == "/" && reclaim == "Recycle" {
        let message = "may not be 'recycle' for a hostPath mount of '/'";
        causes.forbidden(&path.child("persistentVolumeReclaimPolicy"), message);
    }
    class_name(causes, &path, spec, "storageClassName");
    class_name(causes, &path, spec, "volumeAttributesClassName");
    causes.one_of_or_empty(&path.child("volumeMode"), spec.text("volumeMode"), VOLUME_MODES);
}

fn path_source(causes: &mut Causes, path: &Path<'_>, kind: &str, source: &Value) {
    if kind == "nfs" && source.text("server").is_empty() {
        causes.required(&path.child("server"), "");
    }
    let text = source.text("path");
    let own = path.child("path");
    if text.is_empty() {
        causes.required(&own, "");
    } else if kind == "nfs" && !text.starts_with('/') {
        causes.invalid(&own, text, "must be an absolute path");
    } else if kind != "nfs" && text.split('/').any(|part| part == "..") {
        causes.invalid(&own, text, "must not contain '..'");
    }
}

pub(super) fn persistent_volume_update(causes: &mut Causes, new: &Value, old: &Value) {
    let path = Path::new("spec");
    let (new, old) = (&new["spec"], &old["spec"]);
    let of = |spec: &Value| -> Vec<(String, Value)> {
        sources(spec).map(|source| (source.to_owned(), spec[source].clone())).collect()
    };
    let (new_sources, old_sources) = (of(new), of(old));
    let kept = new_sources.len() == old_sources.len()
        && new_sources.iter().zip(&old_sources).all(|(a, b)| a.0 == b.0 && same(&a.1, &b.1));
    if !kept {
        let message = "spec.persistentvolumesource is immutable after creation";
        causes.forbidden(&path.child("persistentvolumesource"), message);
    }
    causes.immutable(&path.child("volumeMode"), &new["volumeMode"], &old["volumeMode"]);
    if old.has("nodeAffinity") {
        let field = path.child("nodeAffinity");
        causes.immutable(&field, &new["nodeAffinity"], &old["nodeAffinity"]);
    }
}

pub(super) fn persistent_volume_claim(causes: &mut Causes, claim: &Value) {
    let (spec, path) = (&claim["spec"], Path::new("spec"));
    if spec.items("accessModes").is_empty() {
        let message = "at least 1 access mode is required";
        causes.required(&path.child("accessModes"), message);
    }
    if spec.has("selector") {
        selector::validate(causes, &path.child("selector"), &spec["selector"]);
    }
    access_modes(causes, &path.child("accessModes"), spec.items("accessModes"));
    let resources = path.child("resources");
    let wanted = &spec["resources"]["requests"]["storage"];
    if wanted.is_null() {
        causes.required(&resources.key("storage"), "");
    } else {
        positive(causes, &resources.key("storage"), wanted);
    }
    class_name(causes, &path, spec, "storageClassName");
    class_name(causes, &path, spec, "volumeAttributesClassName");
    causes.one_of_or_empty(&path.child("volumeMode"), spec.text("volumeMode"), VOLUME_MODES);
    if spec.has("dataSource")
        && !spec["dataSourceRef"].has("namespace")
        && spec.has("dataSourceRef")
        && !same(&spec["dataSource"], &spec["dataSourceRef"])
    {
        let message = "must match dataSourceRef";
        causes.invalid(&path.child("dataSource"), spec["dataSource"].clone(), message);
    }
}

pub(super) fn persistent_volume_claim_update(causes: &mut Causes, new: &Value, old: &Value) {
    let path = Path::new("spec");
    let (new_spec, old_spec) = (&new["spec"], &old["spec"]);
    let mut allowed = new_spec.clone();
    // The binder names the volume once.
    if old_spec.text("volumeName").is_empty() {
        allowed.copy_from(old_spec, "volumeName");
    }
    let bound = old["status"].text("phase") == "Bound";
    if bound {
        allowed.copy_from(old_spec, "volumeAttributesClassName");
        if let Some(resources) = allowed.object_mut("resources") {
            resources.copy_from(&old_spec["resources"], "requests");
        }
    }
    if !same(&allowed, old_spec) {
        let message = "spec is immutable after creation except resources.requests and \
                       volumeAttributesClassName for bound claims";
        causes.forbidden(&path, message);
    }
    let size = |spec: &Value| {
        quantity::parse(spec["resources"]["requests"].text("storage")).map(|size| size.nanos)
    };
    let capacity = quantity::parse(old["status"]["capacity"].text("storage"));
    if let (true, Ok(now), Ok(before)) = (bound, size(new_spec), size(old_spec))
        && now < before
        && !capacity.is_ok_and(|capacity| now > capacity.nanos)
    {
        let resources = path.child("resources");
        let requests = resources.child("requests");
        let message = "field can not be less than status.capacity";
        causes.forbidden(&requests.child("storage"), message);
    }
    causes.immutable(&path.child("volumeMode"), &new_spec["volumeMode"], &old_spec["volumeMode"]);
}

pub(super) fn storage_class(causes: &mut Causes, class: &Value) {
    let provisioner = class.text("provisioner");
    let path = Path::new("provisioner");
    if provisioner.is_empty() {
        causes.required(&path, "");
    } else {
        let messages = formats::qualified_name(&provisioner.to_lowercase());
        causes.all(&path, provisioner, messages);
    }
    let path = Path::new("parameters");
    let mut bytes = 0;
    if class.entries("parameters").count() > MOST_PARAMETERS {
        causes.too_long(&path, MOST_PARAMETERS);
    }
    for (key, value) in class.entries("parameters") {
        if key.is_empty() {
            causes.invalid(&path, "", "field can not be empty.");
        }
        bytes += key.len() + value.as_str().unwrap_or_default().len();
    }
    if bytes > PARAMETERS_BYTES {
        causes.too_long(&path, PARAMETERS_BYTES);
    }
    let reclaim = class.text("reclaimPolicy");
    causes.one_of_or_empty(&Path::new("reclaimPolicy"), reclaim, &["Delete", "Retain"]);
    let mode = class.text("volumeBindingMode");
    let modes = ["Immediate", "WaitForFirstConsumer"];
    causes.one_of(&Path::new("volumeBindingMode"), mode, &modes);
}

pub(super) fn storage_class_update(causes: &mut Causes, new: &Value, old: &Value) {
    for field in ["parameters", "provisioner", "reclaimPolicy"] {
        if !same(&new[field], &old[field]) {
            causes.forbidden(&Path::new(field), &format!("updates to {field} are forbidden."));
        }
    }
    let path = Path::new("volumeBindingMode");
    causes.immutable(&path, &new["volumeBindingMode"], &old["volumeBindingMode"]);
}

pub(super) fn csi_driver(causes: &mut Causes, driver: &Value) {
    let (spec, path) = (&driver["spec"], Path::new("spec"));
    let modes = path.child("volumeLifecycleModes");
    for mode in spec.items("volumeLifecycleModes").iter().filter_map(Value::as_str) {
        causes.one_of(&modes, mode, &["Ephemeral", "Persistent"]);
    }
    let policies = ["File", "None", "ReadWriteOnceWithFSType"];
    causes.one_of_or_empty(&path.child("fsGroupPolicy"), spec.text("fsGroupPolicy"), &policies);
}

pub(super) fn csi_node(causes: &mut Causes, node: &Value) {
    let path = Path::new("spec");
    let list = path.child("drivers");
    let drivers = node["spec"].items("drivers");
    for (index, driver) in drivers.iter().enumerate() {
        let path = list.index(index);
        match driver.text("name") {
            "" => causes.required(&path.child("name"), ""),
            name if drivers[..index].iter().any(|other| other.text("name") == name) => {
                causes.duplicate(&path.child("name"), name);
            }
            name => causes.all(&path.child("name"), name, formats::dns_subdomain(name)),
        }
        if driver.text("nodeID").is_empty() {
            causes.required(&path.child("nodeID"), "");
        }
    }
}

pub(super) fn volume_attachment(causes: &mut Causes, attachment: &Value) {
    let (spec, path) = (&attachment["spec"], Path::new("spec"));
    match spec.text("attacher") {
        "" => causes.required(&path.child("attacher"), ""),
        name => causes.all(&path.child("attacher"), name, formats::dns_subdomain(name)),
    }
    match spec.text("nodeName") {
        "" => causes.required(&path.child("nodeName"), ""),
        name => causes.all(&path.child("nodeName"), name, formats::dns_subdomain(name)),
    }
    let source = &spec["source"];
    if !source.has("persistentVolumeName") && !source.has("inlineVolumeSpec") {
        causes.required(
            &path.child("source"),
            "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
        );
    }
}

pub(super) fn volume_attachment_update(causes: &mut Causes, new: &Value, old: &Value) {
    if !same(&new["spec"], &old["spec"]) {
        causes.invalid(&Path::new("spec"), new["spec"].clone(), "field is immutable");
    }
}
