//! Guests' kernels and what they need, out of the distribution's packages, unpacked and kept.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The program, in a rig's folder, that loads its kernel's modules.
pub const MODPROBE: &str = "modprobe";
/// The folder, in a rig's folder, of further programs for tests.
pub const TOOLS: &str = "tools";
/// What tests compare with, a package with a program of its name.
pub const IPVSADM: &str = "ipvsadm";
/// Where packages put libraries.
const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// The rig's folder in the cache. What is not there yet, or is of other packages, is made in another one
/// first; `make` gets this one's path and the one it will have.
pub fn kept(
    cache: &Path,
    rig: &str,
    packages: &[&str],
    make: impl FnOnce(&Path, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let place = cache.join(rig);
    let complete = packages.join(" ");
    if fs::read_to_string(place.join("complete")).ok().as_ref() != Some(&complete) {
        let new = tempfile::Builder::new().prefix(rig).tempdir_in(cache)?;
        make(new.path(), &place)?;
        fs::write(new.path().join("complete"), complete)?;
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
    let modprobe = place.join("applets/modprobe");
    let call = format!("'{}' -d '{}'", modprobe.display(), place.join("root").display());
    script(place, &root.join(MODPROBE), &call)
}

/// Puts an administrator's program of the packages where tests find it.
pub fn arrange_tool(root: &Path, place: &Path, name: &str) -> Result<()> {
    // Distributions have it in one of two folders.
    let folders = ["sbin", "usr/sbin"].map(|folder| Path::new(folder).join(name));
    let program = folders.into_iter().find(|path| root.join(path).exists());
    let program = program.with_context(|| format!("the package has no {name}"))?;
    fs::create_dir_all(root.join(TOOLS))?;
    let call = format!("'{}'", place.join(program).display());
    script(place, &root.join(TOOLS).join(name), &call)
}

/// Writes a program that calls another one with the unpacked libraries.
fn script(place: &Path, path: &Path, call: &str) -> Result<()> {
    let libraries = libraries(place);
    fs::write(path, format!("#!/bin/sh\nLD_LIBRARY_PATH='{libraries}' exec {call} \"$@\"\n"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
