//! Netlink's framing: messages, attributes, and their bounds.
//!
//! Writing keeps every header's length right by patching it when the scope closes. Reading trusts
//! nothing: a length that points outside its surroundings is [`Malformed`], never a panic.
//!
//! Upstream rule: include/uapi/linux/netlink.h; every message and attribute starts at a multiple
//! of four bytes, lengths do not count the padding behind.

use thiserror::Error;

/// `struct nlmsghdr`.
pub(crate) const HEADER_LEN: usize = 16;
/// What is behind the header: `struct nfgenmsg` of netfilter, `struct genlmsghdr` of generic netlink.
pub(crate) const SUBHEADER_LEN: usize = 4;
/// `struct nlattr`.
const ATTR_LEN: usize = 4;
/// The longest attribute: its length is 16 bits.
pub(crate) const ATTR_MAX: usize = u16::MAX as usize;

const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;

pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;
pub(crate) const NLMSG_OVERRUN: u16 = 4;

/// Flags of messages, `NLM_F_*`.
pub(crate) mod flag {
    pub(crate) const REQUEST: u16 = 1;
    pub(crate) const ACK: u16 = 4;
    pub(crate) const DUMP_INTR: u16 = 0x10;
    pub(crate) const DUMP: u16 = 0x300;
    pub(crate) const REPLACE: u16 = 0x100;
    pub(crate) const EXCL: u16 = 0x200;
    pub(crate) const CREATE: u16 = 0x400;
    pub(crate) const APPEND: u16 = 0x800;
    /// On an error: the request is not repeated behind it.
    pub(crate) const CAPPED: u16 = 0x100;
    /// On an error: attributes say more.
    pub(crate) const ACK_TLVS: u16 = 0x200;
}

/// Bytes from the kernel that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("malformed netlink data: {0}")]
pub struct Malformed(pub(crate) &'static str);

/// Builds messages one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    buf: Vec<u8>,
    too_long: bool,
}

impl Writer {
    pub(crate) fn len(&self) -> usize {
        self.buf.len()
    }

    /// Writes a message of that type, with what its protocol has behind the header.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        seq: u32,
        subheader: [u8; SUBHEADER_LEN],
        body: impl FnOnce(&mut Self),
    ) {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; 4]);
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(&flags.to_ne_bytes());
        self.buf.extend_from_slice(&seq.to_ne_bytes());
        self.buf.extend_from_slice(&[0; 4]);
        self.buf.extend_from_slice(&subheader);
        body(self);
        match u32::try_from(self.buf.len() - start) {
            Ok(len) => self.buf[start..start + 4].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => self.too_long = true,
        }
    }

    /// Adds bytes of a header that is longer than [`SUBHEADER_LEN`]; a multiple of four.
    pub(crate) fn header(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0; 2]);
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        match u16::try_from(self.buf.len() - start) {
            Ok(len) => self.buf[start..start + 2].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => self.too_long = true,
        }
        self.buf.resize(self.buf.len().next_multiple_of(4), 0);
    }

    pub(crate) fn bytes(&mut self, kind: u16, bytes: &[u8]) {
        let start = self.open(kind);
        self.buf.extend_from_slice(bytes);
        self.close(start);
    }

    pub(crate) fn text(&mut self, kind: u16, text: &str) {
        let start = self.open(kind);
        self.buf.extend_from_slice(text.as_bytes());
        self.buf.push(0);
        self.close(start);
    }

    pub(crate) fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    pub(crate) fn be16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(crate) fn ne16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    pub(crate) fn ne32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(crate) fn be64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.open(kind | NLA_F_NESTED);
        body(self);
        self.close(start);
    }

    /// The bytes, unless something was longer than its header can say.
    pub(crate) fn finish(self) -> Option<Vec<u8>> {
        (!self.too_long).then_some(self.buf)
    }
}

/// A received message, without its header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    /// Whose request it is about: the port of a socket.
    pub(crate) port: u32,
    pub(crate) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The netfilter family and the attributes behind it.
    pub(crate) fn netfilter(&self) -> Result<(u8, &'a [u8]), Malformed> {
        match self.body {
            [family, _, _, _, rest @ ..] => Ok((*family, rest)),
            _ => Err(Malformed("message too short for its family")),
        }
    }

    /// The command of a generic netlink message and the attributes behind it.
    pub(crate) fn generic(&self) -> Result<(u8, &'a [u8]), Malformed> {
        match self.body {
            [command, _, _, _, rest @ ..] => Ok((*command, rest)),
            _ => Err(Malformed("message too short for its command")),
        }
    }
}

/// Splits what one receive returned into messages.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Malformed>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        Some(split_message(&mut bytes).inspect_err(|_| bytes = &[]))
    })
}

fn split_message<'a>(bytes: &mut &'a [u8]) -> Result<Message<'a>, Malformed> {
    let header = bytes.get(..HEADER_LEN).ok_or(Malformed("message header cut off"))?;
    let len = ne32(&header[0..4])? as usize;
    if len < HEADER_LEN || len > bytes.len() {
        return Err(Malformed("message length out of bounds"));
    }
    let message = Message {
        kind: ne16(&header[4..6])?,
        flags: ne16(&header[6..8])?,
        seq: ne32(&header[8..12])?,
        port: ne32(&header[12..16])?,
        body: &bytes[HEADER_LEN..len],
    };
    *bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    Ok(message)
}

/// Splits attributes; the type comes without its flag bits.
pub(crate) fn attrs(mut bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Malformed>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        Some(split_attr(&mut bytes).inspect_err(|_| bytes = &[]))
    })
}

fn split_attr<'a>(bytes: &mut &'a [u8]) -> Result<(u16, &'a [u8]), Malformed> {
    let header = bytes.get(..ATTR_LEN).ok_or(Malformed("attribute header cut off"))?;
    let len = usize::from(ne16(&header[0..2])?);
    let kind = ne16(&header[2..4])? & NLA_TYPE_MASK;
    if len < ATTR_LEN || len > bytes.len() {
        return Err(Malformed("attribute length out of bounds"));
    }
    let payload = &bytes[ATTR_LEN..len];
    *bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    Ok((kind, payload))
}

/// The attributes of one scope by their number; the last one of a number counts.
pub(crate) struct Table<'a, const N: usize>([Option<&'a [u8]>; N]);

impl<'a, const N: usize> Table<'a, N> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut table = [None; N];
        for attr in attrs(bytes) {
            let (kind, payload) = attr?;
            if let Some(slot) = table.get_mut(usize::from(kind)) {
                *slot = Some(payload);
            }
        }
        Ok(Self(table))
    }

    pub(crate) fn optional(&self, kind: u16) -> Option<&'a [u8]> {
        self.0.get(usize::from(kind)).copied().flatten()
    }

    pub(crate) fn required(&self, kind: u16) -> Result<&'a [u8], Malformed> {
        self.optional(kind).ok_or(Malformed("attribute missing"))
    }

    pub(crate) fn be32(&self, kind: u16) -> Result<u32, Malformed> {
        be32(self.required(kind)?)
    }

    pub(crate) fn be32_or(&self, kind: u16, default: u32) -> Result<u32, Malformed> {
        self.optional(kind).map_or(Ok(default), be32)
    }

    pub(crate) fn be64(&self, kind: u16) -> Result<u64, Malformed> {
        be64(self.required(kind)?)
    }

    pub(crate) fn ne16(&self, kind: u16) -> Result<u16, Malformed> {
        ne16(self.required(kind)?)
    }

    pub(crate) fn ne32(&self, kind: u16) -> Result<u32, Malformed> {
        ne32(self.required(kind)?)
    }

    pub(crate) fn u8(&self, kind: u16) -> Result<u8, Malformed> {
        u8(self.required(kind)?)
    }

    pub(crate) fn text(&self, kind: u16) -> Result<&'a str, Malformed> {
        text(self.required(kind)?)
    }
}

pub(crate) fn u8(bytes: &[u8]) -> Result<u8, Malformed> {
    bytes.first().copied().ok_or(Malformed("number cut off"))
}

pub(crate) fn ne16(bytes: &[u8]) -> Result<u16, Malformed> {
    bytes.try_into().map(u16::from_ne_bytes).map_err(|_| Malformed("number of a wrong length"))
}

pub(crate) fn ne32(bytes: &[u8]) -> Result<u32, Malformed> {
    bytes.try_into().map(u32::from_ne_bytes).map_err(|_| Malformed("number of a wrong length"))
}

pub(crate) fn be16(bytes: &[u8]) -> Result<u16, Malformed> {
    bytes.try_into().map(u16::from_be_bytes).map_err(|_| Malformed("number of a wrong length"))
}

pub(crate) fn be32(bytes: &[u8]) -> Result<u32, Malformed> {
    bytes.try_into().map(u32::from_be_bytes).map_err(|_| Malformed("number of a wrong length"))
}

pub(crate) fn be64(bytes: &[u8]) -> Result<u64, Malformed> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| Malformed("number of a wrong length"))
}

/// Text up to its NUL.
pub(crate) fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).map_err(|_| Malformed("text is not UTF-8"))
}
