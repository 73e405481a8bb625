//! Watchers, each on a connection of its own, and how late they hear of what is created.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::io::{AsyncBufRead, AsyncBufReadExt};
use tokio::task::JoinSet;

use super::load::service;
use super::server::Server;
use super::{millis, row, share, since};

/// No watcher waits longer for its events.
const LIMIT: Duration = Duration::from_secs(120);

/// When each object was sent and answered, in nanoseconds since a common start; 0 is not yet.
pub struct Times {
    start: Instant,
    first: usize,
    sent: Vec<AtomicU64>,
    answered: Vec<AtomicU64>,
}

impl Times {
    /// Object `n` goes out now.
    pub fn sent(&self, n: usize) {
        self.sent[n].store(since(self.start), Ordering::Relaxed);
    }

    /// Its answer is here.
    pub fn answered(&self, n: usize) {
        self.answered[n].store(since(self.start), Ordering::Relaxed);
    }
}

/// What one watcher has seen.
struct Seen {
    /// For every object, when its event came.
    events: Vec<(usize, u64)>,
    /// Its end, which would else be closed while others still wait for their last event.
    _stream: Box<dyn Send>,
}

/// Watchers at work.
pub struct Watching {
    times: Arc<Times>,
    watchers: JoinSet<Result<Seen>>,
}

impl Watching {
    /// Starts watchers for Services `first..first + count`, and returns when all are connected.
    pub async fn start(
        server: &Server,
        watchers: usize,
        first: usize,
        count: usize,
    ) -> Result<Watching> {
        let empty = || (0..count).map(|_| AtomicU64::new(0)).collect();
        let times =
            Arc::new(Times { start: Instant::now(), first, sent: empty(), answered: empty() });
        let (page, _) = server.get("/api/v1/services?limit=1").await?;
        let page: serde_json::Value = serde_json::from_str(&page)?;
        let version = page["metadata"]["resourceVersion"].as_str().context("a list's version")?;
        let path = format!("/api/v1/services?watch=1&resourceVersion={version}");
        let mut tasks = JoinSet::new();
        for _ in 0..watchers {
            let client = server.client().await?;
            let request = http::Request::get(&path).body(Vec::new())?;
            let stream = Box::pin(client.request_stream(request).await?);
            tasks.spawn(listen(stream, times.clone(), count));
        }
        Ok(Watching { times, watchers: tasks })
    }

    /// For the writers to note.
    pub fn times(&self) -> Arc<Times> {
        self.times.clone()
    }

    /// Waits until all have heard of everything; tells how late.
    pub async fn finish(mut self) -> Result<String> {
        let mut all = Vec::with_capacity(self.watchers.len());
        while let Some(seen) = self.watchers.join_next().await {
            all.push(seen??);
        }
        let (mut from_sent, mut from_answer) = (Vec::new(), Vec::new());
        for seen in &all {
            for &(n, came) in &seen.events {
                let since = |at: &AtomicU64| {
                    Duration::from_nanos(came.saturating_sub(at.load(Ordering::Relaxed)))
                };
                from_sent.push(since(&self.times.sent[n]));
                from_answer.push(since(&self.times.answered[n]));
            }
        }
        from_sent.sort_unstable();
        from_answer.sort_unstable();
        let both = |times: &[Duration]| {
            format!("p50 {}, p99 {}", millis(share(times, 0.5)), millis(share(times, 0.99)))
        };
        Ok(format!("{} (after the answer: {})", both(&from_sent), both(&from_answer)))
    }
}

async fn listen(
    mut stream: impl AsyncBufRead + Send + Unpin + 'static,
    times: Arc<Times>,
    count: usize,
) -> Result<Seen> {
    let mut events = Vec::with_capacity(count);
    let mut line = Vec::new();
    let listening = async {
        while events.len() < count {
            line.clear();
            ensure!(stream.read_until(b'\n', &mut line).await? > 0, "a watch ended");
            let came = since(times.start);
            let number = number(&line).context("an event without the name of a Service")?;
            if let Some(n) = number.checked_sub(times.first).filter(|n| *n < count) {
                events.push((n, came));
            }
        }
        Ok(())
    };
    tokio::time::timeout(LIMIT, listening).await.context("events are missing")??;
    Ok(Seen { events, _stream: Box::new(stream) })
}

/// The number in the name of a Service, without parsing the rest.
fn number(line: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"\"name\":\"service-";
    let at = line.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let digits = line[at..].split(|byte| !byte.is_ascii_digit()).next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Many watchers of a few objects, which are created one after the other.
pub async fn many(server: &Server, watchers: usize, there: &mut usize) -> Result<()> {
    const CREATED: usize = 50;
    let first = *there;
    let watching = Watching::start(server, watchers, first, CREATED).await?;
    let (times, client) = (watching.times(), server.client().await?);
    for n in 0..CREATED {
        service(first + n).timed(&times, n).send(&client).await?;
    }
    *there += CREATED;
    let seen = watching.finish().await?;
    row(&format!("create to event, {watchers} watchers"), &seen);
    row("  resident", &server.resident()?);
    Ok(())
}
