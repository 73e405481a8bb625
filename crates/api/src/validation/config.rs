//! ConfigMaps and Secrets.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::causes::{Causes, Path};
use super::formats;
use crate::fields::{Fields, empty};

const MOST_BYTES: usize = 1 << 20;
const SEALED: &str = "field is immutable when `immutable` is set";

fn keys(causes: &mut Causes, object: &Value, field: &str) {
    let path = Path::new(field);
    for (key, _) in object.entries(field) {
        causes.all(&path.key(key), key, formats::config_map_key(key));
    }
}

fn text_bytes(object: &Value, field: &str) -> usize {
    object.entries(field).map(|(_, value)| value.as_str().unwrap_or_default().len()).sum()
}

fn decoded_bytes(object: &Value, field: &str) -> usize {
    object.entries(field).map(|(_, value)| decoded(value).len()).sum()
}

fn decoded(value: &Value) -> Vec<u8> {
    // The schema has checked that it is base64.
    STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default()
}

pub(super) fn config_map(causes: &mut Causes, config_map: &Value) {
    keys(causes, config_map, "data");
    keys(causes, config_map, "binaryData");
    let path = Path::new("data");
    for (key, _) in config_map.entries("data") {
        if config_map["binaryData"].get(key).is_some() {
            causes.invalid(&path.key(key), key.as_str(), "duplicate of key present in binaryData");
        }
    }
    if text_bytes(config_map, "data") + decoded_bytes(config_map, "binaryData") > MOST_BYTES {
        causes.too_long(&Path::new(""), MOST_BYTES);
    }
}

pub(super) fn config_map_update(causes: &mut Causes, new: &Value, old: &Value) {
    sealed(causes, new, old, &["data", "binaryData"]);
}

fn sealed(causes: &mut Causes, new: &Value, old: &Value, fields: &[&str]) {
    if !old.is("immutable") {
        return;
    }
    if !new.is("immutable") {
        causes.forbidden(&Path::new("immutable"), SEALED);
    }
    let contents = |object: &Value, field: &str| match &object[field] {
        Value::Null => empty(),
        contents => contents.clone(),
    };
    for field in fields {
        // An entry with empty text is an entry, so this is plain equality.
        if contents(new, field) != contents(old, field) {
            causes.forbidden(&Path::new(field), SEALED);
        }
    }
}

pub(super) fn secret(causes: &mut Causes, secret: &Value) {
    keys(causes, secret, "data");
    if decoded_bytes(secret, "data") > MOST_BYTES {
        causes.too_long(&Path::new("data"), MOST_BYTES);
    }
    let path = Path::new("data");
    let data = &secret["data"];
    match secret.text("type") {
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !data.has(key) {
                    causes.required(&path.key(key), "");
                }
            }
        }
        "kubernetes.io/basic-auth" if !data.has("username") && !data.has("password") => {
            for key in ["username", "password"] {
                causes.required(&path.key(key), "");
            }
        }
        "kubernetes.io/ssh-auth" if !data.has("ssh-privatekey") => {
            causes.required(&path.key("ssh-privatekey"), "");
        }
        "kubernetes.io/dockercfg" => docker(causes, &path.key(".dockercfg"), &data[".dockercfg"]),
        "kubernetes.io/dockerconfigjson" => {
            docker(causes, &path.key(".dockerconfigjson"), &data[".dockerconfigjson"]);
        }
        "kubernetes.io/service-account-token" => {
            let name = &secret["metadata"]["annotations"]["kubernetes.io/service-account.name"];
            if name.as_str().unwrap_or_default().is_empty() {
                let metadata = Path::new("metadata");
                let annotations = metadata.child("annotations");
                causes.required(&annotations.key("kubernetes.io/service-account.name"), "");
            }
        }
        _ => {}
    }
}

fn docker(causes: &mut Causes, path: &Path<'_>, data: &Value) {
    if data.is_null() {
        causes.required(path, "");
    } else if let Err(error) = serde_json::from_slice::<Value>(&decoded(data)) {
        causes.invalid(path, "<secret contents redacted>", &error.to_string());
    }
}

pub(super) fn secret_update(causes: &mut Causes, new: &Value, old: &Value) {
    causes.immutable(&Path::new("type"), &new["type"], &old["type"]);
    sealed(causes, new, old, &["data"]);
}
