//! The guest's kernel and modules, out of the distribution's packages, unpacked and kept.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::uml::Kernel;

/// A kernel with its modules, what loads them, and what tests compare with, with its libraries.
const PACKAGES: [&str; 7] = [
    "user-mode-linux",
    "kmod",
    "libkmod2",
    "ipvsadm",
    "libnl-3-200",
    "libnl-genl-3-200",
    "libpopt0",
];

/// The unpacked kernel, fetched when it is not there yet.
pub fn unpacked(cache: &Path) -> Result<Kernel> {
    let place = cache.join("uml");
    // What was unpacked of another list of packages is not complete.
    let complete = PACKAGES.join(" ");
    if fs::read_to_string(place.join("complete")).ok().as_ref() != Some(&complete) {
        let new = tempfile::Builder::new().prefix("uml").tempdir_in(cache)?;
        fetch(new.path()).context("Debian's user-mode-linux cannot be had")?;
        arrange(new.path())?;
        fs::write(new.path().join("complete"), complete)?;
        let _ = fs::remove_dir_all(&place);
        fs::rename(new.keep(), &place)?;
    }
    Ok(Kernel {
        program: place.join("usr/bin/linux.uml"),
        modprobe: place.join("modprobe"),
        tools: place.join("tools"),
    })
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

/// Puts modules where `modprobe -d` looks for them, and programs there that find their libraries.
fn arrange(root: &Path) -> Result<()> {
    ensure!(root.join("usr/bin/linux.uml").exists(), "the package has no kernel");
    let place = root.parent().context("the cache")?.join("uml");
    fs::create_dir_all(root.join("root/lib"))?;
    symlink("../../usr/lib/uml/modules", root.join("root/lib/modules"))?;
    fs::create_dir_all(root.join("applets"))?;
    symlink("../bin/kmod", root.join("applets/modprobe"))?;
    let call = format!(
        "'{}' -d '{}'",
        place.join("applets/modprobe").display(),
        place.join("root").display(),
    );
    script(&place, &root.join("modprobe"), &call)?;
    let tools = root.join("tools");
    fs::create_dir_all(&tools)?;
    let call = format!("'{}'", program(root, &place, "ipvsadm")?.display());
    script(&place, &tools.join("ipvsadm"), &call)
}

/// Where an administrator's program will be: distributions have it in one of two folders.
fn program(root: &Path, place: &Path, name: &str) -> Result<PathBuf> {
    let found = ["sbin", "usr/sbin"].map(|folder| Path::new(folder).join(name));
    let found = found.into_iter().find(|path| root.join(path).exists());
    Ok(place.join(found.with_context(|| format!("the package has no {name}"))?))
}

/// Writes a program that calls another one with the unpacked libraries.
fn script(place: &Path, path: &Path, call: &str) -> Result<()> {
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
        .map(|folder| place.join(folder).display().to_string())
        .join(":");
    fs::write(path, format!("#!/bin/sh\nLD_LIBRARY_PATH='{libraries}' exec {call} \"$@\"\n"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
