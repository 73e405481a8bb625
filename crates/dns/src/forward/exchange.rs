//! One question to one address.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use crate::wire::{Header, Message, Name, Opt, Question, Writer, rcode, rtype};

/// How long a response over UDP upstreams may send, in bytes: what no network must fragment.
const SIZE: u16 = 1232;
/// How many packets that are no response are looked at, before the question is asked again.
const MOST_STRAY: usize = 64;

/// Asks a question as it stands in a query, and waits for its response. Dropping it gives up.
///
/// # Errors
/// When the address cannot be reached, or says nonsense over TCP.
pub(super) async fn exchange(
    address: SocketAddr,
    query: &[u8],
    over_tcp: bool,
) -> io::Result<Vec<u8>> {
    let message = Message::new(query).map_err(invalid)?;
    let (question, end) = message.question().map_err(invalid)?;
    let opt = message.opt().map_err(invalid)?;
    let asked = Asked { question, raw: &query[Header::LENGTH..end], header: message.header, opt };
    let with_opt = asked.once(address, over_tcp, true).await?;
    match Header::read(&with_opt).map_err(invalid)?.rcode() {
        // It may not know EDNS(0) (RFC 6891 section 7).
        rcode::FORMERR | rcode::NOTIMP => asked.once(address, over_tcp, false).await,
        _ => Ok(with_opt),
    }
}

/// A query that only asks whether anybody is there: the root's name servers.
pub(super) fn probe(recursion: bool) -> Vec<u8> {
    let mut query = vec![0, 0, u8::from(recursion), 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend_from_slice(&[0, 0, 2, 0, 1]);
    query
}

fn invalid(error: crate::wire::WireError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

struct Asked<'a> {
    question: Question,
    raw: &'a [u8],
    header: Header,
    opt: Option<Opt>,
}

impl Asked<'_> {
    async fn once(&self, address: SocketAddr, over_tcp: bool, edns: bool) -> io::Result<Vec<u8>> {
        if !over_tcp {
            let response = self.udp(address, edns).await?;
            if Header::read(&response).map_err(invalid)?.flags & Header::TC == 0 {
                return Ok(response);
            }
            // What was cut off is better than nothing where TCP is shut.
            return Ok(self.tcp(address, edns).await.unwrap_or(response));
        }
        self.tcp(address, edns).await
    }

    fn query(&self, id: u16, edns: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(Header::LENGTH + self.raw.len() + Writer::OPT);
        let flags = self.header.flags & (Header::RD | Header::CD | Header::AD);
        let mut writer = Writer::new(&mut out, id, flags, self.raw, usize::MAX);
        if edns {
            writer.opt(SIZE, 0, self.opt.is_some_and(|opt| opt.dnssec_ok));
        }
        writer.finish(false);
        out
    }

    async fn udp(&self, address: SocketAddr, edns: bool) -> io::Result<Vec<u8>> {
        let local: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        // Port 0: the kernel takes one by chance. Connected: it drops what others send.
        let socket = UdpSocket::bind(local).await?;
        socket.connect(address).await?;
        let id = crate::random::query_id();
        socket.send(&self.query(id, edns)).await?;
        let mut buffer = vec![0; 4096];
        for _ in 0..MOST_STRAY {
            let length = socket.recv(&mut buffer).await?;
            if self.is_answered_by(id, &buffer[..length]) {
                buffer.truncate(length);
                return Ok(buffer);
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "only strangers answer"))
    }

    async fn tcp(&self, address: SocketAddr, edns: bool) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(address).await?;
        let id = crate::random::query_id();
        let query = self.query(id, edns);
        let mut framed = u16::try_from(query.len()).unwrap_or_default().to_be_bytes().to_vec();
        framed.extend_from_slice(&query);
        stream.write_all(&framed).await?;
        let length = stream.read_u16().await?;
        let mut response = vec![0; length.into()];
        stream.read_exact(&mut response).await?;
        if !self.is_answered_by(id, &response) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no response to this query"));
        }
        Ok(response)
    }

    /// Whether this is the response: the id and the question must fit, with the question's case.
    fn is_answered_by(&self, id: u16, response: &[u8]) -> bool {
        let Ok(message) = Message::new(response) else { return false };
        let header = message.header;
        if header.id != id || header.flags & Header::QR == 0 || header.opcode() != 0 {
            return false;
        }
        match message.question() {
            Ok((question, _)) => question == self.question,
            // Who does not understand the query may not repeat it.
            Err(_) => header.counts[0] == 0 && matches!(header.rcode(), 1 | 4),
        }
    }
}

/// The name of a probe that nobody else asks for.
pub(crate) fn probe_name(zone: &Name) -> Option<Name> {
    let (a, b) = (crate::random::unguessable(), crate::random::unguessable());
    let zone = zone.to_string();
    Name::parse(&format!("{a}.{b}.{}", zone.trim_start_matches('.')))
}

/// A query of any type.
pub(crate) fn query_for(name: &Name, qtype: u16) -> Vec<u8> {
    let mut query = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend_from_slice(name.wire());
    query.extend_from_slice(&qtype.to_be_bytes());
    query.extend_from_slice(&[0, 1]);
    query
}

/// The type that a probe for loops asks for.
pub(crate) const PROBE_TYPE: u16 = rtype::HINFO;
