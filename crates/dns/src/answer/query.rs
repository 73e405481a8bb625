//! A query as it is read, and what is answered to those that are none.
//!
//! Upstream rule: github.com/miekg/dns `DefaultMsgAcceptFunc`, coredns core/dnsserver/server.go.

use crate::wire::{Header, MAX_NAME, Message, Name, Opt, Writer, class, opcode, rtype};

/// How long responses may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limits {
    /// Over UDP: what the client takes, and no more than this many bytes.
    Udp {
        /// The longest response.
        most: u16,
    },
    /// Over TCP: what the length in front can say.
    Tcp,
}

/// Why a message is not answered as a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is no query, or too short to be answered.
    Drop,
    /// It is malformed.
    FormErr,
    /// It asks for something that is not done here.
    NotImp,
    /// Its version of EDNS is none.
    BadVers,
    /// It is not served here.
    Refused,
    /// It cannot be answered now.
    ServFail,
}

/// One question, with what matters for its answer.
#[derive(Debug, Clone)]
pub struct Query<'a> {
    /// The whole message.
    pub bytes: &'a [u8],
    /// Its header.
    pub header: Header,
    /// Which type of record is asked for.
    pub qtype: u16,
    /// Of which class.
    pub qclass: u16,
    /// EDNS(0), when the client speaks it.
    pub opt: Option<Opt>,
    /// How long the response may be, in bytes.
    pub limit: usize,
    name_length: usize,
    lower: [u8; MAX_NAME],
}

impl<'a> Query<'a> {
    /// Reads a query.
    ///
    /// # Errors
    /// What is to be answered instead, by [`super::error`].
    pub fn read(bytes: &'a [u8], limits: Limits) -> Result<Self, Refusal> {
        let message = Message::new(bytes).map_err(|_| Refusal::Drop)?;
        let header = message.header;
        if header.flags & Header::QR != 0 {
            return Err(Refusal::Drop);
        }
        if header.opcode() != opcode::QUERY {
            return Err(Refusal::NotImp);
        }
        if !matches!(header.counts, [1, 0..=1, 0..=1, 0..=2]) {
            return Err(Refusal::FormErr);
        }
        let (name_length, lower) = name(bytes).ok_or(Refusal::FormErr)?;
        let at = Header::LENGTH + name_length;
        let fixed = bytes.get(at..at + 4).ok_or(Refusal::FormErr)?;
        let opt = match header.counts {
            [_, 0, 0, 0] => None,
            _ => message.opt().map_err(|_| Refusal::FormErr)?,
        };
        if opt.is_some_and(|opt| opt.version != 0) {
            return Err(Refusal::BadVers);
        }
        let limit = match limits {
            Limits::Udp { most } => opt.map_or(512, |opt| opt.size.min(most).max(512)).into(),
            Limits::Tcp => usize::from(u16::MAX),
        };
        let query = Self {
            bytes,
            header,
            qtype: u16::from_be_bytes([fixed[0], fixed[1]]),
            qclass: u16::from_be_bytes([fixed[2], fixed[3]]),
            opt,
            limit,
            name_length,
            lower,
        };
        match (query.qclass, query.qtype) {
            (class::IN, rtype::OPT) => Err(Refusal::FormErr),
            (class::IN, _) => Ok(query),
            _ => Err(Refusal::Refused),
        }
    }

    /// The name in lower case, in wire form.
    #[must_use]
    pub fn lower(&self) -> &[u8] {
        &self.lower[..self.name_length]
    }

    /// The name with its case, in wire form.
    #[must_use]
    pub fn wire_name(&self) -> &'a [u8] {
        &self.bytes[Header::LENGTH..Header::LENGTH + self.name_length]
    }

    /// The name with its case.
    #[must_use]
    pub fn name(&self) -> Name {
        // It was checked when the query was read.
        Name::read(self.bytes, Header::LENGTH).map_or_else(|_| Name::root(), |(name, _)| name)
    }

    /// The end of the name, from a label on, with its case.
    pub(super) fn zone(&self, zone_at: usize) -> &'a [u8] {
        &self.wire_name()[zone_at..]
    }

    /// The question as it stands in the message.
    #[must_use]
    pub fn question(&self) -> &'a [u8] {
        &self.bytes[Header::LENGTH..Header::LENGTH + self.name_length + 4]
    }

    /// What a response repeats of the query's flags.
    #[must_use]
    pub fn reply_flags(&self) -> u16 {
        Header::QR | self.header.flags & (Header::RD | Header::CD)
    }

    /// The response's limit without OPT.
    #[must_use]
    pub fn room(&self) -> usize {
        self.limit - if self.opt.is_some() { Writer::OPT } else { 0 }
    }
}

/// The length of the question's name, which is not compressed, and the name in lower case.
fn name(bytes: &[u8]) -> Option<(usize, [u8; MAX_NAME])> {
    let rest = bytes.get(Header::LENGTH..)?;
    let mut length = 0;
    loop {
        match *rest.get(length)? {
            0 => break,
            label @ 1..=63 => length += usize::from(label) + 1,
            _ => return None,
        }
        if length >= MAX_NAME {
            return None;
        }
    }
    length += 1;
    let mut lower = [0; MAX_NAME];
    let name = lower.get_mut(..length)?;
    name.copy_from_slice(&rest[..length]);
    name.make_ascii_lowercase();
    Some((length, lower))
}
