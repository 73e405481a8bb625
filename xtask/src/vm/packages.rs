//! Guests' kernels and what they need, out of the distribution's packages, unpacked and kept.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The program, in a rig's folder, that loads its kernel's modules.
pub const MODPROBE: &str = "modprobe";
/// Where packages put libraries.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// The rig's folder in the cache. What is not there yet is made in another one first; `make` gets this
/// one's path and the one it will have.
pub fn kept(
    cache: &Path,
    rig: &str,
    make: impl FnOnce(&Path, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let place = cache.join(rig);
    if !place.join("complete").exists() {
        let new = tempfile::Builder::new().prefix(rig).tempdir_in(cache)?;
        make(new.path(), &place)?;
        fs::write(new.path().join("complete"), "")?;
        let _ = fs::remove_dir_all(&place);
        fs::rename(new.keep(), &place)?;
    }
    Ok(place)
}

/// Downloads the packages and unpacks them, without installing anything.
pub fn fetch(into: &Path, names: &dyn Fn() -> Result<Vec<String>>) -> Result<()> {
    let download = || -> Result<()> {
        let mut command = Command::new("apt-get");
        said(command.arg("download").args(names()?).current_dir(into)).map(|_| ())
    };
    if download().is_err() {
        // The lists may be older than the packages; an ordinary user cannot renew them.
        let _ = Command::new("apt-get").arg("update").output();
        download()?;
    }
    for entry in fs::read_dir(into)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            let status = Command::new("dpkg").arg("-x").arg(&path).arg(into).status();
            ensure!(status.context("dpkg")?.success(), "cannot unpack {}", path.display());
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// What a program says, unless it fails.
pub fn said(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.env("LC_ALL", "C").output().with_context(|| name.clone())?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {}", errors.trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// What a dynamic linker is told of a rig's libraries.
pub fn libraries(root: &Path) -> String {
    LIBRARIES.map(|folder| root.join(folder).display().to_string()).join(":")
}

/// Puts modules where `modprobe -d` looks for them, and a program there that calls it so.
pub fn arrange_modules(root: &Path, place: &Path, modules: &Path) -> Result<()> {
    fs::create_dir_all(root.join("root/lib"))?;
    symlink(Path::new("../..").join(modules), root.join("root/lib/modules"))?;
    fs::create_dir_all(root.join("applets"))?;
    for applet in ["modprobe", "depmod"] {
        symlink("../bin/kmod", root.join("applets").join(applet))?;
    }
    let script = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH='{}' exec '{}' -d '{}' \"$@\"\n",
        libraries(place),
        place.join("applets/modprobe").display(),
        place.join("root").display(),
    );
    let path = root.join(MODPROBE);
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
