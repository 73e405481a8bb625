//! Volumes, claims and classes of storage, and the quotas and limits of a namespace.

use serde_json::Value;

use super::{AGE, Column, NAME, age, boolean, integer, name, or, text, wide};
use crate::fields::Fields;

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) const PERSISTENT_VOLUME: &[Column] = &[
    NAME,
    text("Capacity", "Size of the volume."),
    text("Access Modes", "How the volume can be mounted."),
    text("Reclaim Policy", "What becomes of the volume when its claim is gone."),
    text("Status", "Phase of the volume."),
    text("Claim", "Who has the volume."),
    text("StorageClass", "StorageClass of the pv"),
    text("VolumeAttributesClass", "VolumeAttributesClass of the pv"),
    text("Reason", "Why the volume failed."),
    AGE,
    wide("VolumeMode", "With a filesystem or as a block device."),
];

pub(super) const PERSISTENT_VOLUME_CLAIM: &[Column] = &[
    NAME,
    text("Status", "Phase of the claim."),
    text("Volume", "The volume that is claimed."),
    text("Capacity", "Size of the volume."),
    text("Access Modes", "How the volume can be mounted."),
    text("StorageClass", "StorageClass of the pvc"),
    text("VolumeAttributesClass", "VolumeAttributesClass of the pvc"),
    AGE,
    wide("VolumeMode", "With a filesystem or as a block device."),
];

pub(super) const STORAGE_CLASS: &[Column] = &[
    NAME,
    text("Provisioner", "Who makes the volumes."),
    text("ReclaimPolicy", "What becomes of a volume when its claim is gone."),
    text("VolumeBindingMode", "When volumes are made and bound."),
    text("AllowVolumeExpansion", "Whether volumes can grow."),
    AGE,
];

pub(super) const VOLUME_ATTACHMENT: &[Column] = &[
    NAME,
    Column { format: "name", ..text("Attacher", "Who attaches the volume.") },
    text("PV", "The volume."),
    text("Node", "Where it is attached."),
    boolean("Attached", "Whether it is."),
    AGE,
];

pub(super) const CSI_NODE: &[Column] =
    &[NAME, integer("Drivers", "Number of drivers that are registered on the node."), AGE];

pub(super) const CSI_DRIVER: &[Column] = &[
    NAME,
    boolean("AttachRequired", "Whether volumes have to be attached."),
    boolean("PodInfoOnMount", "Whether the driver is told about the pod."),
    boolean("StorageCapacity", "Whether the driver tells how much room there is."),
    text("TokenRequests", "Audiences of the tokens that the driver gets."),
    boolean("RequiresRepublish", "Whether the driver is called again and again."),
    text("Modes", "Kinds of volumes that the driver has."),
    AGE,
];

pub(super) const RESOURCE_QUOTA: &[Column] = &[
    NAME,
    text("Request", "What is requested, of what may be."),
    text("Limit", "What the limits come to, of what they may."),
    AGE,
];

/// `RWO,ROX`, in upstream's order and each once.
fn access_modes(modes: &[Value]) -> String {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let given = SHORT.iter().filter(|(mode, _)| modes.iter().any(|given| given == mode));
    given.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// Of a quantity that is not there Go prints zero.
fn size(list: &Value) -> &str {
    match list.text("storage") {
        "" => "0",
        size => size,
    }
}

fn phase(object: &Value) -> Value {
    let deleting = object["metadata"].has("deletionTimestamp");
    if deleting { "Terminating".into() } else { object["status"].text("phase").into() }
}

fn class(object: &Value) -> Value {
    let older = object["metadata"]["annotations"].text(CLASS_ANNOTATION);
    if older.is_empty() { object["spec"].text("storageClassName").into() } else { older.into() }
}

fn set_or_unset(spec: &Value, field: &str) -> Value {
    spec[field].as_str().unwrap_or("<unset>").into()
}

pub(super) fn persistent_volume(volume: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let spec = &volume["spec"];
    let claim = match &spec["claimRef"] {
        Value::Null => String::new(),
        claim => format!("{}/{}", claim.text("namespace"), claim.text("name")),
    };
    vec![
        name(volume),
        size(&spec["capacity"]).into(),
        access_modes(spec.items("accessModes")).into(),
        spec.text("persistentVolumeReclaimPolicy").into(),
        phase(volume),
        claim.into(),
        class(volume),
        set_or_unset(spec, "volumeAttributesClassName"),
        volume["status"].text("reason").into(),
        age(volume, now),
        set_or_unset(spec, "volumeMode"),
    ]
}

pub(super) fn persistent_volume_claim(claim: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, status) = (&claim["spec"], &claim["status"]);
    // Until it is bound a claim has neither size nor modes, whatever it asks for.
    let bound = !spec.text("volumeName").is_empty();
    let capacity = if bound { size(&status["capacity"]) } else { "" };
    let modes = if bound { access_modes(status.items("accessModes")) } else { String::new() };
    vec![
        name(claim),
        phase(claim),
        spec.text("volumeName").into(),
        capacity.into(),
        modes.into(),
        class(claim),
        set_or_unset(spec, "volumeAttributesClassName"),
        age(claim, now),
        set_or_unset(spec, "volumeMode"),
    ]
}

pub(super) fn storage_class(class: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let annotations = &class["metadata"]["annotations"];
    let default = [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ]
    .iter()
    .any(|annotation| annotations.text(annotation) == "true");
    let own = class["metadata"].text("name");
    vec![
        if default { format!("{own} (default)").into() } else { own.into() },
        class.text("provisioner").into(),
        or(class.text("reclaimPolicy"), "Delete"),
        or(class.text("volumeBindingMode"), "Immediate"),
        class.is("allowVolumeExpansion").into(),
        age(class, now),
    ]
}

pub(super) fn volume_attachment(attachment: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let spec = &attachment["spec"];
    vec![
        name(attachment),
        spec.text("attacher").into(),
        spec["source"].text("persistentVolumeName").into(),
        spec.text("nodeName").into(),
        attachment["status"].is("attached").into(),
        age(attachment, now),
    ]
}

pub(super) fn csi_node(node: &Value, now: jiff::Timestamp) -> Vec<Value> {
    vec![name(node), node["spec"].items("drivers").len().into(), age(node, now)]
}

pub(super) fn csi_driver(driver: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let spec = &driver["spec"];
    let texts = |field: &str, part: fn(&Value) -> &str| {
        spec.items(field).iter().map(part).collect::<Vec<_>>().join(",")
    };
    let audiences = match spec.has("tokenRequests") {
        true => texts("tokenRequests", |request| request.text("audience")),
        false => "<unset>".to_owned(),
    };
    let modes = texts("volumeLifecycleModes", |mode| mode.as_str().unwrap_or_default());
    vec![
        name(driver),
        spec["attachRequired"].as_bool().unwrap_or(true).into(),
        spec.is("podInfoOnMount").into(),
        spec.is("storageCapacity").into(),
        audiences.into(),
        spec.is("requiresRepublish").into(),
        or(&modes, "<none>"),
        age(driver, now),
    ]
}

pub(super) fn resource_quota(quota: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let status = &quota["status"];
    let mut names: Vec<&str> = status.entries("hard").map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let column = |limits: bool| {
        let own = names.iter().filter(|name| name.starts_with("limits.") == limits);
        let used = own.map(|name| {
            let used = status["used"][*name].as_str().unwrap_or("0");
            format!("{name}: {used}/{}", status["hard"].text(name))
        });
        used.collect::<Vec<_>>().join(", ")
    };
    vec![name(quota), column(false).into(), column(true).into(), age(quota, now)]
}
