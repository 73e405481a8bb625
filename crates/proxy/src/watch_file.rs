//! Word of a changed configuration file. A mounted ConfigMap changes by a renamed link beside it, so
//! the directory is watched and the content compared.

use std::path::Path;

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tokio::net::unix::pipe::Receiver;

/// Waits until the content of a file is another than `before`, and gives it. Waits for ever, with a
/// line in the log, where the directory cannot be watched.
pub(crate) async fn changed(path: &Path, before: &str) -> String {
    match wait(path, before).await {
        Ok(text) => text,
        Err(e) => {
            tracing::warn!(file = %path.display(), "cannot watch the configuration: {e}");
            std::future::pending().await
        }
    }
}

async fn wait(path: &Path, before: &str) -> std::io::Result<String> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let fd = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let what = WatchFlags::CLOSE_WRITE | WatchFlags::CREATE | WatchFlags::MOVED_TO;
    add_watch(&fd, directory, what)?;
    // To tokio it is a descriptor like a pipe's: it becomes readable, and is read.
    let queue = Receiver::from_owned_fd_unchecked(fd)?;
    loop {
        // It may have changed between the read and the watch.
        if let Ok(now) = std::fs::read_to_string(path)
            && now != before
        {
            return Ok(now);
        }
        queue.readable().await?;
        match queue.try_read(&mut [0; 4096]) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_renamed_link_counts_and_a_neighbour_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for version in ["v1", "v2"] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("config.conf"), version).unwrap();
        }
        symlink("v1", at("..data")).unwrap();
        symlink("..data/config.conf", at("config.conf")).unwrap();
        let path = at("config.conf");
        let waiting = wait(&path, "v1");
        tokio::pin!(waiting);
        std::fs::write(at("neighbour"), "x").unwrap();
        let quiet = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await;
        assert!(quiet.is_err());
        symlink("v2", at("..tmp")).unwrap();
        std::fs::rename(at("..tmp"), at("..data")).unwrap();
        let now = tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap();
        assert_eq!(now.unwrap(), "v2");
    }
}
