//! Writing a volume's files so that a reader sees the old set or the new one, never a mixture.
//!
//! Kubelet's layout, on which programs that watch ConfigMaps rely:
//!
//! ```text
//! volume/..2026_11_23_10_00_00.000000001/key     the files
//! volume/..data -> ..2026_11_23_10_00_00.000000001
//! volume/key    -> ..data/key                    what users see
//! ```
//!
//! An update writes a new directory and renames `..data` over the old link.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::payload::Payload;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Whether anything was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// The volume had these files already.
    Unchanged,
    /// The volume has new files.
    Changed,
}

/// Makes the volume's files be `payload`.
pub(crate) fn write(volume: &Path, payload: &Payload) -> io::Result<Written> {
    fs::create_dir_all(volume)?;
    let old = fs::read_link(volume.join(DATA)).ok();
    if let Some(old) = &old
        && same(&volume.join(old), payload)?
    {
        return Ok(Written::Unchanged);
    }
    let now = jiff::Timestamp::now();
    let stamp = now.strftime("..%Y_%m_%d_%H_%M_%S.%9N").to_string();
    let fresh = volume.join(&stamp);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (path, entry) in payload {
        let path = fresh.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(&entry.bytes)?;
        // After the fact, so that the umask has no say.
        file.set_permissions(fs::Permissions::from_mode(entry.mode))?;
    }
    let link = volume.join(NEW_DATA);
    remove(&link)?;
    symlink(&stamp, &link)?;
    fs::rename(&link, volume.join(DATA))?;
    let visible: BTreeSet<&str> =
        payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &visible {
        let place = volume.join(name);
        if fs::symlink_metadata(&place).is_err() {
            symlink(Path::new(DATA).join(name), place)?;
        }
    }
    for entry in fs::read_dir(volume)?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let stale = !name.starts_with("..") && !visible.contains(&*name);
        if stale && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    // Also what an interrupted write left behind.
    for entry in fs::read_dir(volume)?.flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("..2") && *name != *stamp {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(Written::Changed)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn same(directory: &Path, payload: &Payload) -> io::Result<bool> {
    let mut found = 0;
    let mut pending: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(current) = pending.pop() {
        let entries = match fs::read_dir(&current) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                pending.push(path);
                continue;
            }
            let relative = path.strip_prefix(directory).unwrap_or(&path);
            let Some(wanted) = payload.get(&*relative.to_string_lossy()) else { return Ok(false) };
            let mode = entry.metadata()?.permissions().mode() & 0o777;
            if mode != wanted.mode || fs::read(&path)? != wanted.bytes {
                return Ok(false);
            }
            found += 1;
        }
    }
    Ok(found == payload.len())
}

#[cfg(test)]
mod tests {
    use super::super::payload::Entry;
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let entry = |text: &str| Entry { bytes: text.into(), mode: 0o640 };
        files.iter().map(|(path, text)| ((*path).to_owned(), entry(text))).collect()
    }

    fn seen(volume: &Path) -> Vec<String> {
        let names = fs::read_dir(volume).unwrap().flatten();
        let mut names: Vec<_> = names.map(|e| e.file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with(".."));
        names.sort();
        names
    }

    #[test]
    fn an_update_replaces_all_files_at_once_and_leaves_nothing_behind() {
        let volume = tempfile::tempdir().unwrap();
        let volume = volume.path();
        assert_eq!(write(volume, &payload(&[("a", "1"), ("d/b", "2")])).unwrap(), Written::Changed);
        assert_eq!(seen(volume), ["a", "d"]);
        assert_eq!(fs::read_to_string(volume.join("d/b")).unwrap(), "2");
        let mode = fs::metadata(volume.join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(
            write(volume, &payload(&[("a", "1"), ("d/b", "2")])).unwrap(),
            Written::Unchanged
        );
        // A reader that holds the directory open goes on seeing the old set.
        let held = fs::read_link(volume.join(DATA)).unwrap();
        assert_eq!(write(volume, &payload(&[("a", "3"), ("c", "4")])).unwrap(), Written::Changed);
        assert_eq!(seen(volume), ["a", "c"]);
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "3");
        assert!(!volume.join(held).exists());
        let hidden = fs::read_dir(volume).unwrap().count() - 2;
        assert_eq!(hidden, 2, "..data and one directory");
    }

    #[test]
    fn an_interrupted_write_is_cleared_away() {
        let volume = tempfile::tempdir().unwrap();
        let volume = volume.path();
        write(volume, &payload(&[("a", "1")])).unwrap();
        fs::create_dir(volume.join("..2001_01_01_00_00_00.000000000")).unwrap();
        symlink("nowhere", volume.join(NEW_DATA)).unwrap();
        write(volume, &payload(&[("a", "2")])).unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "2");
        assert!(!volume.join("..2001_01_01_00_00_00.000000000").exists());
    }

    #[test]
    fn an_empty_payload_is_an_empty_volume() {
        let volume = tempfile::tempdir().unwrap();
        write(volume.path(), &payload(&[("a", "1")])).unwrap();
        write(volume.path(), &Payload::new()).unwrap();
        assert_eq!(seen(volume.path()), [] as [&str; 0]);
    }
}
