//! The way to the kernel's IPVS.

use std::fmt;

use nix::errno::Errno;
use thiserror::Error;

use super::attr::{self, cmd};
use super::decode;
use super::encode::{self, Key, Op};
use super::object::{Info, ListedDestination, Service, Timeouts, VirtualServer};
use super::scheduler::Scheduler;
use crate::generic::{Family, OpenError};
use crate::socket::{Answer, RequestError};
use crate::wire::{Malformed, Writer, flag};

/// Firewall marks for virtual servers that are removed as soon as they are made
/// ([`Socket::scheduler_known`]): 256 from here. Nobody else is expected to use them.
const SCRATCH_MARKS: u32 = 0x706f_7200;

/// Why IPVS did not do what was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IpvsError {
    /// No netlink socket.
    #[error("cannot open a generic netlink socket: {0}")]
    Open(#[source] Errno),
    /// The kernel has no IPVS, or has not loaded it.
    #[error("this kernel has no IPVS; hint: load the module ip_vs")]
    NoIpvs,
    /// A name that no scheduler has.
    #[error("{0:?} cannot be a scheduler's name; hint: 1 to 15 of a-z, 0-9, _ and -")]
    BadScheduler(String),
    /// A request that could not be handed over.
    #[error("cannot {what}: sending: {}", errno.desc())]
    Send {
        /// What was asked.
        what: &'static str,
        /// The fault.
        errno: Errno,
    },
    /// An answer that could not be read; ENOBUFS when it was too long for the receive buffer. What
    /// became of the request is not known.
    #[error("cannot {what}: reading the answer: {}", errno.desc())]
    Receive {
        /// What was asked.
        what: &'static str,
        /// The fault.
        errno: Errno,
    },
    /// A request that was refused as a whole.
    #[error("cannot {what}: {}", errno.desc())]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The kernel's error.
        errno: Errno,
    },
    /// Not allowed (EPERM).
    #[error("cannot {what}; hint: IPVS needs CAP_NET_ADMIN in the initial user namespace")]
    NotPermitted {
        /// What was asked.
        what: &'static str,
    },
    /// An answer that makes no sense.
    #[error("IPVS answered oddly: {0}")]
    Malformed(#[from] Malformed),
    /// What was listed changed meanwhile; ask again.
    #[error("cannot {what}: it changed meanwhile")]
    Unsteady {
        /// What was asked.
        what: &'static str,
    },
}

impl IpvsError {
    fn new(what: &'static str, e: RequestError) -> Self {
        match e {
            RequestError::Send(errno) => Self::Send { what, errno },
            RequestError::Receive(errno) => Self::Receive { what, errno },
            RequestError::Refused(answer) => Self::refused(what, &answer),
            RequestError::Malformed(e) => Self::Malformed(e),
            RequestError::Interrupted => Self::Unsteady { what },
        }
    }

    fn refused(what: &'static str, answer: &Answer) -> Self {
        match Errno::from_raw(answer.errno) {
            Errno::EPERM | Errno::EACCES => Self::NotPermitted { what },
            errno => Self::Refused { what, errno },
        }
    }
}

/// An operation that the kernel refused; those beside it are not touched by that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its place among the operations.
    pub op: usize,
    /// The kernel's error.
    pub errno: Errno,
    /// The kernel's own words, if it had any.
    pub text: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operation {}: {}", self.op, self.errno.desc())?;
        self.text.as_ref().map_or(Ok(()), |text| write!(f, " ({text})"))
    }
}

/// A way to IPVS of the network namespace in which it was opened. After its module was unloaded and
/// loaded again another must be opened: this one's requests are refused by ENOENT.
///
/// Calls block for as long as the kernel works: run them on a thread that may.
#[derive(Debug)]
pub struct Socket {
    family: Family,
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread. Loads no module.
    ///
    /// # Errors
    /// [`IpvsError::NoIpvs`], [`IpvsError::Open`], and faults of the exchange.
    pub fn open() -> Result<Self, IpvsError> {
        let family = Family::open(attr::FAMILY, attr::VERSION).map_err(|e| match e {
            OpenError::Socket(errno) => IpvsError::Open(errno),
            OpenError::Absent => IpvsError::NoIpvs,
            OpenError::Request(e) => IpvsError::new("look for IPVS", e),
        })?;
        Ok(Self { family })
    }

    /// Carries the operations out one after the other, each whatever became of those before it;
    /// gives those that were refused, in order.
    ///
    /// # Errors
    /// Faults of the exchange: some of the operations may have been carried out, and what there
    /// is must be read again.
    pub fn apply(&mut self, ops: &[Op]) -> Result<Vec<Refusal>, IpvsError> {
        let commands = ops.iter().map(|op| (op.command(), |w: &mut Writer| op.body(w)));
        let refused = self.family.request_all(commands);
        let refused = refused.map_err(|e| IpvsError::new("change virtual servers", e))?;
        let refusal = |(op, answer): (usize, Answer)| {
            let errno = Errno::from_raw(answer.errno);
            Refusal { op, errno, text: answer.text }
        };
        Ok(refused.into_iter().map(refusal).collect())
    }

    /// All virtual servers of the three protocols, in no order. A list of several messages goes by
    /// position: when others add or remove virtual servers meanwhile, it may miss some or have
    /// some twice.
    ///
    /// # Errors
    /// [`IpvsError::NotPermitted`], and faults of the exchange.
    pub fn services(&mut self) -> Result<Vec<(VirtualServer, Service)>, IpvsError> {
        let mut found = Vec::new();
        let asked = self.family.request(
            cmd::GET_SERVICE,
            flag::DUMP,
            |_| {},
            |command, attrs| {
                if command == cmd::NEW_SERVICE {
                    found.extend(decode::service(attrs)?);
                }
                Ok(())
            },
        );
        asked.map_err(|e| IpvsError::new("list the virtual servers", e))?;
        Ok(found)
    }

    /// How a virtual server behaves; none when there is no such one.
    ///
    /// # Errors
    /// [`IpvsError::NotPermitted`], and faults of the exchange.
    pub fn service(&mut self, server: &VirtualServer) -> Result<Option<Service>, IpvsError> {
        self.one_service(Key::Server(server)).map(|found| found.flatten().map(|(_, found)| found))
    }

    /// Outer none: there is no such one; inner none: it is none of ours.
    fn one_service(
        &mut self,
        key: Key<'_>,
    ) -> Result<Option<Option<(VirtualServer, Service)>>, IpvsError> {
        let mut found = None;
        let asked = self.family.request(
            cmd::GET_SERVICE,
            flag::ACK,
            |w| encode::only_key(w, key),
            |_, attrs| {
                found = Some(decode::service(attrs)?);
                Ok(())
            },
        );
        match asked {
            Ok(()) => Ok(Some(found.ok_or(Malformed("no virtual server in the answer"))?)),
            Err(RequestError::Refused(answer)) if answer.errno == libc::ESRCH => Ok(None),
            Err(e) => Err(IpvsError::new("look a virtual server up", e)),
        }
    }

    /// The real servers of a virtual one, latest first; empty as well when there is no such
    /// virtual server. What [`Socket::services`] says of changes meanwhile goes for this list, too.
    ///
    /// # Errors
    /// [`IpvsError::NotPermitted`], and faults of the exchange.
    pub fn destinations(
        &mut self,
        of: &VirtualServer,
    ) -> Result<Vec<ListedDestination>, IpvsError> {
        let mut found = Vec::new();
        let asked = self.family.request(
            cmd::GET_DEST,
            flag::DUMP,
            |w| encode::only_key(w, Key::Server(of)),
            |command, attrs| {
                if command == cmd::NEW_DEST {
                    found.push(decode::destination(attrs, of)?);
                }
                Ok(())
            },
        );
        asked.map_err(|e| IpvsError::new("list real servers", e))?;
        Ok(found)
    }

    /// Removes all virtual servers, those by firewall marks as well.
    ///
    /// # Errors
    /// [`IpvsError::NotPermitted`], and faults of the exchange.
    pub fn flush(&mut self) -> Result<(), IpvsError> {
        let asked = self.family.request(cmd::FLUSH, flag::ACK, |_| {}, |_, _| Ok(()));
        asked.map_err(|e| IpvsError::new("remove all virtual servers", e))
    }

    /// The timeouts of connections.
    ///
    /// # Errors
    /// [`IpvsError::NotPermitted`], and faults of the exchange.
    pub fn timeouts(&mut self) -> Result<Timeouts, IpvsError> {
        self.ask("read the timeouts", cmd::GET_CONFIG, decode::timeouts)
    }

    /// Sets the timeouts of connections; those of 0 stay as they are.
    ///
    /// # Errors
    /// EINVAL from 2³¹ ticks of the kernel up, of which it has at most 1,000 a second;
    /// [`IpvsError::NotPermitted`], and faults of the exchange.
    pub fn set_timeouts(&mut self, wanted: Timeouts) -> Result<(), IpvsError> {
        let body = |w: &mut Writer| encode::timeouts(w, wanted);
        let asked = self.family.request(cmd::SET_CONFIG, flag::ACK, body, |_, _| Ok(()));
        asked.map_err(|e| IpvsError::new("set the timeouts", e))
    }

    /// What the kernel's IPVS says about itself.
    ///
    /// # Errors
    /// [`IpvsError::NotPermitted`], and faults of the exchange.
    pub fn info(&mut self) -> Result<Info, IpvsError> {
        self.ask("read the version of IPVS", cmd::GET_INFO, decode::info)
    }

    fn ask<T>(
        &mut self,
        what: &'static str,
        command: u8,
        read: impl Fn(&[u8]) -> Result<T, Malformed>,
    ) -> Result<T, IpvsError> {
        let mut found = None;
        let asked = self.family.request(
            command,
            flag::ACK,
            |_| {},
            |_, attrs| {
                found = Some(read(attrs)?);
                Ok(())
            },
        );
        asked.map_err(|e| IpvsError::new(what, e))?;
        Ok(found.ok_or(Malformed("nothing in the answer"))?)
    }

    /// Whether the kernel has that scheduler; it loads the scheduler's module if need be.
    ///
    /// The kernel has no list of them. A virtual server is made with it and removed in the same system
    /// call, so that none is left behind, by a firewall mark of our own that is free.
    ///
    /// # Errors
    /// [`IpvsError::NotPermitted`], EEXIST when every mark is taken, and faults of the exchange.
    pub fn scheduler_known(&mut self, scheduler: &Scheduler) -> Result<bool, IpvsError> {
        const WHAT: &str = "try a scheduler";
        if scheduler.as_str() == Scheduler::NONE {
            return Ok(false);
        }
        let service = Service { scheduler: *scheduler, ..Service::default() };
        // Two processes that try at the same time most likely begin at different ones.
        let own = std::process::id() & 0xff;
        for mark in (0..=0xff).map(|number| SCRATCH_MARKS | (own ^ number)) {
            if self.one_service(Key::Mark(mark))?.is_some() {
                continue;
            }
            let commands = [cmd::NEW_SERVICE, cmd::DEL_SERVICE].map(|command| {
                let body = move |w: &mut Writer| match command {
                    cmd::NEW_SERVICE => encode::full_service(w, Key::Mark(mark), &service),
                    _ => encode::only_key(w, Key::Mark(mark)),
                };
                (command, body)
            });
            let refused = self.family.request_all(commands.into_iter());
            let refused = refused.map_err(|e| IpvsError::new(WHAT, e))?;
            match refused.first() {
                Some((0, answer)) if answer.errno == libc::ENOENT => return Ok(false),
                Some((0, answer)) if answer.errno == libc::EEXIST => {}
                Some((0, answer)) => return Err(IpvsError::refused(WHAT, answer)),
                _ => return Ok(true),
            }
        }
        Err(IpvsError::Refused { what: WHAT, errno: Errno::EEXIST })
    }
}
