//! Reading messages: header, question, records one after the other, OPT.

use super::WireError;
use super::name::{MAX_NAME, Name, read_into};

/// Types of records (IANA "DNS Parameters").
pub mod rtype {
    #![expect(missing_docs, reason = "the names are the registry's")]
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const HINFO: u16 = 13;
    pub const MX: u16 = 15;
    pub const TXT: u16 = 16;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
    pub const OPT: u16 = 41;
    pub const DS: u16 = 43;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
}

/// Codes of responses.
pub mod rcode {
    #![expect(missing_docs, reason = "the names are the registry's")]
    pub const NOERROR: u16 = 0;
    pub const FORMERR: u16 = 1;
    pub const SERVFAIL: u16 = 2;
    pub const NXDOMAIN: u16 = 3;
    pub const NOTIMP: u16 = 4;
    pub const REFUSED: u16 = 5;
    pub const BADVERS: u16 = 16;
}

/// Kinds of queries.
pub mod opcode {
    /// A standard query.
    pub const QUERY: u8 = 0;
}

/// Classes.
pub mod class {
    /// The internet.
    pub const IN: u16 = 1;
}

/// The fixed part of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What tells the answers of one client apart.
    pub id: u16,
    /// QR to RCODE, as on the wire.
    pub flags: u16,
    /// How many questions, answers, authorities and additionals.
    pub counts: [u16; 4],
}

impl Header {
    /// Its length in bytes.
    pub const LENGTH: usize = 12;
    /// Query or response.
    pub const QR: u16 = 0x8000;
    /// The answer has authority.
    pub const AA: u16 = 0x0400;
    /// Truncated.
    pub const TC: u16 = 0x0200;
    /// Recursion is desired.
    pub const RD: u16 = 0x0100;
    /// Recursion is available.
    pub const RA: u16 = 0x0080;
    /// The data were verified.
    pub const AD: u16 = 0x0020;
    /// Verification is not wanted.
    pub const CD: u16 = 0x0010;

    /// Reads it.
    ///
    /// # Errors
    /// When the message is shorter.
    pub fn read(message: &[u8]) -> Result<Self, WireError> {
        let head = message.get(..Self::LENGTH).ok_or(WireError::Short)?;
        let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        Ok(Self { id: word(0), flags: word(2), counts: [word(4), word(6), word(8), word(10)] })
    }

    /// What is asked for: 0 is a query.
    #[must_use]
    pub fn opcode(self) -> u8 {
        (self.flags >> 11 & 0xF) as u8
    }

    /// The low four bits of the response's code.
    #[must_use]
    pub fn rcode(self) -> u16 {
        self.flags & 0xF
    }
}

/// What a message asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// About which name.
    pub name: Name,
    /// Which type of record.
    pub qtype: u16,
    /// Of which class.
    pub qclass: u16,
}

/// A section of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// The answer.
    Answer,
    /// Who has authority.
    Authority,
    /// What helps.
    Additional,
}

/// A record where it stands in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// In which section.
    pub section: Section,
    /// Where its owner's name begins.
    pub start: usize,
    /// Its type.
    pub rtype: u16,
    /// Its class; of OPT, the size of UDP messages.
    pub class: u16,
    /// Its time to live in seconds; of OPT, extended code, version and flags.
    pub ttl: u32,
    /// Where its time to live stands.
    pub ttl_at: usize,
    /// Where its data begin and end.
    pub data: (usize, usize),
}

/// EDNS(0) of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opt {
    /// How long a UDP message the sender takes, in bytes.
    pub size: u16,
    /// The version, 0 is the only one.
    pub version: u8,
    /// Whether DNSSEC records are wanted.
    pub dnssec_ok: bool,
}

/// A message whose header and question were read.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// All of it.
    pub bytes: &'a [u8],
    /// Its header.
    pub header: Header,
}

impl<'a> Message<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// When the message is shorter.
    pub fn new(bytes: &'a [u8]) -> Result<Self, WireError> {
        Ok(Self { bytes, header: Header::read(bytes)? })
    }

    /// The first question, and where it ends.
    ///
    /// # Errors
    /// When there is none, or it is malformed.
    pub fn question(&self) -> Result<(Question, usize), WireError> {
        if self.header.counts[0] == 0 {
            return Err(WireError::Record);
        }
        let (name, at) = Name::read(self.bytes, Header::LENGTH)?;
        let fixed = self.bytes.get(at..at + 4).ok_or(WireError::Short)?;
        let qtype = u16::from_be_bytes([fixed[0], fixed[1]]);
        let qclass = u16::from_be_bytes([fixed[2], fixed[3]]);
        Ok((Question { name, qtype, qclass }, at + 4))
    }

    /// Every record after the questions, until one is malformed.
    pub fn records(&self) -> impl Iterator<Item = Result<Record, WireError>> + 'a {
        Records { bytes: self.bytes, counts: self.header.counts, at: None }
    }

    /// EDNS(0), when there is any.
    ///
    /// # Errors
    /// When a record is malformed, or there are two of them.
    pub fn opt(&self) -> Result<Option<Opt>, WireError> {
        let mut found = None;
        for record in self.records() {
            let record = record?;
            if record.rtype != rtype::OPT {
                continue;
            }
            let is_root = self.bytes.get(record.start) == Some(&0);
            if found.is_some() || record.section != Section::Additional || !is_root {
                return Err(WireError::Record);
            }
            let [_, version, flags, _] = record.ttl.to_be_bytes();
            found = Some(Opt { size: record.class, version, dnssec_ok: flags & 0x80 != 0 });
        }
        Ok(found)
    }
}

struct Records<'a> {
    bytes: &'a [u8],
    counts: [u16; 4],
    at: Option<usize>,
}

impl Records<'_> {
    fn skip_questions(&mut self) -> Result<usize, WireError> {
        let mut at = Header::LENGTH;
        for _ in 0..self.counts[0] {
            at = skip_name(self.bytes, at)? + 4;
        }
        Ok(at)
    }

    fn read(&mut self) -> Result<Option<Record>, WireError> {
        let start = match self.at {
            Some(at) => at,
            None => self.skip_questions()?,
        };
        let section = match self.counts {
            [_, (1..), ..] => Section::Answer,
            [_, 0, (1..), _] => Section::Authority,
            [_, 0, 0, (1..)] => Section::Additional,
            [_, 0, 0, 0] => return Ok(None),
        };
        self.counts[section as usize + 1] -= 1;
        let fixed_at = skip_name(self.bytes, start)?;
        let fixed = self.bytes.get(fixed_at..fixed_at + 10).ok_or(WireError::Short)?;
        let word = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let data = fixed_at + 10;
        let end = data + usize::from(word(8));
        if end > self.bytes.len() {
            return Err(WireError::Short);
        }
        self.at = Some(end);
        Ok(Some(Record {
            section,
            start,
            rtype: word(0),
            class: word(2),
            ttl: u32::from(word(4)) << 16 | u32::from(word(6)),
            ttl_at: fixed_at + 4,
            data: (data, end),
        }))
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read().transpose();
        if matches!(read, Some(Err(_))) {
            self.counts = [0; 4];
            self.at = Some(self.bytes.len());
        }
        read
    }
}

/// Where a name ends.
fn skip_name(bytes: &[u8], mut at: usize) -> Result<usize, WireError> {
    for _ in 0..=MAX_NAME / 2 {
        match *bytes.get(at).ok_or(WireError::Short)? {
            0 => return Ok(at + 1),
            length @ 1..=63 => at += usize::from(length) + 1,
            0xC0.. => return Ok(at + 2),
            _ => break,
        }
    }
    Err(WireError::Name)
}

/// Checks a name of a message that is there in whole, without keeping it.
///
/// # Errors
/// When it is malformed.
pub(crate) fn check_name(bytes: &[u8], at: usize) -> Result<usize, WireError> {
    read_into(bytes, at, &mut [0; MAX_NAME]).map(|(_, end)| end)
}
