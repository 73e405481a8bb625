//! One upstream: how it does.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::metrics::Durations;

/// How many codes of responses are counted apart.
pub const RCODES: usize = 16;

/// An upstream.
#[derive(Debug)]
pub struct Upstream {
    /// Where it is.
    pub address: SocketAddr,
    /// How many checks failed.
    pub failed_checks: AtomicU64,
    /// How long responses took, by their code.
    pub answers: [Durations; RCODES],
    /// How many checks failed since the last that did not.
    fails: AtomicU32,
    is_checked: AtomicBool,
}

impl Upstream {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            failed_checks: AtomicU64::new(0),
            answers: Default::default(),
            fails: AtomicU32::new(0),
            is_checked: AtomicBool::new(false),
        }
    }

    /// Whether it failed too often; with 0, nothing is too often.
    #[must_use]
    pub fn is_down(&self, most: u32) -> bool {
        most != 0 && self.fails.load(Ordering::Relaxed) > most
    }

    pub(super) fn answered(&self, code: usize, took: Duration) {
        self.answers[code % RCODES].observe(took);
    }

    /// True for the one that is to check it.
    pub(super) fn begin_checks(&self) -> bool {
        !self.is_checked.swap(true, Ordering::AcqRel)
    }

    pub(super) fn end_checks(&self) {
        self.is_checked.store(false, Ordering::Release);
    }

    /// Notes a check; true when no more are needed.
    pub(super) fn checked(&self, is_well: bool) -> bool {
        if is_well {
            self.fails.store(0, Ordering::Relaxed);
        } else {
            self.fails.fetch_add(1, Ordering::Relaxed);
            self.failed_checks.fetch_add(1, Ordering::Relaxed);
        }
        is_well
    }
}
