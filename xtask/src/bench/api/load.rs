//! Many connections that create objects as fast as they are answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::server::Server;
use super::watch::Times;
use super::{millis, share};

/// No load runs longer.
const LIMIT: Duration = Duration::from_secs(150);

/// A request that creates something.
pub struct Create {
    path: &'static str,
    body: Vec<u8>,
    times: Option<(Arc<Times>, usize)>,
}

impl Create {
    /// A request to create an object at a path.
    pub fn new(path: &'static str, object: &Value) -> Create {
        Create { path, body: object.to_string().into_bytes(), times: None }
    }

    /// Notes when it is sent and answered.
    pub fn timed(mut self, times: &Arc<Times>, n: usize) -> Create {
        self.times = Some((times.clone(), n));
        self
    }

    /// Sends it.
    pub async fn send(self, client: &kube::Client) -> Result<()> {
        let request = http::Request::post(self.path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(self.body)?;
        if let Some((times, n)) = &self.times {
            times.sent(*n);
        }
        client.request_text(request).await.context(self.path)?;
        if let Some((times, n)) = &self.times {
            times.answered(*n);
        }
        Ok(())
    }
}

/// A Service as people write them; names are not in the order of their making.
pub fn service(n: usize) -> Create {
    let object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("service-{n}"), "labels": {"app": format!("app-{n}")}},
        "spec": {"selector": {"app": format!("app-{n}")}, "ports": [
            {"name": "http", "port": 80, "targetPort": 8080},
            {"name": "metrics", "port": 9090, "targetPort": "metrics"}]},
    });
    Create::new("/api/v1/namespaces/default/services", &object)
}

/// The account of pods that name none.
pub fn account() -> Create {
    let object = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"},
    });
    Create::new("/api/v1/namespaces/default/serviceaccounts", &object)
}

/// A Pod of one container.
pub fn pod(n: usize) -> Create {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{n}"), "labels": {"app": format!("app-{n}")}},
        "spec": {"containers": [
            {"name": "main", "image": "nginx", "ports": [{"name": "http", "containerPort": 80}]}]},
    });
    Create::new("/api/v1/namespaces/default/pods", &object)
}

/// Open connections.
pub struct Load {
    clients: Vec<kube::Client>,
}

impl Load {
    /// Makes them, TLS included.
    pub async fn new(server: &Server, connections: usize) -> Result<Load> {
        let mut clients = Vec::new();
        for _ in 0..connections {
            let client = server.client().await?;
            client.request_text(http::Request::get("/readyz").body(Vec::new())?).await?;
            clients.push(client);
        }
        Ok(Load { clients })
    }

    /// Creates so many objects over all connections.
    pub async fn run(
        &self,
        server: &mut Server,
        count: usize,
        object: impl Fn(usize) -> Create + Sync,
    ) -> Result<Run> {
        let before = server.written()?;
        let (next, begun) = (AtomicUsize::new(0), Instant::now());
        let (next, object) = (&next, &object);
        let workers = self.clients.iter().map(|client| async move {
            let mut took = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count || begun.elapsed() > LIMIT {
                    return anyhow::Ok(took);
                }
                let sent = Instant::now();
                object(n).send(client).await?;
                took.push(sent.elapsed());
            }
        });
        let all = futures::future::try_join_all(workers).await?;
        let seconds = begun.elapsed().as_secs_f64();
        let mut took = all.concat();
        took.sort_unstable();
        let after = server.written()?;
        Ok(Run { asked: count, took, seconds, syncs: after.1 - before.1 })
    }
}

/// How a load went.
pub struct Run {
    asked: usize,
    took: Vec<Duration>,
    seconds: f64,
    syncs: u64,
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.0}/s, p50 {}, p99 {}, {:.0} syncs/s",
            self.took.len() as f64 / self.seconds,
            millis(share(&self.took, 0.5)),
            millis(share(&self.took, 0.99)),
            self.syncs as f64 / self.seconds,
        )?;
        if self.took.len() < self.asked {
            write!(f, " (time ran out after {} of {})", self.took.len(), self.asked)?;
        }
        Ok(())
    }
}
