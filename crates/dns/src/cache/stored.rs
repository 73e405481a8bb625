//! A response that can be given again.

use crate::answer::{Query, Shuffle};
use crate::corefile::{self, Denial};
use crate::wire::{Header, Message, Record, Section, Writer, rcode, rtype};

/// Longer responses are not remembered, in bytes.
const LONGEST: usize = 16 * 1024;
/// How long what says nothing about itself is remembered, in seconds.
const DEFAULT_TTL: u32 = 5;

/// A response without OPT.
#[derive(Debug)]
pub struct Stored {
    bytes: Box<[u8]>,
    /// Where each record begins, and where its time to live stands.
    records: Box<[(u16, u16)]>,
    /// Where the data of the answer's addresses stand, when all of them are of one name and type.
    addresses: Box<[u16]>,
    /// How long each is, in bytes.
    address_length: u8,
    question_end: usize,
    counts: [u16; 4],
    /// Its code.
    pub rcode: u16,
    /// How long it is fresh, in seconds.
    pub ttl: u32,
    /// Whether it says that there is nothing.
    pub(super) kind: Denial,
    /// Whether it says that the upstream failed.
    pub(super) is_failure: bool,
}

/// A response that was read whole.
struct Parsed {
    bytes: Vec<u8>,
    records: Vec<(u16, u16)>,
    /// The addresses of the answer: type, time to live, where their data stand.
    addresses: Vec<(u16, u32, u16)>,
    question_end: usize,
    counts: [u16; 4],
    /// The smallest time to live of each section.
    least: [Option<u32>; 3],
    /// The smaller of an SOA record's time to live and its minimum (RFC 2308 section 5).
    negative: Option<u32>,
    header: Header,
}

impl Stored {
    /// A response to be remembered; none for what should not be: truncated, too long, malformed, or
    /// of a code that says something about the query.
    #[must_use]
    pub fn new(response: &[u8], settings: &corefile::Cache) -> Option<Self> {
        let parsed = Parsed::new(response)?;
        let header = parsed.header;
        if header.flags & Header::TC != 0 || parsed.bytes.len() > LONGEST {
            return None;
        }
        let rcode = header.rcode();
        let (kind, ttl) = match (rcode, parsed.counts[1]) {
            (rcode::NOERROR, 1..) => {
                let ttl = parsed.least.iter().flatten().min().copied().unwrap_or(DEFAULT_TTL);
                (Denial::Success, limited(ttl, &settings.success))
            }
            (rcode::NOERROR | rcode::NXDOMAIN, _) => {
                let ttl = parsed.negative.unwrap_or(DEFAULT_TTL);
                let ttl = parsed.least[0].map_or(ttl, |least| least.min(ttl));
                (Denial::Denial, limited(ttl, &settings.denial))
            }
            (rcode::SERVFAIL, _) => {
                (Denial::Denial, u32::try_from(settings.servfail.as_secs()).unwrap_or(DEFAULT_TTL))
            }
            _ => return None,
        };
        (ttl > 0).then(|| parsed.stored(kind, ttl))
    }

    /// A response that is given once: whatever it is, as long as it can be read.
    #[must_use]
    pub fn once(response: &[u8]) -> Option<Self> {
        Parsed::new(response).map(|parsed| parsed.stored(Denial::Success, u32::MAX))
    }

    /// Writes it as the response to a query. `age` in seconds is taken off times to live; none
    /// makes all of them 0, since the response has ended.
    pub fn write(
        &self,
        query: &Query<'_>,
        age: Option<u32>,
        shuffle: &mut Shuffle,
        out: &mut Vec<u8>,
    ) {
        let question = query.question();
        out.clear();
        out.extend_from_slice(&self.bytes);
        if question.len() + Header::LENGTH == self.question_end {
            // With the case of this question; names in answers point to it.
            out[Header::LENGTH..self.question_end].copy_from_slice(question);
        }
        let flags = query.reply_flags() | Header::RA | self.rcode;
        let kept = u16::from_be_bytes([self.bytes[2], self.bytes[3]]) & (Header::AD | Header::TC);
        out[..2].copy_from_slice(&query.header.id.to_be_bytes());
        out[2..4].copy_from_slice(&(flags | kept).to_be_bytes());
        for &(_, at) in self.records.iter() {
            let at = usize::from(at);
            if let Some(place) = out.get_mut(at..at + 4) {
                let ttl = u32::from_be_bytes([place[0], place[1], place[2], place[3]]);
                // The cache may hold on to it for longer than it says.
                let left = age.map_or(0, |age| ttl.min(self.ttl).saturating_sub(age));
                place.copy_from_slice(&left.to_be_bytes());
            }
        }
        self.reorder(shuffle, out);
        let (mut counts, is_cut) = self.cut(query.room(), out);
        if let Some(opt) = query.opt {
            out.push(0);
            out.extend_from_slice(&rtype::OPT.to_be_bytes());
            out.extend_from_slice(&opt.size.to_be_bytes());
            out.extend_from_slice(&[0, 0, if opt.dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
            counts[3] += 1;
        }
        for (place, count) in out[4..Header::LENGTH].chunks_exact_mut(2).zip(counts) {
            place.copy_from_slice(&count.to_be_bytes());
        }
        if is_cut {
            out[2] |= (Header::TC >> 8) as u8;
        }
    }

    /// Gives the addresses of the answer another order. They all have the same length, and nothing
    /// points into them, so their data change places.
    fn reorder(&self, shuffle: &mut Shuffle, out: &mut [u8]) {
        let mut last = self.addresses.len();
        while last > 1 {
            let other = shuffle.choose(last);
            last -= 1;
            let (a, b) = (usize::from(self.addresses[last]), usize::from(self.addresses[other]));
            let length = usize::from(self.address_length);
            if a == b || a.max(b) + length > out.len() {
                continue;
            }
            for i in 0..length {
                out.swap(a + i, b + i);
            }
        }
    }

    /// Takes whole records off the end until the rest fits; whether an answer is missing then.
    fn cut(&self, room: usize, out: &mut Vec<u8>) -> ([u16; 4], bool) {
        if out.len() <= room {
            return (self.counts, false);
        }
        let fit = self.records.partition_point(|(start, _)| usize::from(*start) <= room);
        let fit = fit.saturating_sub(1);
        out.truncate(self.records.get(fit).map_or(self.question_end, |(start, _)| (*start).into()));
        let mut left = u16::try_from(fit).unwrap_or_default();
        let mut counts = self.counts;
        for count in &mut counts[1..] {
            *count = (*count).min(left);
            left -= *count;
        }
        // Where the answer is whole, or there is none, what is missing would only have helped.
        (counts, counts[1] < self.counts[1] || (counts[1] == 0 && counts[2] < self.counts[2]))
    }

    /// The records of the answer, each with its names in full. Records of types whose data have
    /// names in them that this does not know are as they are, or left out where they are compressed.
    #[must_use]
    pub fn answers(&self, age: u32) -> Vec<Vec<u8>> {
        let Ok(message) = Message::new(&self.bytes) else { return Vec::new() };
        let mut answers = Vec::new();
        for record in message.records().flatten() {
            if record.section == Section::Answer {
                let ttl = record.ttl.min(self.ttl).saturating_sub(age);
                answers.extend(whole(&self.bytes, &record, ttl));
            }
        }
        answers
    }
}

fn limited(ttl: u32, kind: &corefile::CacheKind) -> u32 {
    ttl.clamp(kind.min_ttl, kind.max_ttl)
}

/// A record with its names in full.
fn whole(bytes: &[u8], record: &Record, ttl: u32) -> Option<Vec<u8>> {
    let (owner, _) = crate::wire::Name::read(bytes, record.start).ok()?;
    let data = match record.rtype {
        rtype::CNAME | rtype::PTR | rtype::NS => {
            crate::wire::Name::read(bytes, record.data.0).ok()?.0.wire().to_vec()
        }
        rtype::SOA | rtype::MX | rtype::SRV => return None,
        _ => bytes.get(record.data.0..record.data.1)?.to_vec(),
    };
    let mut whole = owner.wire().to_vec();
    whole.extend_from_slice(&record.rtype.to_be_bytes());
    whole.extend_from_slice(&record.class.to_be_bytes());
    whole.extend_from_slice(&ttl.to_be_bytes());
    whole.extend_from_slice(&u16::try_from(data.len()).ok()?.to_be_bytes());
    whole.extend_from_slice(&data);
    Some(whole)
}

impl Parsed {
    fn new(response: &[u8]) -> Option<Self> {
        let message = Message::new(response).ok()?;
        let header = message.header;
        let (_, question_end) = message.question().ok()?;
        if header.counts[0] != 1 || response.len() > usize::from(u16::MAX) {
            return None;
        }
        let mut parsed = Self {
            bytes: response.get(..question_end)?.to_vec(),
            records: Vec::new(),
            addresses: Vec::new(),
            question_end,
            counts: [1, 0, 0, 0],
            least: [None; 3],
            negative: None,
            header,
        };
        let mut opt_length = 0;
        for record in message.records() {
            let record = record.ok()?;
            crate::wire::check_name(response, record.start).ok()?;
            if record.rtype == rtype::OPT {
                // What stands behind it moves; names never point behind themselves, but one behind
                // OPT could point behind OPT. Such a message is nobody's.
                if opt_length != 0 {
                    return None;
                }
                opt_length = record.data.1 - record.start;
                continue;
            }
            if opt_length != 0 {
                return None;
            }
            parsed.take(response, &record)?;
        }
        Some(parsed)
    }

    fn take(&mut self, response: &[u8], record: &Record) -> Option<()> {
        let section = record.section as usize;
        self.bytes.extend_from_slice(response.get(record.start..record.data.1)?);
        let start = u16::try_from(record.start).ok()?;
        self.records.push((start, u16::try_from(record.ttl_at).ok()?));
        self.counts[section + 1] += 1;
        let length = record.data.1 - record.data.0;
        let is_address = matches!((record.rtype, length), (rtype::A, 4) | (rtype::AAAA, 16));
        if record.section == Section::Answer && is_address {
            let at = u16::try_from(record.data.0).ok()?;
            self.addresses.push((record.rtype, record.ttl, at));
        }
        let least = &mut self.least[section];
        *least = Some(least.map_or(record.ttl, |least| least.min(record.ttl)));
        if record.rtype == rtype::SOA && record.section == Section::Authority {
            let minimum = response.get(record.data.1.checked_sub(4)?..record.data.1)?;
            let minimum = u32::from_be_bytes(minimum.try_into().ok()?);
            self.negative = Some(minimum.min(record.ttl));
        }
        Some(())
    }

    fn stored(self, kind: Denial, ttl: u32) -> Stored {
        let first = self.addresses.first().map(|first| (first.0, first.1));
        let is_alike = self.addresses.iter().all(|one| Some((one.0, one.1)) == first);
        let addresses = self.addresses.iter().filter(|_| is_alike).map(|one| one.2).collect();
        Stored {
            addresses,
            address_length: if first.is_some_and(|first| first.0 == rtype::A) { 4 } else { 16 },
            rcode: self.header.rcode(),
            is_failure: self.header.rcode() == rcode::SERVFAIL,
            bytes: self.bytes.into(),
            records: self.records.into(),
            question_end: self.question_end,
            counts: self.counts,
            ttl,
            kind,
        }
    }
}

/// OPT's length is counted once, here and in [`Query::room`].
const _: () = assert!(Writer::OPT == 11);
