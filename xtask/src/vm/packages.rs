//! The guest's kernel and modules, out of the distribution's packages, unpacked and kept.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::uml::Kernel;

/// A kernel with its modules, and what loads them.
const PACKAGES: [&str; 3] = ["user-mode-linux", "kmod", "libkmod2"];

/// The unpacked kernel, fetched when it is not there yet.
pub fn unpacked(cache: &Path) -> Result<Kernel> {
    let place = cache.join("uml");
    if !place.join("complete").exists() {
        let new = tempfile::Builder::new().prefix("uml").tempdir_in(cache)?;
        fetch(new.path()).context("Debian's user-mode-linux cannot be had")?;
        arrange(new.path())?;
        fs::write(new.path().join("complete"), "")?;
        let _ = fs::remove_dir_all(&place);
        fs::rename(new.keep(), &place)?;
    }
    Ok(Kernel { program: place.join("usr/bin/linux.uml"), modprobe: place.join("modprobe") })
}

/// Downloads the packages and unpacks them, without installing anything.
fn fetch(into: &Path) -> Result<()> {
    let download = || -> Result<()> {
        let mut command = Command::new("apt-get");
        let output = command.arg("download").args(PACKAGES).current_dir(into).output();
        let output = output.context("apt-get")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
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

/// Puts modules where `modprobe -d` looks for them, and a program there that calls it so.
fn arrange(root: &Path) -> Result<()> {
    ensure!(root.join("usr/bin/linux.uml").exists(), "the package has no kernel");
    let place = root.parent().context("the cache")?.join("uml");
    fs::create_dir_all(root.join("root/lib"))?;
    symlink("../../usr/lib/uml/modules", root.join("root/lib/modules"))?;
    fs::create_dir_all(root.join("applets"))?;
    symlink("../bin/kmod", root.join("applets/modprobe"))?;
    let libraries: PathBuf = place.join("usr/lib/x86_64-linux-gnu");
    let script = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH='{}' exec '{}' -d '{}' \"$@\"\n",
        libraries.display(),
        place.join("applets/modprobe").display(),
        place.join("root").display(),
    );
    let path = root.join("modprobe");
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
