//! The measured server: a process that tells when it is ready and how much it has written.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use portolan_client::Source;

/// A running server.
pub struct Server {
    /// From the start of the process to its first answer to `/readyz`.
    pub ready: Duration,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    kubeconfig: PathBuf,
    client: kube::Client,
}

impl Server {
    /// Starts it on a directory, which may hold what an earlier one has left.
    pub async fn start(program: &Path, data: &Path, controllers: bool) -> Result<Server> {
        let begun = Instant::now();
        let mut command = Command::new(program);
        command.arg(data).args(controllers.then_some("controllers"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().context("the server's output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        ensure!(line.starts_with("ready"), "the server said {line:?}");
        let kubeconfig = data.join("kubeconfig");
        let client = portolan_client::connect(Source::Kubeconfig(kubeconfig.clone())).await?;
        let mut server = Server { ready: Duration::ZERO, child, input, output, kubeconfig, client };
        server.get("/readyz").await?;
        server.ready = begun.elapsed();
        Ok(server)
    }

    /// A client with connections of its own.
    pub async fn client(&self) -> Result<kube::Client> {
        Ok(portolan_client::connect(Source::Kubeconfig(self.kubeconfig.clone())).await?)
    }

    /// A body, and how long it took to the last byte.
    pub async fn get(&self, path: &str) -> Result<(String, Duration)> {
        let request = http::Request::get(path).body(Vec::new())?;
        let begun = Instant::now();
        let text = self.client.request_text(request).await.with_context(|| path.to_owned())?;
        Ok((text, begun.elapsed()))
    }

    /// Waits until a list (asked for with `limit=1`) is so long; none when it took too long.
    pub async fn until_there(
        &self,
        path: &str,
        count: usize,
        limit: Duration,
    ) -> Result<Option<Duration>> {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            let list: serde_json::Value = serde_json::from_str(&self.get(path).await?.0)?;
            let rest = list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0);
            if rest + 1 >= count as u64 {
                return Ok(Some(begun.elapsed()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(None)
    }

    /// Transactions and syncs so far.
    pub fn written(&mut self) -> Result<(u64, u64)> {
        let input = self.input.as_mut().context("the server was stopped")?;
        input.write_all(b"written\n")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let (transactions, syncs) = line.trim().split_once(' ').context("two numbers")?;
        Ok((transactions.parse()?, syncs.parse()?))
    }

    /// Resident memory, now and at its peak.
    pub fn resident(&self) -> Result<String> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let of = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.with_context(|| name.to_owned())?.trim().trim_end_matches(" kB");
            Ok(kib.parse::<u64>()?)
        };
        let mib = |kib: u64| kib as f64 / 1024.0;
        Ok(format!("{:.1} MiB (peak {:.1})", mib(of("VmRSS:")?), mib(of("VmHWM:")?)))
    }

    /// Ends it and waits for it.
    pub fn stop(mut self) -> Result<()> {
        self.input = None;
        let status = self.child.wait()?;
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
