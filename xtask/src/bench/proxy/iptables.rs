//! iptables' two kinds of programs, and what one bare change by them takes.

use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// A mode as it is named here: the proxy's, or `iptables-legacy` or `iptables-nft` for its programs.
pub struct Mode {
    /// The proxy's name for it.
    pub name: String,
    /// A directory that goes before PATH.
    programs: Option<TempDir>,
}

impl Mode {
    /// Finds the programs.
    pub fn of(name: &str) -> Result<Mode> {
        let Some(kind @ ("legacy" | "nft")) = name.strip_prefix("iptables-") else {
            return Ok(Mode { name: name.to_owned(), programs: None });
        };
        let dir = tempfile::Builder::new().prefix("portolan-bench").tempdir()?;
        for program in ["iptables", "ip6tables"] {
            for tool in ["save", "restore"] {
                let real = format!("/usr/sbin/{program}-{kind}-{tool}");
                ensure!(std::path::Path::new(&real).exists(), "there is no {real}");
                symlink(&real, dir.path().join(format!("{program}-{tool}")))?;
            }
        }
        Ok(Mode { name: "iptables".to_owned(), programs: Some(dir) })
    }

    /// PATH for those programs.
    pub fn path(&self) -> Result<String> {
        let path = std::env::var("PATH").context("PATH")?;
        Ok(match &self.programs {
            Some(dir) => format!("{}:{path}:/usr/sbin", dir.path().display()),
            None => format!("{path}:/usr/sbin"),
        })
    }

    /// How long `iptables-restore --noflush` takes for one endpoint of one Service, among the rules
    /// that are there; nothing in other modes.
    pub fn bare(&self, rounds: usize) -> Result<Option<Vec<Duration>>> {
        if self.name != "iptables" {
            return Ok(None);
        }
        let comment = "-m comment --comment \"default/bare\"";
        let change = format!(
            "*nat\n:KUBE-SVC-BARE - [0:0]\n:KUBE-SEP-BARE - [0:0]\n\
             -A KUBE-SVC-BARE {comment} -j KUBE-SEP-BARE\n\
             -A KUBE-SEP-BARE {comment} -p tcp -m tcp -j DNAT --to-destination 10.128.0.1:80\n\
             COMMIT\n"
        );
        let took = (0..rounds).map(|_| self.restore(&change)).collect::<Result<_>>()?;
        self.restore("*nat\n-F KUBE-SVC-BARE\n-F KUBE-SEP-BARE\n-X KUBE-SVC-BARE\n-X KUBE-SEP-BARE\nCOMMIT\n")?;
        Ok(Some(took))
    }

    fn restore(&self, text: &str) -> Result<Duration> {
        let begun = Instant::now();
        let mut child = Command::new("iptables-restore")
            .args(["--noflush", "-w", "5"])
            .env("PATH", self.path()?)
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot start iptables-restore")?;
        child.stdin.take().context("its input")?.write_all(text.as_bytes())?;
        let status = child.wait()?;
        ensure!(status.success(), "iptables-restore ended with {status}");
        Ok(begun.elapsed())
    }
}
