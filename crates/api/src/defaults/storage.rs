//! Defaults of volumes, claims, their classes, and limits (upstream: pkg/apis/core/v1/defaults.go,
//! pkg/apis/storage/v1/defaults.go).

use serde_json::{Value, json};

use crate::fields::Fields;

/// Of sources of volumes: source, field, value.
const SOURCES: &[(&str, &str, &str)] = &[
    ("iscsi", "iscsiInterface", "default"),
    ("rbd", "pool", "rbd"),
    ("rbd", "user", "admin"),
    ("rbd", "keyring", "/etc/ceph/keyring"),
    ("scaleIO", "storageMode", "ThinProvisioned"),
    ("scaleIO", "fsType", "xfs"),
    ("azureDisk", "cachingMode", "ReadWrite"),
    ("azureDisk", "fsType", "ext4"),
    ("azureDisk", "kind", "Shared"),
];

pub(super) fn persistent_volume(volume: &mut Value) {
    if let Some(status) = volume.object_mut("status") {
        status.default_to("phase", "Pending");
    }
    let Some(spec) = volume.object_mut("spec") else { return };
    spec.default_to("persistentVolumeReclaimPolicy", "Retain");
    spec.default_absent("volumeMode", "Filesystem");
    for (source, field, value) in SOURCES {
        if let Some(source) = spec.get_mut(*source) {
            source.default_to(field, *value);
        }
    }
    if let Some(disk) = spec.get_mut("azureDisk") {
        disk.default_absent("readOnly", false);
    }
    if let Some(path) = spec.get_mut("hostPath") {
        path.default_absent("type", "");
    }
}

pub(super) fn persistent_volume_claim(claim: &mut Value) {
    claim.default_absent("status", json!({}));
    if let Some(status) = claim.object_mut("status") {
        status.default_to("phase", "Pending");
    }
    let Some(spec) = claim.object_mut("spec") else { return };
    spec.default_absent("volumeMode", "Filesystem");
    // The older field and the newer one say the same, as far as the older can.
    let reference = spec["dataSourceRef"].clone();
    if spec.has("dataSource") && reference.is_null() {
        let source = spec["dataSource"].clone();
        spec.set("dataSourceRef", source);
    } else if !reference.is_null() && !reference.has("namespace") && !spec.has("dataSource") {
        spec.set("dataSource", reference);
    }
}

pub(super) fn storage_class(class: &mut Value) {
    class.default_absent("reclaimPolicy", "Delete");
    class.default_absent("volumeBindingMode", "Immediate");
}

pub(super) fn csi_driver(driver: &mut Value) {
    let Some(spec) = driver.object_mut("spec") else { return };
    spec.default_absent("attachRequired", true);
    for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        spec.default_absent(field, false);
    }
    spec.default_absent("fsGroupPolicy", "ReadWriteOnceWithFSType");
    if spec.items("volumeLifecycleModes").is_empty() {
        spec.set("volumeLifecycleModes", json!(["Persistent"]));
    }
}

/// Limits of containers: what has no default is limited to the most, what has no default request
/// requests its limit or else the least.
pub(super) fn limit_range(range: &mut Value) {
    let Some(spec) = range.object_mut("spec") else { return };
    for item in spec.items_mut("limits") {
        if item.text("type") != "Container" {
            continue;
        }
        for (from, to) in
            [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")]
        {
            let Some(Value::Object(quantities)) = item.get(from).cloned() else { continue };
            let Some(target) = item.object_mut(to) else { continue };
            for (name, quantity) in quantities {
                target.default_absent(&name, quantity);
            }
        }
    }
}
