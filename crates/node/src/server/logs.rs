//! `/containerLogs`: a container's log, from files in the CRI log format, as kubelet reads them.
//!
//! ```text
//!   files (rotated, current) ─▶ Tail: where to begin ─▶ Source: bytes, rotation, following
//!                                                          └─▶ Format: lines → text, limits
//! ```
//!
//! `tailLines` counts the file's lines before any other filter; `limitBytes` counts what is sent.

mod format;
mod source;

use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};

use super::query::{BadQuery, Query};
use super::route::{Refusal, text};
use super::{Body, Context};
use crate::PodKey;
use crate::runtime::Instance;
use format::Format;
use source::{Follow, Source};

/// What of a log is wanted (`v1.PodLogOptions`).
#[derive(Debug, PartialEq, Eq)]
struct Options {
    follow: Follow,
    instance: Instance,
    tail: Option<u64>,
    limit: Option<u64>,
    since: Option<Timestamp>,
    timestamps: Timestamps,
    stream: Wanted,
}

/// Whether each line begins with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timestamps {
    Shown,
    Hidden,
}

/// Which of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Stdout,
    Stderr,
}

impl Options {
    fn parse(query: &Query, now: Timestamp) -> Result<Options, BadQuery> {
        let since_seconds = query.number("sinceSeconds")?;
        let since_time = match query.first("sinceTime").filter(|text| !text.is_empty()) {
            Some(text) => {
                let time = text.parse::<Timestamp>();
                Some(time.map_err(|_| BadQuery(format!("invalid value for sinceTime: {text:?}")))?)
            }
            None => None,
        };
        let since = match (since_seconds, since_time) {
            (Some(_), Some(_)) => {
                let both = "at most one of `sinceTime` or `sinceSeconds` may be specified";
                return Err(BadQuery(both.to_owned()));
            }
            (Some(seconds), None) => {
                let seconds = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
                Some(now.checked_sub(seconds).unwrap_or(Timestamp::MIN))
            }
            (None, time) => time,
        };
        let limit = query.number("limitBytes")?;
        if limit == Some(0) {
            return Err(BadQuery(
                "invalid value for limitBytes: must be greater than 0".to_owned(),
            ));
        }
        let stream = match query.first("stream") {
            None | Some("" | "All") => Wanted::All,
            Some("Stdout") => Wanted::Stdout,
            Some("Stderr") => Wanted::Stderr,
            Some(other) => return Err(BadQuery(format!("invalid value for stream: {other:?}"))),
        };
        let tail = query.number("tailLines")?;
        if tail.is_some() && stream != Wanted::All {
            let both = "`tailLines` and specific `stream` are mutually exclusive for now";
            return Err(BadQuery(both.to_owned()));
        }
        let instance = if query.flag("previous") { Instance::Previous } else { Instance::Present };
        // An earlier instance has ended: there is nothing to wait for.
        let follow = if query.flag("follow") && instance == Instance::Present {
            Follow::Yes
        } else {
            Follow::No
        };
        let timestamps =
            if query.flag("timestamps") { Timestamps::Shown } else { Timestamps::Hidden };
        Ok(Options { follow, instance, tail, limit, since, timestamps, stream })
    }
}

pub(super) fn answer(
    context: &Context,
    pod: &PodKey,
    container: &str,
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    let options = Options::parse(query, Timestamp::now())?;
    // Subscribed before the files are looked at, so that no end is missed.
    let state = context.runtime.watch_container(pod, container)?;
    let files = context.runtime.log_files(pod, container, options.instance)?;
    let source = Source::open(files, options.tail, options.follow, state).map_err(|error| {
        let message = format!("failed to open the log of container {container}: {error}");
        Refusal { status: StatusCode::INTERNAL_SERVER_ERROR, message }
    })?;
    let log = Log { source, format: Format::new(&options), buffer: Vec::new() };
    let stop = context.stop.clone();
    let pieces = futures::stream::unfold((log, stop), |(mut log, stop)| async move {
        let piece = stop.run_until_cancelled(log.next()).await??;
        Some((Ok(Frame::data(piece.into())), (log, stop)))
    });
    Ok(text("").map(|_| StreamBody::new(pieces).boxed_unsync()))
}

struct Log {
    source: Source,
    format: Format,
    buffer: Vec<u8>,
}

impl Log {
    /// The next piece of text, never empty; `None` at the end.
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let mut out = Vec::new();
            if self.format.is_full() {
                return None;
            }
            self.buffer.clear();
            match self.source.read(&mut self.buffer).await {
                Ok(0) => return None,
                Ok(_) => self.format.push(&self.buffer, &mut out),
                Err(error) => {
                    tracing::warn!(%error, "read a container's log");
                    return None;
                }
            }
            if !out.is_empty() {
                return Some(out);
            }
        }
    }
}

#[cfg(test)]
mod tests;
