//! Generic netlink: a family that a module registered by name, and commands to it.
//!
//! A family has another number after each load of its module, so it is looked up when the socket is
//! opened. Commands that only change something can go many in one send.
//!
//! Upstream rule: include/uapi/linux/genetlink.h, and `netlink_rcv_skb` of net/netlink/af_netlink.c.

use nix::errno::Errno;

use crate::socket::{Answer, Netlink, Protocol, Request, RequestError};
use crate::wire::{Malformed, SUBHEADER_LEN, Table as Attrs, Writer, flag};

/// `GENL_ID_CTRL`: the family that knows the others.
const CONTROLLER: u16 = 0x10;
const CONTROLLER_VERSION: u8 = 1;
const CMD_GET_FAMILY: u8 = 3;
const ATTR_FAMILY_ID: u16 = 1;
const ATTR_FAMILY_NAME: u16 = 2;

/// Why there is no way to a family.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// No netlink socket.
    Socket(Errno),
    /// The kernel knows no family of that name.
    Absent,
    /// It did not answer.
    Request(RequestError),
}

/// A socket to one family.
#[derive(Debug)]
pub(crate) struct Family {
    netlink: Netlink,
    id: u16,
    version: u8,
}

impl Family {
    /// Opens a socket in the network namespace of the calling thread and looks the family up.
    pub(crate) fn open(name: &str, version: u8) -> Result<Self, OpenError> {
        let netlink = Netlink::open(Protocol::Generic).map_err(OpenError::Socket)?;
        let mut controller = Self { netlink, id: CONTROLLER, version: CONTROLLER_VERSION };
        let mut id = None;
        let named = |w: &mut Writer| w.text(ATTR_FAMILY_NAME, name);
        let asked = controller.request(CMD_GET_FAMILY, flag::ACK, named, |_, attrs| {
            id = Some(Attrs::<3>::parse(attrs)?.ne16(ATTR_FAMILY_ID)?);
            Ok(())
        });
        match asked {
            Ok(()) => {}
            Err(RequestError::Refused(answer)) if answer.errno == libc::ENOENT => {
                return Err(OpenError::Absent);
            }
            Err(e) => return Err(OpenError::Request(e)),
        }
        let id = id.ok_or(OpenError::Request(Malformed("a family without a number").into()))?;
        Ok(Self { id, version, ..controller })
    }

    /// Sends a command and gives the command and attributes of every message of its answer to
    /// `each`. `flags` has one of ACK and DUMP, without which the end of the answer is not known.
    pub(crate) fn request(
        &mut self,
        command: u8,
        flags: u16,
        body: impl FnOnce(&mut Writer),
        mut each: impl FnMut(u8, &[u8]) -> Result<(), Malformed>,
    ) -> Result<(), RequestError> {
        let seq = self.netlink.sequence(1);
        let mut w = Writer::default();
        w.message(self.id, flag::REQUEST | flags, seq, subheader(command, self.version), body);
        let bytes = w.finish().ok_or(RequestError::Send(Errno::EMSGSIZE))?;
        self.netlink.request(seq, &bytes, |message| {
            let (command, attrs) = message.generic()?;
            each(command, attrs)
        })
    }

    /// Sends commands one behind the other, as [`Netlink::request_all`] has it.
    pub(crate) fn request_all<B: FnOnce(&mut Writer)>(
        &mut self,
        commands: impl Iterator<Item = (u8, B)>,
    ) -> Result<Vec<(usize, Answer)>, RequestError> {
        let (kind, version) = (self.id, self.version);
        let request = |command| Request { kind, flags: 0, subheader: subheader(command, version) };
        self.netlink.request_all(commands.map(|(command, body)| (request(command), body)))
    }
}

/// `struct genlmsghdr`.
const fn subheader(command: u8, version: u8) -> [u8; SUBHEADER_LEN] {
    [command, version, 0, 0]
}
