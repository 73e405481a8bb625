//! The name of a scheduler, checked once.

use std::fmt;
use std::str::FromStr;

use super::socket::IpvsError;

/// `IP_VS_SCHEDNAME_MAXLEN`: the most bytes of a name, its NUL among them.
const MAX_LEN: usize = 16;

/// How a virtual server picks a real server: the name of one of the kernel's schedulers.
///
/// The kernel loads a module by this name, so that a name parsed here has 1 to 15 bytes out of
/// `a-z`, `0-9`, `_` and `-`. Whether the kernel has it says [`super::Socket::scheduler_known`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scheduler([u8; MAX_LEN]);

impl Scheduler {
    /// What the kernel shows for a service without a scheduler; it is no name of one.
    pub(super) const NONE: &str = "none";

    /// A name as the kernel has it, within its bounds.
    pub(super) fn of_kernel(name: &str) -> Option<Self> {
        let mut bytes = [0; MAX_LEN];
        let fits = (1..MAX_LEN).contains(&name.len()) && !name.contains('\0');
        fits.then(|| {
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            Self(bytes)
        })
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(MAX_LEN);
        str::from_utf8(&self.0[..end]).unwrap_or_default()
    }
}

/// Round robin, as upstream has it when nothing is configured.
impl Default for Scheduler {
    fn default() -> Self {
        let mut bytes = [0; MAX_LEN];
        bytes[..2].copy_from_slice(b"rr");
        Self(bytes)
    }
}

impl FromStr for Scheduler {
    type Err = IpvsError;

    /// # Errors
    /// [`IpvsError::BadScheduler`].
    fn from_str(name: &str) -> Result<Self, IpvsError> {
        let is_fine = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        let checked = name.bytes().all(is_fine).then(|| Self::of_kernel(name)).flatten();
        checked.ok_or_else(|| IpvsError::BadScheduler(name.chars().take(2 * MAX_LEN).collect()))
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scheduler({})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_load_anything_else_are_refused() {
        for good in ["rr", "lblcr", "a-b_9", "fifteen-letters"] {
            assert_eq!(good.parse::<Scheduler>().unwrap().as_str(), good);
        }
        let long = "x".repeat(1 << 16);
        for bad in ["", "RR", "r r", "rr\0", "../rr", "r\u{e9}", "sixteen--letters", &long] {
            let refused = bad.parse::<Scheduler>().unwrap_err().to_string();
            assert!(refused.contains("hint:") && refused.len() < 400, "{refused}");
        }
        assert_eq!(Scheduler::default(), "rr".parse().unwrap());
    }
}
