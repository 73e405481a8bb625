//! Volumes of a pod.

use std::collections::HashSet;

use serde_json::Value;

use super::causes::{Causes, Path};
use super::container::{field_path, relative_path};
use super::formats;
use crate::fields::Fields;

/// 0777
const MOST_MODE: i64 = 511;

const DOWNWARD_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.labels",
    "metadata.annotations",
    "metadata.uid",
];

/// The names of the volumes, for the mounts to refer to.
pub(super) fn validate<'a>(
    causes: &mut Causes,
    path: &Path<'_>,
    volumes: &'a [Value],
) -> HashSet<&'a str> {
    let mut names = HashSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        match volume.text("name") {
            "" => causes.required(&path.child("name"), ""),
            name => {
                causes.all(&path.child("name"), name, formats::dns_label(name));
                if !names.insert(name) {
                    causes.duplicate(&path.child("name"), name);
                }
            }
        }
        source(causes, &path, volume);
    }
    names
}

fn source(causes: &mut Causes, path: &Path<'_>, volume: &Value) {
    let given: Vec<&String> =
        volume.as_object().into_iter().flatten().map(|(field, _)| field).collect();
    let mut given = given.into_iter().filter(|field| *field != "name");
    let Some(field) = given.next() else {
        causes.required(path, "must specify a volume type");
        return;
    };
    for extra in given {
        causes.forbidden(&path.child(extra), "may not specify more than 1 volume type");
    }
    let (path, source) = (path.child(field), &volume[field.as_str()]);
    mode(causes, &path, source, "defaultMode");
    match field.as_str() {
        "configMap" => {
            if source.text("name").is_empty() {
                causes.required(&path.child("name"), "");
            }
            items(causes, &path, source);
        }
        "secret" => {
            if source.text("secretName").is_empty() {
                causes.required(&path.child("secretName"), "");
            }
            items(causes, &path, source);
        }
        "hostPath" => {
            let host = source.text("path");
            if host.is_empty() {
                causes.required(&path.child("path"), "");
            }
            if host.split('/').any(|part| part == "..") {
                causes.invalid(&path.child("path"), host, "must not contain '..'");
            }
        }
        "downwardAPI" => downward(causes, &path, source),
        "projected" => projected(causes, &path, source),
        "persistentVolumeClaim" if source.text("claimName").is_empty() => {
            causes.required(&path.child("claimName"), "");
        }
        _ => {}
    }
}

fn mode(causes: &mut Causes, path: &Path<'_>, object: &Value, field: &str) {
    let mode = object.number(field);
    if !(0..=MOST_MODE).contains(&mode) {
        let message = "must be a number between 0 and 0777 (octal), both inclusive";
        causes.invalid(&path.child(field), mode, message);
    }
}

fn items(causes: &mut Causes, path: &Path<'_>, source: &Value) {
    let list = path.child("items");
    for (index, item) in source.items("items").iter().enumerate() {
        let path = list.index(index);
        for field in ["key", "path"] {
            if item.text(field).is_empty() {
                causes.required(&path.child(field), "");
            }
        }
        relative_path(causes, &path.child("path"), item.text("path"));
        mode(causes, &path, item, "mode");
    }
}

fn downward(causes: &mut Causes, path: &Path<'_>, source: &Value) {
    let list = path.child("items");
    for (index, item) in source.items("items").iter().enumerate() {
        let path = list.index(index);
        if item.text("path").is_empty() {
            causes.required(&path.child("path"), "");
        }
        relative_path(causes, &path.child("path"), item.text("path"));
        if item.has("fieldRef") {
            let field = item["fieldRef"].text("fieldPath");
            field_path(causes, &path.child("fieldRef"), field, DOWNWARD_FIELDS);
        } else if !item.has("resourceFieldRef") {
            causes.required(&path, "one of fieldRef and resourceFieldRef is required");
        }
        mode(causes, &path, item, "mode");
    }
}

fn projected(causes: &mut Causes, path: &Path<'_>, projected: &Value) {
    let list = path.child("sources");
    for (index, source) in projected.items("sources").iter().enumerate() {
        let path = list.index(index);
        let mut given = source.as_object().into_iter().flatten();
        let Some((field, source)) = given.next() else {
            causes.required(&path, "must specify a volume source");
            continue;
        };
        for (extra, _) in given {
            causes.forbidden(
                &path.child(extra),
                "may not specify more than 1 volume type per source",
            );
        }
        let path = path.child(field);
        match field.as_str() {
            "configMap" | "secret" => {
                if source.text("name").is_empty() {
                    causes.required(&path.child("name"), "");
                }
                items(causes, &path, source);
            }
            "downwardAPI" => downward(causes, &path, source),
            "serviceAccountToken" => {
                if source.text("path").is_empty() {
                    causes.required(&path.child("path"), "");
                }
                if source.number("expirationSeconds") < 600 {
                    let seconds = source.number("expirationSeconds");
                    let message = "may not specify a duration less than 10 minutes";
                    causes.invalid(&path.child("expirationSeconds"), seconds, message);
                }
            }
            _ => {}
        }
    }
}
