//! A pod's volumes on the node: where they are, making them, and what a container mounts.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, HostPathVolumeSource, Pod, PodSpec, Volume};

use super::atomic::{self, Written};
use super::env::References;
use super::expand::expand;
use super::fields::Facts;
use super::payload::payload;
use super::quantity;
use crate::shim::protocol::{MountKind, MountSpec};

/// Where the volume is on the node.
pub(crate) fn place(directory: &Path, volume: &Volume) -> PathBuf {
    match &volume.host_path {
        Some(source) if !is_missing(source) => PathBuf::from(&source.path),
        _ => directory.join("volumes").join(&volume.name),
    }
}

/// Whether a hostPath of no type is not there. A container runtime makes it, as a directory; where the
/// host's files are read-only, an empty directory of the pod's own stands in for it.
fn is_missing(source: &HostPathVolumeSource) -> bool {
    let path = Path::new(&source.path);
    source.type_.as_deref().unwrap_or_default().is_empty()
        && path.is_absolute()
        && !path.components().any(|part| part == Component::ParentDir)
        && !path.exists()
}

/// The emptyDir volumes that live in memory, for the pod's first process to mount, made as
/// directories.
pub(crate) fn memory(directory: &Path, spec: &PodSpec) -> io::Result<Vec<(PathBuf, Option<u64>)>> {
    let mut all = Vec::new();
    for volume in spec.volumes.iter().flatten() {
        let Some(source) = &volume.empty_dir else { continue };
        if source.medium.as_deref() == Some("Memory") {
            let place = place(directory, volume);
            fs::create_dir_all(&place)?;
            let limit = source.size_limit.as_ref().and_then(|limit| quantity::units(&limit.0));
            all.push((place, limit));
        }
    }
    Ok(all)
}

/// Makes, or brings up to date, one volume. The error is FailedMount's text.
pub(crate) fn prepare(
    pod: &Pod,
    directory: &Path,
    private_dirs: &[PathBuf],
    facts: &Facts,
    references: &References,
    volume: &Volume,
) -> Result<Written, String> {
    let place = place(directory, volume);
    let told = |error: io::Error| format!("{}: {error}", place.display());
    if let Some(source) = &volume.host_path {
        if is_missing(source) {
            let own = is_private(Path::new(&source.path), private_dirs);
            fs::create_dir_all(if own { Path::new(&source.path) } else { &place }).map_err(told)?;
        }
        host_path(source, private_dirs)?;
        return Ok(Written::Unchanged);
    }
    if volume.empty_dir.is_some() {
        if !place.is_dir() {
            fs::create_dir_all(&place).map_err(told)?;
            fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).map_err(told)?;
        }
        return Ok(Written::Unchanged);
    }
    let files = payload(pod, facts, references, volume)
        .unwrap_or_else(|| Err("its type is not supported".to_owned()))?;
    atomic::write(&place, &files).map_err(told)
}

/// Whether a host path is the node's own, so that pods may write to it.
fn is_private(path: &Path, private_dirs: &[PathBuf]) -> bool {
    // As far as it exists: the last component may have to be created.
    let real = path.ancestors().find_map(|above| fs::canonicalize(above).ok());
    real.is_some_and(|real| private_dirs.iter().any(|private| real.starts_with(private)))
}

fn host_path(source: &HostPathVolumeSource, private_dirs: &[PathBuf]) -> Result<(), String> {
    let path = Path::new(&source.path);
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("hostPath {:?} is not an absolute path", source.path));
    }
    let kind = source.type_.as_deref().unwrap_or_default();
    let create = matches!(kind, "DirectoryOrCreate" | "FileOrCreate");
    if create && !path.exists() {
        if !is_private(path, private_dirs) {
            return Err(format!(
                "hostPath {path:?} does not exist, and the host's files are read-only"
            ));
        }
        let made = match kind {
            "DirectoryOrCreate" => fs::create_dir_all(path),
            _ => fs::OpenOptions::new().create(true).append(true).open(path).map(|_| ()),
        };
        made.map_err(|error| format!("hostPath {path:?}: {error}"))?;
    }
    use std::os::unix::fs::FileTypeExt as _;
    let found = fs::metadata(path).map(|metadata| metadata.file_type());
    let fits = |wanted: fn(&fs::FileType) -> bool| found.as_ref().is_ok_and(wanted);
    let good = match kind {
        "" => true,
        "Directory" | "DirectoryOrCreate" => fits(fs::FileType::is_dir),
        "File" | "FileOrCreate" => fits(fs::FileType::is_file),
        "Socket" => fits(|kind| kind.is_socket()),
        "CharDevice" => fits(|kind| kind.is_char_device()),
        "BlockDevice" => fits(|kind| kind.is_block_device()),
        other => return Err(format!("hostPath type {other:?} is unknown")),
    };
    match (good, kind) {
        (true, _) => Ok(()),
        (false, kind) => {
            Err(format!("hostPath type check failed: {} is not a {kind}", source.path))
        }
    }
}

/// A container's mounts by its volumeMounts. `env` is its environment, for subPathExpr.
pub(crate) fn mounts(
    spec: &PodSpec,
    container: &Container,
    directory: &Path,
    private_dirs: &[PathBuf],
    env: &[(String, String)],
) -> Result<Vec<MountSpec>, String> {
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let volume = volumes.iter().find(|volume| volume.name == mount.name);
        let volume = volume.ok_or_else(|| format!("volume {:?} not found", mount.name))?;
        let source = place(directory, volume);
        let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(path), _) if !path.is_empty() => Some(path.clone()),
            (_, Some(text)) if !text.is_empty() => Some(expand(text, |name| {
                env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
            })),
            _ => None,
        };
        if let Some(path) = &sub_path {
            let plain =
                |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
            if !Path::new(path).components().all(plain) {
                return Err(format!("subPath {path:?} must be relative and without '..'"));
            }
        }
        if !Path::new(&mount.mount_path)
            .components()
            .any(|part| matches!(part, Component::Normal(_)))
        {
            return Err(format!("mountPath {:?} is not a path below the root", mount.mount_path));
        }
        let host = volume.host_path.as_ref().is_some_and(|path| !is_missing(path));
        let files = volume.empty_dir.is_none() && volume.host_path.is_none();
        let foreign = host && !is_private(&source, private_dirs);
        mounts.push(MountSpec {
            source,
            sub_path: sub_path.map(PathBuf::from),
            target: Path::new("/").join(&mount.mount_path),
            read_only: mount.read_only.unwrap_or(false) || files || foreign,
            kind: if host { MountKind::Host } else { MountKind::Volume },
        });
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, VolumeMount};

    use super::*;

    fn host(path: &Path, kind: &str) -> HostPathVolumeSource {
        HostPathVolumeSource {
            path: path.to_str().unwrap().to_owned(),
            type_: Some(kind.to_owned()),
        }
    }

    #[test]
    fn host_paths_are_made_in_private_directories_only() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let private = [root.join("private")];
        fs::create_dir(&private[0]).unwrap();
        let inside = private[0].join("lock");
        assert_eq!(host_path(&host(&inside, "FileOrCreate"), &private), Ok(()));
        assert!(inside.is_file());
        let deep = private[0].join("a/b");
        assert_eq!(host_path(&host(&deep, "DirectoryOrCreate"), &private), Ok(()));
        let outside = root.join("other");
        assert!(host_path(&host(&outside, "DirectoryOrCreate"), &private).is_err());
        assert!(!outside.exists());
        // A link out of a private directory does not make its target private.
        std::os::unix::fs::symlink(&root, private[0].join("out")).unwrap();
        let through = private[0].join("out/made");
        assert!(host_path(&host(&through, "DirectoryOrCreate"), &private).is_err());
    }

    #[test]
    fn host_path_types_are_checked() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(host_path(&host(directory.path(), "Directory"), &[]), Ok(()));
        assert!(host_path(&host(directory.path(), "File"), &[]).is_err());
        assert!(host_path(&host(directory.path(), "Socket"), &[]).is_err());
        assert_eq!(host_path(&host(Path::new("/dev/null"), "CharDevice"), &[]), Ok(()));
        assert!(host_path(&host(Path::new("relative"), ""), &[]).is_err());
        assert!(host_path(&host(Path::new("/tmp/../etc"), ""), &[]).is_err());
    }

    #[test]
    fn an_empty_directory_stands_in_for_what_the_host_has_not() {
        let (host_files, pod) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let missing = host_files.path().join("lib/modules");
        let volume = |path: &Path| Volume {
            name: "lib-modules".into(),
            host_path: Some(host(path, "")),
            ..Volume::default()
        };
        let own = pod.path().join("volumes/lib-modules");
        assert_eq!(place(pod.path(), &volume(&missing)), own);
        assert_eq!(place(pod.path(), &volume(host_files.path())), host_files.path());
        let climbing = host_files.path().join("../nowhere");
        assert_eq!(place(pod.path(), &volume(&climbing)), climbing);
        assert!(host_path(&host(&climbing, ""), &[]).is_err());
    }

    #[test]
    fn sub_paths_are_expanded_and_may_not_climb() {
        let volume = Volume {
            name: "data".into(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        };
        let spec = PodSpec { volumes: Some(vec![volume]), ..PodSpec::default() };
        let made = |sub: &str, expr: &str, path: &str| {
            let mount = VolumeMount {
                name: "data".into(),
                mount_path: path.into(),
                sub_path: Some(sub.into()),
                sub_path_expr: Some(expr.into()),
                ..VolumeMount::default()
            };
            let container = Container { volume_mounts: Some(vec![mount]), ..Container::default() };
            let env = [("POD".to_owned(), "web".to_owned()), ("UP".to_owned(), "../x".to_owned())];
            mounts(&spec, &container, Path::new("/pods/uid"), &[], &env)
        };
        let mount = &made("", "logs/$(POD)", "/data").unwrap()[0];
        assert_eq!(mount.sub_path.as_deref(), Some(Path::new("logs/web")));
        assert_eq!(mount.source, Path::new("/pods/uid/volumes/data"));
        assert!(!mount.read_only);
        assert!(made("", "$(UP)", "/data").is_err());
        assert!(made("../x", "", "/data").is_err());
        assert!(made("/etc", "", "/data").is_err());
        assert!(made("", "", "/").is_err());
    }
}
