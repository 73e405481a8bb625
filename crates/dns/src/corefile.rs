//! The Corefile: what is served where, in CoreDNS's own words.
//!
//! ```text
//!   text ──lexer──▶ tokens ──blocks──▶ server blocks of directives ──plugins──▶ Corefile
//! ```
//!
//! What is not understood, or not supported, is an error that says where it stands. `{$NAME}` and
//! `{%NAME%}` are replaced out of the environment, `import` takes snippets of the same file.
//!
//! Upstream rule: github.com/coredns/caddy caddyfile/lexer.go and parse.go; each plugin's setup.go.

mod blocks;
mod lexer;
mod plugins;
mod resolv;
mod settings;

pub use resolv::nameservers;
pub use settings::{
    Cache, CacheKind, Corefile, Denial, Forward, Health, HealthCheck, Kubernetes, Policy, Reload,
    ServerBlock, Zone,
};

use std::fmt;

use thiserror::Error;

/// Where something stands in a file. Both count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Why a Corefile cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{position}: {fault}")]
pub struct CorefileError {
    /// Where.
    pub position: Position,
    /// What is wrong there.
    pub fault: String,
}

impl CorefileError {
    fn new(position: Position, fault: impl Into<String>) -> Self {
        Self { position, fault: fault.into() }
    }
}

/// What a Corefile is read with: everything that comes from outside of it.
pub trait Surroundings {
    /// A variable of the environment.
    fn variable(&self, name: &str) -> Option<String>;
    /// The text of a file such as resolv.conf.
    ///
    /// # Errors
    /// When it cannot be read.
    fn file(&self, path: &str) -> std::io::Result<String>;
}

/// The longest Corefile that is read, in bytes.
pub const LONGEST: usize = 1 << 20;

/// Parses a Corefile. `port` is where blocks listen that name no port.
///
/// # Errors
/// The first fault, and where it is.
pub fn parse(
    text: &str,
    port: u16,
    surroundings: &dyn Surroundings,
) -> Result<Corefile, CorefileError> {
    if text.len() > LONGEST {
        return Err(CorefileError::new(Position { line: 1, column: 1 }, "the file is too long"));
    }
    let tokens = lexer::tokens(text, &|name| surroundings.variable(name))?;
    let blocks = blocks::blocks(tokens)?;
    plugins::corefile(blocks, port, surroundings)
}

#[cfg(test)]
mod tests;
