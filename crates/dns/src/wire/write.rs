//! Writing responses: the question as it came, then records while they fit.

use std::net::IpAddr;

use super::message::{Header, Section, class, rtype};

/// A name to be written: labels, and then the rest of a name.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The labels at the left.
    pub labels: &'a [&'a [u8]],
    /// The rest in uncompressed wire form, up to the root.
    pub rest: &'a [u8],
}

/// Writes one message into a buffer. A record that does not fit into the limit is not written, and
/// nothing after it in its section.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    limit: usize,
    counts: [u16; 4],
}

impl<'a> Writer<'a> {
    /// Begins with a header and a question; `question` is what stands between the header and the
    /// records, or empty.
    pub fn new(out: &'a mut Vec<u8>, id: u16, flags: u16, question: &[u8], limit: usize) -> Self {
        out.clear();
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(question);
        Self { out, limit, counts: [u16::from(!question.is_empty()), 0, 0, 0] }
    }

    /// Keeps some bytes for what comes last.
    pub fn reserve(&mut self, bytes: usize) {
        self.limit = self.limit.saturating_sub(bytes);
    }

    /// The bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// How many records a section has.
    #[must_use]
    pub fn count(&self, section: Section) -> u16 {
        self.counts[section as usize + 1]
    }

    /// Writes a record: `owner` in wire form (compressed or not), and the data by `data`. False, and
    /// nothing written, when it does not fit.
    pub fn record(
        &mut self,
        section: Section,
        owner: Target<'_>,
        (rtype, ttl): (u16, u32),
        data: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        let before = self.out.len();
        self.name(owner);
        self.out.extend_from_slice(&rtype.to_be_bytes());
        self.out.extend_from_slice(&class::IN.to_be_bytes());
        self.out.extend_from_slice(&ttl.to_be_bytes());
        let length_at = self.out.len();
        self.out.extend_from_slice(&[0; 2]);
        data(self.out);
        let length = self.out.len() - length_at - 2;
        let count = &mut self.counts[section as usize + 1];
        match (u16::try_from(length), count.checked_add(1)) {
            (Ok(length), Some(more)) if self.out.len() <= self.limit => {
                self.out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
                *count = more;
                true
            }
            _ => {
                self.out.truncate(before);
                false
            }
        }
    }

    /// Writes an address record.
    pub fn address(&mut self, section: Section, owner: Target<'_>, ttl: u32, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => {
                let data = ip.octets();
                self.record(section, owner, (rtype::A, ttl), |out| out.extend_from_slice(&data))
            }
            IpAddr::V6(ip) => {
                let data = ip.octets();
                self.record(section, owner, (rtype::AAAA, ttl), |out| out.extend_from_slice(&data))
            }
        }
    }

    /// Writes a record that was read elsewhere: its owner and data are uncompressed.
    pub fn copied(&mut self, section: Section, record: &[u8]) -> bool {
        if self.out.len() + record.len() > self.limit {
            return false;
        }
        let Some(more) = self.counts[section as usize + 1].checked_add(1) else { return false };
        self.out.extend_from_slice(record);
        self.counts[section as usize + 1] = more;
        true
    }

    /// Writes OPT; it has its place by [`Self::reserve`].
    pub fn opt(&mut self, size: u16, extended_rcode: u8, dnssec_ok: bool) {
        self.out.push(0);
        self.out.extend_from_slice(&rtype::OPT.to_be_bytes());
        self.out.extend_from_slice(&size.to_be_bytes());
        self.out.extend_from_slice(&[extended_rcode, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
        self.counts[3] = self.counts[3].saturating_add(1);
    }

    /// The length of OPT, in bytes.
    pub const OPT: usize = 11;

    /// Sets the low four bits of the response's code.
    pub fn set_rcode(&mut self, code: u16) {
        self.out[3] = self.out[3] & 0xF0 | u8::try_from(code & 0xF).unwrap_or_default();
    }

    /// Writes the counts, and TC when something is missing.
    pub fn finish(self, truncated: bool) {
        for (place, count) in self.out[4..Header::LENGTH].chunks_exact_mut(2).zip(self.counts) {
            place.copy_from_slice(&count.to_be_bytes());
        }
        if truncated {
            self.out[2] |= (Header::TC >> 8) as u8;
        }
    }

    fn name(&mut self, name: Target<'_>) {
        name.write(self.out);
    }
}

impl Target<'_> {
    /// Writes it as it is.
    pub fn write(&self, out: &mut Vec<u8>) {
        for label in self.labels {
            // Labels come from names that were checked.
            out.push(u8::try_from(label.len()).unwrap_or(63));
            out.extend_from_slice(&label[..label.len().min(63)]);
        }
        out.extend_from_slice(self.rest);
    }
}
