//! A lab's data directory: its files, its lock, and its control socket.
//!
//! Mode 0700. Whoever holds the lock owns everything else in it; the lock goes with the last
//! process that has it open, so a killed `up` leaves none behind. The socket is bound and reached
//! through the directory's descriptor, because a socket's path may not be longer than 107 bytes.

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

use crate::error::LabError;

/// A data directory, by path.
#[derive(Debug, Clone)]
pub struct DataDir {
    path: PathBuf,
}

/// The data directory, held: dropping it lets another `up` have it.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl DataDir {
    /// The given directory, or the one under the user's state directory.
    ///
    /// # Errors
    /// Neither a directory nor the environment says where.
    pub fn locate(given: Option<PathBuf>) -> Result<DataDir, LabError> {
        let path = match given {
            Some(path) => path,
            None => {
                let absolute =
                    |name| env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
                absolute("XDG_STATE_HOME")
                    .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
                    .ok_or(LabError::NoDataDir)?
                    .join("portolan")
            }
        };
        let path = std::path::absolute(&path).map_err(LabError::file("use", &path))?;
        Ok(DataDir { path })
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path.join("kubeconfig")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("portolan.log")
    }

    fn lock_file(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Makes the directory when it is missing and takes it for this process and its children.
    pub(crate) fn lock(&self) -> Result<Lock, LabError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .map_err(LabError::file("create", &self.path))?;
        fs::set_permissions(&self.path, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .map_err(LabError::file("restrict to its owner", &self.path))?;
        let path = self.lock_file();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(LabError::file("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock { file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(LabError::Locked { dir: self.path.clone(), pid: self.owner() })
            }
            Err(errno) => Err(LabError::File { action: "lock", path, source: errno.into() }),
        }
    }

    /// Whether some process holds the directory.
    pub(crate) fn is_locked(&self) -> bool {
        File::open(self.lock_file())
            .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
    }

    /// The process that wrote itself into the lock file.
    pub(crate) fn owner(&self) -> Option<u32> {
        fs::read_to_string(self.lock_file()).ok()?.trim().parse().ok()
    }

    /// Opens the log to append to.
    pub(crate) fn open_log(&self) -> Result<File, LabError> {
        let path = self.log();
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(LabError::file("open", path))
    }

    /// Binds the control socket, in place of one that a killed lab left behind.
    pub(crate) fn bind_control(&self) -> Result<OwnedFd, LabError> {
        let path = self.path.join("control.sock");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(LabError::File { action: "replace", path, source: error });
            }
            _ => {}
        }
        self.control(|socket, address| {
            bind(socket, address)?;
            listen(socket, 16)
        })
        .map_err(LabError::file("listen on", path))
    }

    /// Connects to the lab that runs on this directory.
    pub(crate) fn connect_control(&self) -> Result<OwnedFd, LabError> {
        let path = self.path.join("control.sock");
        self.control(|socket, address| connect(socket, address)).map_err(|source| {
            match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    LabError::NotRunning { dir: self.path.clone() }
                }
                _ => LabError::File { action: "connect to", path, source },
            }
        })
    }

    fn control(
        &self,
        use_it: impl FnOnce(&OwnedFd, &SocketAddrUnix) -> rustix::io::Result<()>,
    ) -> io::Result<OwnedFd> {
        let dir = File::open(&self.path)?;
        let address =
            SocketAddrUnix::new(format!("/proc/self/fd/{}/control.sock", dir.as_raw_fd()))?;
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        use_it(&socket, &address)?;
        Ok(socket)
    }
}

impl Lock {
    /// The descriptor that carries the lock: whoever has it open holds the directory.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Writes the holder's number, for those who are refused.
    pub(crate) fn sign(&mut self, pid: u32) -> io::Result<()> {
        self.file.rewind()?;
        self.file.set_len(0)?;
        writeln!(self.file, "{pid}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> (tempfile::TempDir, DataDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::locate(Some(temp.path().join("a/b"))).unwrap();
        (temp, dir)
    }

    #[test]
    fn a_second_lock_is_refused_with_the_holders_number() {
        let (_temp, dir) = dir();
        assert!(!dir.is_locked());
        let mut lock = dir.lock().unwrap();
        lock.sign(4711).unwrap();
        assert!(dir.is_locked());
        let error = dir.lock().expect_err("it is held");
        assert!(error.to_string().contains("4711"), "{error}");
        assert!(error.hint().unwrap().contains("portolan down"));
        drop(lock);
        assert!(!dir.is_locked());
        dir.lock().unwrap();
    }

    #[test]
    fn the_directory_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let (_temp, dir) = dir();
        let _lock = dir.lock().unwrap();
        assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_long_path_still_gets_a_control_socket() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::locate(Some(temp.path().join("x".repeat(200)))).unwrap();
        let _lock = dir.lock().unwrap();
        assert!(matches!(dir.connect_control(), Err(LabError::NotRunning { .. })));
        let _listener = dir.bind_control().unwrap();
        dir.connect_control().unwrap();
        drop(_listener);
        let _again = dir.bind_control().unwrap();
    }

    #[test]
    fn a_file_in_the_way_says_so() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        fs::write(&path, "").unwrap();
        let error = DataDir::locate(Some(path.join("d"))).unwrap().lock().expect_err("a file");
        assert!(error.to_string().contains("cannot create"), "{error}");
    }
}
