//! What a volume of files holds: ConfigMaps, Secrets, the downward API, and projections of
//! them and of service account tokens, as paths with contents and modes. Pure.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, Volume, VolumeProjection,
};

use super::env::References;
use super::fields::{self, Facts};
use super::tokens::Purpose;

/// A file's contents and permission bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
}

/// Files by relative path.
pub(crate) type Payload = BTreeMap<String, Entry>;

/// kubelet's default for files from ConfigMaps, Secrets and the downward API.
const DEFAULT_MODE: i32 = 0o644;
/// All files of one volume together; an API object is smaller than this.
const MOST_BYTES: usize = 16 << 20;

/// The files of a volume, if it is one of files; else None. The error is FailedMount's text.
pub(crate) fn payload(
    pod: &Pod,
    facts: &Facts,
    references: &References,
    volume: &Volume,
) -> Option<Result<Payload, String>> {
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let mut files = Payload::new();
        let found = references.config_map(&source.name);
        let items = source.items.as_deref();
        let done = config_map(found, source.optional, items, mode, &mut files);
        return Some(done.and_then(|()| checked(files)));
    }
    if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let mut files = Payload::new();
        let name = source.secret_name.as_deref().unwrap_or_default();
        let found = references.secret(name);
        let items = source.items.as_deref();
        let done = secret(found, source.optional, items, mode, &mut files);
        return Some(done.and_then(|()| checked(files)));
    }
    if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let mut files = Payload::new();
        let items = source.items.as_deref().unwrap_or_default();
        let done = downward(pod, facts, items, mode, &mut files);
        return Some(done.and_then(|()| checked(files)));
    }
    let projected = volume.projected.as_ref()?;
    let mode = projected.default_mode.unwrap_or(DEFAULT_MODE);
    let mut files = Payload::new();
    for source in projected.sources.iter().flatten() {
        if let Err(message) = projection(pod, facts, references, source, mode, &mut files) {
            return Some(Err(message));
        }
    }
    Some(checked(files))
}

fn projection(
    pod: &Pod,
    facts: &Facts,
    references: &References,
    source: &VolumeProjection,
    mode: i32,
    files: &mut Payload,
) -> Result<(), String> {
    if let Some(source) = &source.config_map {
        let found = references.config_map(&source.name);
        config_map(found, source.optional, source.items.as_deref(), mode, files)?;
    }
    if let Some(source) = &source.secret {
        let found = references.secret(&source.name);
        secret(found, source.optional, source.items.as_deref(), mode, files)?;
    }
    if let Some(source) = &source.downward_api {
        downward(pod, facts, source.items.as_deref().unwrap_or_default(), mode, files)?;
    }
    if let Some(source) = &source.service_account_token {
        let purpose = Purpose::new(source.audience.as_deref(), source.expiration_seconds);
        add(files, &source.path, references.token(&purpose)?.into(), mode)?;
    }
    if source.cluster_trust_bundle.is_some() || source.pod_certificate.is_some() {
        return Err(
            "projected volumes hold configMap, secret, downwardAPI and serviceAccountToken only"
                .to_owned(),
        );
    }
    Ok(())
}

fn config_map(
    found: Result<&ConfigMap, String>,
    optional: Option<bool>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    files: &mut Payload,
) -> Result<(), String> {
    let optional = optional.unwrap_or(false);
    let map = match found {
        Ok(map) => map,
        Err(_) if optional => return Ok(()),
        Err(message) => return Err(message),
    };
    let text = map.data.iter().flatten().map(|(key, value)| (key, value.as_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key, value.0.as_slice()));
    let data: BTreeMap<_, _> =
        text.chain(binary).map(|(key, value)| (key.as_str(), value)).collect();
    place(&data, items, optional, mode, "configmap", files)
}

fn secret(
    found: Result<&Secret, String>,
    optional: Option<bool>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    files: &mut Payload,
) -> Result<(), String> {
    let optional = optional.unwrap_or(false);
    let secret = match found {
        Ok(secret) => secret,
        Err(_) if optional => return Ok(()),
        Err(message) => return Err(message),
    };
    let data = secret.data.iter().flatten();
    let data: BTreeMap<_, _> =
        data.map(|(key, value)| (key.as_str(), value.0.as_slice())).collect();
    place(&data, items, optional, mode, "secret", files)
}

fn place(
    data: &BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: i32,
    kind: &str,
    files: &mut Payload,
) -> Result<(), String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, value) in data {
            add(files, key, value.to_vec(), mode)?;
        }
        return Ok(());
    };
    for item in items {
        match data.get(item.key.as_str()) {
            Some(value) => add(files, &item.path, value.to_vec(), item.mode.unwrap_or(mode))?,
            None if optional => {}
            None => return Err(format!("{kind} references non-existent key: {}", item.key)),
        }
    }
    Ok(())
}

fn downward(
    pod: &Pod,
    facts: &Facts,
    items: &[DownwardAPIVolumeFile],
    mode: i32,
    files: &mut Payload,
) -> Result<(), String> {
    for item in items {
        let text = if let Some(reference) = &item.field_ref {
            fields::field(pod, facts, &reference.field_path)?
        } else if let Some(selector) = &item.resource_field_ref {
            fields::resource(pod, facts, None, selector)?
        } else {
            continue;
        };
        add(files, &item.path, text.into_bytes(), item.mode.unwrap_or(mode))?;
    }
    Ok(())
}

fn add(files: &mut Payload, path: &str, bytes: Vec<u8>, mode: i32) -> Result<(), String> {
    let parts = || Path::new(path).components();
    let plain = !path.is_empty()
        && path.len() <= 4096
        && !path.contains('\0')
        && parts().all(|part| matches!(part, Component::Normal(name) if name.len() <= 255))
        && !path.starts_with("..");
    if !plain {
        return Err(format!("invalid path {path:?}: it must be relative and stay in the volume"));
    }
    // As written, so that "a//b" and "a/b" are one file.
    let path: std::path::PathBuf = parts().collect();
    let mode = u32::try_from(mode).unwrap_or(0o644) & 0o777;
    files.insert(path.to_string_lossy().into_owned(), Entry { bytes, mode });
    Ok(())
}

/// A path cannot be a file and a directory.
fn checked(files: Payload) -> Result<Payload, String> {
    if files.values().map(|entry| entry.bytes.len()).sum::<usize>() > MOST_BYTES {
        return Err("the volume's files are too large".to_owned());
    }
    for path in files.keys() {
        for parent in Path::new(path).ancestors().skip(1) {
            if parent != Path::new("") && files.contains_key(&*parent.to_string_lossy()) {
                return Err(format!("path {path:?} lies below the file {parent:?}"));
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use k8s_openapi::api::core::v1::{
        ConfigMapProjection, ConfigMapVolumeSource, DownwardAPIVolumeSource, ObjectFieldSelector,
        ProjectedVolumeSource, SecretProjection, SecretVolumeSource, ServiceAccountTokenProjection,
    };

    use super::*;

    fn references() -> References {
        let text = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())];
        let binary = [("c".to_owned(), ByteString(vec![0, 255]))];
        let map = ConfigMap {
            data: Some(text.into()),
            binary_data: Some(binary.into()),
            ..ConfigMap::default()
        };
        let data = [("key".to_owned(), ByteString(b"hidden".to_vec()))];
        let secret = Secret { data: Some(data.into()), ..Secret::default() };
        References {
            config_maps: [("map".to_owned(), Some(map))].into(),
            secrets: [("secret".to_owned(), Some(secret))].into(),
            tokens: [
                (Purpose::new(None, None), Ok("for the API server".to_owned())),
                (Purpose::new(Some("vault"), Some(600)), Err("forbidden".to_owned())),
            ]
            .into(),
        }
    }

    fn made(volume: &Volume) -> Result<Payload, String> {
        let mut pod = Pod::default();
        pod.metadata.name = Some("web".into());
        payload(&pod, &Facts::default(), &references(), volume).unwrap()
    }

    fn item(key: &str, path: &str, mode: Option<i32>) -> KeyToPath {
        KeyToPath { key: key.into(), path: path.into(), mode }
    }

    fn from_map(items: Option<Vec<KeyToPath>>, optional: Option<bool>) -> Volume {
        let source = ConfigMapVolumeSource {
            name: "map".into(),
            items,
            optional,
            default_mode: Some(0o600),
        };
        Volume { config_map: Some(source), ..Volume::default() }
    }

    fn whole(volume: &Volume) -> Vec<(String, Vec<u8>, u32)> {
        let files = made(volume).unwrap().into_iter();
        files.map(|(path, entry)| (path, entry.bytes, entry.mode)).collect()
    }

    #[test]
    fn every_key_is_a_file_unless_items_choose() {
        let all = whole(&from_map(None, None));
        assert_eq!(all.iter().map(|file| file.0.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!((all[2].1.as_slice(), all[2].2), (&[0, 255][..], 0o600));
        let chosen = whole(&from_map(Some(vec![item("a", "x/y", Some(0o400))]), None));
        assert_eq!(chosen, [("x/y".to_owned(), b"1".to_vec(), 0o400)]);
    }

    #[test]
    fn a_missing_key_is_an_error_unless_optional() {
        let items = || Some(vec![item("zz", "x", None)]);
        let message = "configmap references non-existent key: zz";
        assert_eq!(made(&from_map(items(), None)).unwrap_err(), message);
        assert_eq!(whole(&from_map(items(), Some(true))), []);
    }

    #[test]
    fn a_missing_object_is_an_error_unless_optional() {
        let volume = |optional| Volume {
            secret: Some(SecretVolumeSource {
                secret_name: Some("none".into()),
                optional,
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        };
        assert_eq!(made(&volume(None)).unwrap_err(), "secret \"none\" not found");
        assert_eq!(whole(&volume(Some(true))), []);
    }

    #[test]
    fn no_path_leaves_the_volume() {
        for path in ["../x", "/etc/x", "a/../../x", "", ".", "..data", "a/./..", "x\0y"] {
            let volume = from_map(Some(vec![item("a", path, None)]), None);
            assert!(made(&volume).is_err(), "{path:?}");
        }
        let both = from_map(Some(vec![item("a", "x", None), item("b", "x/y", None)]), None);
        assert!(made(&both).is_err());
    }

    fn projected(sources: Vec<VolumeProjection>) -> Volume {
        let projected = ProjectedVolumeSource { sources: Some(sources), default_mode: None };
        Volume { projected: Some(projected), ..Volume::default() }
    }

    fn token(audience: Option<&str>, expiration_seconds: Option<i64>) -> VolumeProjection {
        let token = ServiceAccountTokenProjection {
            audience: audience.map(str::to_owned),
            expiration_seconds,
            path: "token".into(),
        };
        VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() }
    }

    #[test]
    fn a_projection_joins_its_sources() {
        let map = ConfigMapProjection {
            name: "map".into(),
            items: Some(vec![item("a", "a", None)]),
            optional: None,
        };
        let secret = SecretProjection { name: "secret".into(), items: None, optional: None };
        let volume = projected(vec![
            VolumeProjection { config_map: Some(map), ..VolumeProjection::default() },
            VolumeProjection { secret: Some(secret), ..VolumeProjection::default() },
            token(None, Some(3600)),
        ]);
        let files = whole(&volume);
        assert_eq!(files.iter().map(|file| &*file.0).collect::<Vec<_>>(), ["a", "key", "token"]);
        assert_eq!((&*files[2].1, files[2].2), (&b"for the API server"[..], 0o644));
    }

    #[test]
    fn without_its_token_there_is_no_projection() {
        let refused = made(&projected(vec![token(Some("vault"), Some(600))]));
        assert_eq!(refused.unwrap_err(), "failed to fetch token: forbidden");
        assert!(made(&projected(vec![token(Some("vault"), Some(601))])).is_err());
    }

    #[test]
    fn the_downward_api_writes_fields() {
        let file = DownwardAPIVolumeFile {
            path: "name".into(),
            field_ref: Some(ObjectFieldSelector {
                field_path: "metadata.name".into(),
                api_version: None,
            }),
            ..DownwardAPIVolumeFile::default()
        };
        let source = DownwardAPIVolumeSource { items: Some(vec![file]), default_mode: None };
        let volume = Volume { downward_api: Some(source), ..Volume::default() };
        assert_eq!(whole(&volume), [("name".to_owned(), b"web".to_vec(), 0o644)]);
    }
}
