//! The prober: inside a node it connects, over and over, until an address answers HTTP.
//!
//! Attempts are short (a dropped SYN must not wait a second for its retransmission) and bounded by
//! one minute. Times are CLOCK_MONOTONIC, which the whole machine shares, in nanoseconds.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::time::{ClockId, clock_gettime};

const ATTEMPT: Duration = Duration::from_millis(3);
const ANSWER: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(60);
const TRYING: &str = "trying";

/// CLOCK_MONOTONIC now.
pub fn monotonic() -> Result<Duration> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?))
}

/// Prints `trying` after the first attempt, then for each target the time of its first answer.
pub fn until_answered(targets: &[String]) -> Result<()> {
    let begun = monotonic()?;
    for target in targets {
        let address: SocketAddr = target.parse().with_context(|| format!("address {target:?}"))?;
        let mut tried = false;
        loop {
            if answers(address) {
                println!("{}", monotonic()?.as_nanos());
                break;
            }
            if !tried {
                println!("{TRYING}");
                std::io::stdout().flush()?;
                tried = true;
            }
            ensure!(monotonic()? - begun < LIMIT, "{address} did not answer within {LIMIT:?}");
        }
    }
    Ok(())
}

fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, ATTEMPT)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(&status == b"HTTP/1.1 200")
    };
    match ask() {
        Ok(answered) => answered,
        // Refused and unreachable come back at once; do not spin on them.
        Err(error) if error.kind() != std::io::ErrorKind::TimedOut => {
            std::thread::sleep(Duration::from_micros(500));
            false
        }
        Err(_) => false,
    }
}

/// A prober that runs inside a lab's node.
pub struct Prober {
    child: Child,
    lines: std::cell::RefCell<BufReader<ChildStdout>>,
}

impl Prober {
    /// Takes over a started prober, whose standard output is a pipe.
    pub fn new(mut child: Child) -> Result<Prober> {
        let lines = BufReader::new(child.stdout.take().context("the prober's output")?).into();
        Ok(Prober { child, lines })
    }

    /// Waits for the prober's first failed attempt, so that what follows measures no start-up.
    pub fn wait_until_trying(&self) -> Result<()> {
        let line = self.line()?;
        ensure!(line == TRYING, "the address answered before its Service was made ({line})");
        Ok(())
    }

    /// The monotonic time of the first answer.
    pub fn first_answer(&self) -> Result<Duration> {
        let mut line = self.line()?;
        if line == TRYING {
            line = self.line()?;
        }
        Ok(Duration::from_nanos(line.parse().with_context(|| format!("prober said {line:?}"))?))
    }

    fn line(&self) -> Result<String> {
        let mut line = String::new();
        if self.lines.borrow_mut().read_line(&mut line)? == 0 {
            bail!("the prober ended without an answer; its message is above");
        }
        Ok(line.trim().to_owned())
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
