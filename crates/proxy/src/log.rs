//! Log lines as klog writes them: `I1123 10:39:48.123456    4711 daemon.rs:42] "message" key="value"`.
//!
//! Upstream rule: k8s.io/klog/v2, structured text.

use std::fmt::{self, Write as _};
use std::io;
use std::sync::OnceLock;

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry};

/// What is logged now, if these are our lines.
static FILTER: OnceLock<Handle<EnvFilter, Registry>> = OnceLock::new();

/// Writes log lines to standard error from here on, unless somebody else already does. `verbosity`
/// is klog's: up to 1 says what matters, from 2 on details, from 4 on everything of ours.
pub(crate) fn init(verbosity: u8) {
    let (filter, handle) = reload::Layer::new(filter(verbosity));
    let lines = tracing_subscriber::fmt::layer()
        .event_format(Klog { pid: std::process::id() })
        .with_writer(io::stderr)
        .with_filter(filter);
    // Whoever runs the proxy in its own process, a test say, may have a subscriber of its own.
    if tracing_subscriber::registry().with(lines).try_init().is_ok() {
        let _ = FILTER.set(handle);
    }
}

/// Changes how much is logged.
pub(crate) fn set(verbosity: u8) {
    if let Some(handle) = FILTER.get() {
        // It fails only when the subscriber is gone, and its lines with it.
        let _ = handle.reload(filter(verbosity));
    }
}

fn filter(verbosity: u8) -> EnvFilter {
    EnvFilter::new(match verbosity {
        0 | 1 => "info",
        2 | 3 => "info,portolan=debug,portolan_proxy=debug",
        _ => {
            "info,portolan=trace,portolan_proxy=trace,portolan_client=trace,portolan_netlink=trace"
        }
    })
}

struct Klog {
    pid: u32,
}

impl<S, N> FormatEvent<S, N> for Klog
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let letter = match *metadata.level() {
            Level::ERROR => 'E',
            Level::WARN => 'W',
            _ => 'I',
        };
        let time = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
        let time = time.strftime("%m%d %H:%M:%S%.6f");
        let file = metadata.file().unwrap_or("unknown");
        let file = file.rsplit('/').next().unwrap_or(file);
        let row = metadata.line().unwrap_or(0);
        let mut fields = Fields::default();
        event.record(&mut fields);
        write!(line, "{letter}{time} {:7} {file}:{row}] ", self.pid)?;
        writeln!(line, "{:?}{}", fields.message, fields.others)
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: String,
}

impl Fields {
    fn note(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            // Writing to a String does not fail.
            let _ = write!(self.others, " {}={value:?}", field.name());
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.note(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.note(field, value);
    }
}
