//! Responses on the wire.

use std::net::IpAddr;

use super::authority::Authority;
use super::nameserver::Server;
use super::query::{Query, Refusal};
use crate::wire::{Header, Name, Section, Target, Writer, rcode, rtype};
use crate::zone::Snapshot;

/// What an ANY query is answered with (RFC 8482).
const ANY_HINFO: &[u8] = b"\x07RFC8482\0";
/// How long that answer holds where no zone says, in seconds.
const ANY_TTL: u32 = 8482;
/// Refresh, retry and expire of SOA, in seconds, as upstream has them.
const SOA_TIMES: [u32; 3] = [7200, 1800, 86_400];
/// The longest time that an SOA record holds, in seconds.
const SOA_TTL: u32 = 300;

/// A response that is being written.
pub(super) struct Reply<'q, 'o> {
    pub(super) writer: Writer<'o>,
    query: &'q Query<'q>,
    zone_at: usize,
    ttl: u32,
    serial: u32,
}

impl<'q, 'o> Reply<'q, 'o> {
    /// The owner of most records: the question's name, by a pointer.
    pub(super) const OWNER: Target<'static> = Target { labels: &[], rest: &[0xC0, 0x0C] };
    /// How long a record with that owner is before its data.
    pub(super) const HEAD: usize = 12;

    pub(super) fn new(
        query: &'q Query<'q>,
        zone_at: usize,
        snapshot: &Snapshot,
        authority: &Authority,
        out: &'o mut Vec<u8>,
    ) -> Self {
        let flags = query.reply_flags() | Header::AA;
        let writer = Writer::new(out, query.header.id, flags, query.question(), query.room());
        Self { writer, query, zone_at, ttl: authority.ttl, serial: snapshot.serial() }
    }

    /// The zone with the question's case, in wire form.
    pub(super) fn zone(&self) -> &'q [u8] {
        self.query.zone(self.zone_at)
    }

    /// How long answers hold, in seconds.
    pub(super) fn ttl(&self) -> u32 {
        self.ttl
    }

    /// Ends the response with what EDNS(0) wants.
    pub(super) fn finish(self, is_cut: bool) -> u16 {
        finish(self.writer, self.query, is_cut);
        rcode::NOERROR
    }

    pub(super) fn addresses(mut self, ips: &[IpAddr]) -> u16 {
        let ttl = self.ttl;
        let is_cut =
            !ips.iter().all(|ip| self.writer.address(Section::Answer, Self::OWNER, ttl, *ip));
        self.finish(is_cut)
    }

    fn alias(&mut self, (owner, target): &(Name, Name)) -> bool {
        let owner = Target { labels: &[], rest: owner.wire() };
        self.writer.record(Section::Answer, owner, (rtype::CNAME, self.ttl), |out| {
            out.extend_from_slice(target.wire());
        })
    }

    pub(super) fn aliases(mut self, aliases: &[(Name, Name)], ips: &[IpAddr]) -> u16 {
        let ttl = self.ttl;
        let mut is_cut = !aliases.iter().all(|alias| self.alias(alias));
        if let Some((_, last)) = aliases.last().filter(|_| !is_cut) {
            let owner = Target { labels: &[], rest: last.wire() };
            is_cut = !ips.iter().all(|ip| self.writer.address(Section::Answer, owner, ttl, *ip));
        }
        self.finish(is_cut)
    }

    pub(super) fn followed(mut self, aliases: &[(Name, Name)], records: &[Vec<u8>]) -> u16 {
        let is_whole = aliases.iter().all(|alias| self.alias(alias))
            && records.iter().all(|record| self.writer.copied(Section::Answer, record));
        self.finish(!is_whole)
    }

    pub(super) fn text(mut self, text: &str, ttl: u32) -> u16 {
        let is_whole = self.writer.record(Section::Answer, Self::OWNER, (rtype::TXT, ttl), |out| {
            out.push(u8::try_from(text.len()).unwrap_or_default());
            out.extend_from_slice(text.as_bytes());
        });
        self.finish(!is_whole)
    }

    pub(super) fn pointers(mut self, names: &[Vec<u8>]) -> u16 {
        let head = (rtype::PTR, self.ttl);
        let is_whole = names.iter().all(|name| {
            self.writer.record(Section::Answer, Self::OWNER, head, |out| {
                out.extend_from_slice(name);
            })
        });
        self.finish(!is_whole)
    }

    pub(super) fn name_servers(mut self, servers: &[Server]) -> u16 {
        let head = (rtype::NS, self.ttl);
        let mut last: Option<&[u8]> = None;
        let mut is_whole = true;
        for (name, _) in servers {
            if last != Some(name) {
                is_whole &= self.writer.record(Section::Answer, Self::OWNER, head, |out| {
                    out.extend_from_slice(name);
                });
                last = Some(name);
            }
        }
        for (name, ip) in servers.iter().filter(|_| is_whole) {
            let owner = Target { labels: &[], rest: name };
            if !self.writer.address(Section::Additional, owner, self.ttl, *ip) {
                break;
            }
        }
        self.finish(!is_whole)
    }

    pub(super) fn any(mut self) -> u16 {
        let head = (rtype::HINFO, self.ttl);
        let is_whole = self.writer.record(Section::Answer, Self::OWNER, head, |out| {
            out.extend_from_slice(ANY_HINFO);
        });
        self.finish(!is_whole)
    }

    fn soa(&mut self, section: Section) -> bool {
        let at = Header::LENGTH + self.zone_at;
        // A question's name ends within the first 267 bytes.
        let pointer = (0xC000 | u16::try_from(at).unwrap_or(12)).to_be_bytes();
        let owner = Target { labels: &[], rest: &pointer };
        let (ttl, serial) = (self.ttl, self.serial);
        self.writer.record(section, owner, (rtype::SOA, ttl.min(SOA_TTL)), |out| {
            Target { labels: &[b"ns", b"dns"], rest: &pointer }.write(out);
            Target { labels: &[b"hostmaster"], rest: &pointer }.write(out);
            out.extend_from_slice(&serial.to_be_bytes());
            for time in SOA_TIMES.into_iter().chain([ttl]) {
                out.extend_from_slice(&time.to_be_bytes());
            }
        })
    }

    pub(super) fn start_of_authority(mut self) -> u16 {
        let is_whole = self.soa(Section::Answer);
        self.finish(!is_whole)
    }

    /// No records: NODATA, NXDOMAIN, or not now.
    pub(super) fn nothing(mut self, code: u16) -> u16 {
        // A caller may have written nothing but the question so far.
        self.soa(Section::Authority);
        self.writer.set_rcode(code);
        self.finish(false);
        code
    }
}

fn finish(mut writer: Writer<'_>, query: &Query<'_>, is_cut: bool) {
    if let Some(opt) = query.opt {
        writer.opt(opt.size, 0, opt.dnssec_ok);
    }
    writer.finish(is_cut);
}

/// Writes the answer to ANY where nothing is known about the name (RFC 8482).
pub fn minimal_any(query: &Query<'_>, out: &mut Vec<u8>) -> u16 {
    let flags = query.reply_flags() | Header::RA;
    let mut writer = Writer::new(out, query.header.id, flags, query.question(), query.room());
    let head = (rtype::HINFO, ANY_TTL);
    let is_whole = writer.record(Section::Answer, Reply::OWNER, head, |out| {
        out.extend_from_slice(ANY_HINFO);
    });
    finish(writer, query, !is_whole);
    rcode::NOERROR
}

/// Writes the refusal of a query that was read.
pub fn refuse(query: &Query<'_>, refusal: Refusal, out: &mut Vec<u8>) -> u16 {
    let code = code_of(refusal);
    let flags = query.reply_flags() | code;
    let writer = Writer::new(out, query.header.id, flags, query.question(), query.limit);
    finish(writer, query, false);
    code
}

/// Writes what is answered to bytes that are no query. Returns the code; none when nothing is said.
pub fn error(bytes: &[u8], refusal: Refusal, out: &mut Vec<u8>) -> Option<u16> {
    let header = Header::read(bytes).ok()?;
    if refusal == Refusal::Drop {
        return None;
    }
    let code = code_of(refusal);
    let kept = header.flags & (0x7800 | Header::RD | Header::CD);
    // The question is repeated where it can be read: clients match responses by it.
    let question = match refusal {
        Refusal::FormErr | Refusal::NotImp => &[],
        _ => question_of(bytes).unwrap_or_default(),
    };
    let mut writer =
        Writer::new(out, header.id, Header::QR | kept | code & 0xF, question, usize::MAX);
    if refusal == Refusal::BadVers {
        writer.opt(1232, u8::try_from(code >> 4).unwrap_or_default(), false);
    }
    writer.finish(false);
    Some(code)
}

fn question_of(bytes: &[u8]) -> Option<&[u8]> {
    let end = crate::wire::check_name(bytes, Header::LENGTH).ok()?;
    bytes.get(Header::LENGTH..end + 4)
}

fn code_of(refusal: Refusal) -> u16 {
    match refusal {
        Refusal::Drop => rcode::NOERROR,
        Refusal::FormErr => rcode::FORMERR,
        Refusal::NotImp => rcode::NOTIMP,
        Refusal::BadVers => rcode::BADVERS,
        Refusal::Refused => rcode::REFUSED,
        Refusal::ServFail => rcode::SERVFAIL,
    }
}
