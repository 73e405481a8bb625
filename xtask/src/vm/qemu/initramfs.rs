//! What an emulated machine starts from: modules to reach the host's files, a shell, and its script.
//!
//! The archive is cpio's of the kind "newc": for each file a header of hexadecimal numbers, the name, the
//! content, each padded to four bytes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// What is needed until the host's files are there, and to write them in memory alone.
pub const MODULES: [&str; 4] = ["virtio_pci", "virtio_console", "virtiofs", "overlay"];

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// Writes the archive, with the modules in the order they are loaded in.
pub fn write(to: &Path, busybox: &Path, modules: &[&str], tag: &str) -> Result<()> {
    let mut archive = Archive::default();
    for folder in ["dev", "host", "memory", "modules", "root"] {
        archive.add(folder, FOLDER, &[]);
    }
    archive.add("busybox", PROGRAM, &fs::read(busybox)?);
    let mut paths = Vec::new();
    for (number, module) in modules.iter().enumerate() {
        let path = format!("modules/{number}.ko");
        archive.add(&path, PROGRAM, &fs::read(module).with_context(|| (*module).to_owned())?);
        paths.push(path);
    }
    archive.add("init", PROGRAM, script(&paths, tag).as_bytes());
    Ok(fs::write(to, archive.finish())?)
}

/// Goes on with its own arguments as the command, in the host's files under what the guest writes.
fn script(modules: &[String], tag: &str) -> String {
    let modules = modules.join(" ");
    format!(
        "#!/busybox sh\n\
         set -e\n\
         run() {{ /busybox \"$@\"; }}\n\
         run mount -t devtmpfs devices /dev\n\
         for module in {modules}; do run insmod /$module; done\n\
         run mount -t virtiofs -o ro {tag} /host\n\
         run mount -t tmpfs memory /memory\n\
         run mkdir /memory/files /memory/work\n\
         run mount -t overlay -o lowerdir=/host,upperdir=/memory/files,workdir=/memory/work root /root\n\
         run mount --move /dev /root/dev\n\
         exec /busybox switch_root /root \"$@\"\n"
    )
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: usize,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        self.bytes.extend(b"070701");
        // Number, mode, user, group, links, time, length, four numbers of devices, the name's length
        // with the zero after it, and a sum that this kind of archive has none of.
        let (number, name_length) = (self.entries, name.len() + 1);
        let mode = mode as usize;
        for field in [number, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name_length, 0] {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_names_and_contents_are_padded() {
        let mut archive = Archive::default();
        archive.add("init", PROGRAM, b"hello");
        assert_eq!(archive.bytes.len(), (110 + 5 + 1) + (5 + 3));
        assert!(archive.bytes.starts_with(b"07070100000001000081ED"));
        assert_eq!(&archive.bytes[54..62], b"00000005", "the content's length");
        assert_eq!(&archive.bytes[94..102], b"00000005", "the name's, with its zero");
        assert_eq!(&archive.bytes[110..], b"init\0\0hello\0\0\0");
        let all = archive.finish();
        assert!(all.ends_with(b"TRAILER!!!\0\0\0\0"));
    }

    #[test]
    fn modules_are_loaded_in_order() {
        let script = script(&["modules/0.ko".to_owned(), "modules/1.ko".to_owned()], "host");
        assert!(script.contains("for module in modules/0.ko modules/1.ko; do"));
        assert!(script.contains("-t virtiofs -o ro host /host\n"));
    }
}
