//! What `portolan up` shows while a lab starts, lives and stops.
//!
//! On a terminal each part that is starting has a line with a spinner, and leaves a finished line
//! above when it is ready; elsewhere each change is one plain line. Everything goes to standard
//! error but the kubeconfig's export line, which scripts may want, on standard output.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use portolan_lab::{Attachment, Event, Observer, Summary};

/// Shows a lab's events.
pub(crate) struct Watch {
    attachment: Attachment,
    terminal: Option<Terminal>,
}

/// The live lines.
struct Terminal {
    lines: MultiProgress,
    starting: HashMap<String, ProgressBar>,
}

impl Watch {
    /// Live lines where standard error is a terminal, plain ones elsewhere.
    pub(crate) fn new(attachment: Attachment) -> Watch {
        let terminal = io::stderr()
            .is_terminal()
            .then(|| Terminal { lines: MultiProgress::new(), starting: HashMap::new() });
        Watch { attachment, terminal }
    }

    fn line(&self, line: &str) {
        // A closed terminal is no reason to stop a lab.
        match &self.terminal {
            Some(terminal) => drop(terminal.lines.println(line)),
            None => drop(writeln!(io::stderr(), "{line}")),
        }
    }

    fn summary(&self, summary: &Summary) {
        self.line(&format!("\nThe lab is up after {}.\n", seconds(summary.millis)));
        self.line("Point kubectl at it:\n");
        let export =
            format!("  export KUBECONFIG={}", quoted(&summary.kubeconfig.to_string_lossy()));
        if io::stdout().is_terminal() {
            self.line(&export);
        } else {
            let _ = writeln!(io::stdout(), "{}", export.trim_start());
        }
        self.line("\nand look around: `kubectl get nodes`, `portolan status`, `portolan shell`.");
        self.line(match self.attachment {
            Attachment::Foreground => "Ctrl-C stops the lab; its objects stay for the next `up`.",
            Attachment::Detached => {
                "`portolan down` stops the lab; its objects stay for the next `up`."
            }
        });
    }
}

impl Observer for Watch {
    fn observe(&mut self, event: &Event) {
        match event {
            Event::Starting { part } => match &mut self.terminal {
                Some(terminal) => terminal.start(part),
                None => self.line(&format!("starting {part}")),
            },
            Event::Ready { part, millis, detail } => {
                if let Some(terminal) = &mut self.terminal {
                    terminal.end(part);
                }
                let detail = if detail.is_empty() { String::new() } else { format!("  {detail}") };
                let took = seconds(*millis);
                match &self.terminal {
                    Some(_) => self.line(&format!("  ✔ {part:<14}{took:>8}{detail}")),
                    None => self.line(&format!("ready {part} after {took}{detail}")),
                }
            }
            Event::Warning { message } => match &self.terminal {
                Some(_) => self.line(&format!("  ! {message}")),
                None => self.line(&format!("warning: {message}")),
            },
            Event::Up(summary) => {
                if let Some(terminal) = &mut self.terminal {
                    terminal.end_all();
                }
                self.summary(summary);
            }
            Event::Stopping { part } => match &mut self.terminal {
                Some(terminal) => {
                    terminal.end_all();
                    terminal.start(&format!("stopping {part}"));
                }
                None => self.line(&format!("stopping {part}")),
            },
            Event::Stopped { millis } => {
                if let Some(terminal) = &mut self.terminal {
                    terminal.end_all();
                }
                self.line(&format!("stopped after {}", seconds(*millis)));
            }
        }
    }
}

impl Terminal {
    fn start(&mut self, part: &str) {
        let bar = self.lines.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg:14} {elapsed:>7}") {
            bar.set_style(style);
        }
        bar.set_message(part.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        self.starting.insert(part.to_owned(), bar);
    }

    fn end(&mut self, part: &str) {
        if let Some(bar) = self.starting.remove(part) {
            bar.finish_and_clear();
        }
    }

    fn end_all(&mut self) {
        for (_, bar) in self.starting.drain() {
            bar.finish_and_clear();
        }
    }
}

fn seconds(millis: u64) -> String {
    if millis < 1000 {
        return format!("{millis} ms");
    }
    format!("{}.{:02} s", millis / 1000, millis % 1000 / 10)
}

/// As a POSIX shell reads it back.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!(seconds(0), "0 ms");
        assert_eq!(seconds(999), "999 ms");
        assert_eq!(seconds(1500), "1.50 s");
        assert_eq!(seconds(61_009), "61.00 s");
    }

    #[test]
    fn strange_paths_survive_the_shell() {
        assert_eq!(quoted("/a/b.c"), "/a/b.c");
        assert_eq!(quoted("/a b/it's"), r"'/a b/it'\''s'");
    }
}
