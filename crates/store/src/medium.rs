//! Where a store's file is: the disk, or in tests something that fails and forgets on purpose.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use redb::StorageBackend;
use redb::backends::FileBackend;
use rustix::fs::{Advice, fadvise};

/// A place that a file can be opened at, again and again.
pub trait Medium: std::fmt::Debug + Send {
    /// The file while it is open.
    type Opened: StorageBackend;

    /// The file's name in messages.
    fn path(&self) -> &Path;

    /// Opens the file, or creates an empty one.
    ///
    /// # Errors
    /// What the system says.
    fn open(&self) -> io::Result<Self::Opened>;

    /// Before the file is opened again after a failure: makes sure that what is read from then on
    /// is durable.
    ///
    /// # Errors
    /// What the system says.
    fn distrust(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A file on disk.
#[derive(Debug)]
pub struct Disk(PathBuf);

impl Disk {
    /// By its path.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

impl Medium for Disk {
    type Opened = FileBackend;

    fn path(&self) -> &Path {
        &self.0
    }

    fn open(&self) -> io::Result<FileBackend> {
        let file = match OpenOptions::new().read(true).write(true).open(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(&self.0)?,
            opened => opened?,
        };
        FileBackend::new(file).map_err(io::Error::other)
    }

    /// A sync that fails leaves pages in the page cache that look clean and are not on disk; the
    /// next sync then succeeds. So everything still dirty is written, the file's cached pages are
    /// dropped, and the next reads come from the disk.
    fn distrust(&self) -> io::Result<()> {
        let file = File::options().read(true).write(true).open(&self.0)?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
        Ok(())
    }
}

/// A new file, whose name is durable too: a synced file is lost with a directory that was not.
fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()?;
    Ok(file)
}
