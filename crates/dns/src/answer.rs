//! Questions about a cluster's names, answered out of a snapshot.
//!
//! ```text
//!   bytes ──Query::read──▶ Query ──answer──▶ Outcome: written │ not ours │ follow elsewhere
//!                                  ▲
//!                     Snapshot, Authority, Shuffle
//! ```
//!
//! Pure: chance comes in as an argument. Whether a name does not exist (NXDOMAIN) or exists without
//! such records (NODATA) is decided as CoreDNS does, with two exceptions that RFC 8020 asks for:
//! `_tcp.<service>…` and `dns.<zone>` exist, since names under them do.
//!
//! Upstream rule: kubernetes/dns docs/specification.md 1.1.0; coredns plugin/kubernetes/handler.go,
//! kubernetes.go, parse.go, reverse.go, ns.go and plugin/backend_lookup.go.

mod authority;
mod lookup;
mod nameserver;
mod query;
mod reply;
mod reverse;
mod shuffle;
mod srv;

pub use authority::{Authority, Fallthrough, PodMode};
pub use query::{Limits, Query, Refusal};
pub use reply::{error, minimal_any, refuse};
pub use shuffle::{LoadBalance, Shuffle};

use crate::wire::{Name, rcode, rtype};
use crate::zone::{Loaded, Snapshot};
use lookup::{Found, Missing, Place};
use reply::Reply;

/// The version of the specification that is answered by.
const SCHEMA_VERSION: &str = "1.1.0";
/// How long that answer holds, in seconds.
const SCHEMA_TTL: u32 = 28_800;
/// How many aliases in a row are followed.
const MOST_ALIASES: usize = 8;

/// What became of a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The response is written, with this code.
    Written(u16),
    /// The name belongs to none of the zones, or falls through to whoever is next.
    NotOurs,
    /// An ExternalName Service whose name leads out of the zone.
    Follow(Follow),
}

/// Where an answer goes on.
#[derive(Debug, PartialEq, Eq)]
pub struct Follow {
    /// The aliases so far: owner and target.
    pub aliases: Vec<(Name, Name)>,
    /// The time to live of each, in seconds.
    pub ttl: u32,
    /// The zone that they are in: how many bytes of the question's name come before it.
    pub zone_at: usize,
}

/// Answers a question about a name of the cluster into `out`, which holds anything before.
pub fn answer(
    query: &Query<'_>,
    snapshot: &Snapshot,
    authority: &Authority,
    shuffle: &mut Shuffle,
    out: &mut Vec<u8>,
) -> Outcome {
    let Some(zone_at) = authority.zone_of(query.lower()) else { return Outcome::NotOurs };
    let place = Place::new(query.lower(), zone_at, snapshot, authority);
    let reply = |out| Reply::new(query, zone_at, snapshot, authority, out);
    let existence = match query.qtype {
        rtype::A | rtype::AAAA => match place.addresses(query.qtype) {
            Ok(Found::Addresses(mut ips)) if !ips.is_empty() => {
                shuffle.shuffle(&mut ips);
                return Outcome::Written(reply(out).addresses(&ips));
            }
            Ok(Found::Addresses(_)) => Ok(()),
            Ok(Found::Alias(target)) => match lookup::follow(query, target, &place, shuffle) {
                lookup::Followed::Nothing => Ok(()),
                lookup::Followed::Inside(aliases, ips) => {
                    return Outcome::Written(reply(out).aliases(&aliases, &ips));
                }
                lookup::Followed::Outside(aliases) => {
                    return Outcome::Follow(Follow { aliases, ttl: authority.ttl, zone_at });
                }
            },
            Err(missing) => Err(missing),
        },
        rtype::CNAME => match place.addresses(rtype::A) {
            Ok(Found::Alias(target)) => {
                let alias = (query.name(), target);
                return Outcome::Written(reply(out).aliases(&[alias], &[]));
            }
            found => found.map(|_| ()),
        },
        rtype::SRV => match place.endpoints() {
            Ok(items) if !items.is_empty() => {
                return Outcome::Written(srv::write(reply(out), &items));
            }
            found => found.map(|_| ()),
        },
        rtype::TXT => {
            if place.is_schema_version() {
                return Outcome::Written(reply(out).text(SCHEMA_VERSION, SCHEMA_TTL));
            }
            Ok(())
        }
        rtype::PTR => match reverse::address_of(query.lower()) {
            Some(ip) => {
                let names = reverse::names(ip, snapshot, authority);
                if !names.is_empty() {
                    return Outcome::Written(reply(out).pointers(&names));
                }
                Err(Missing)
            }
            None => place.exists(),
        },
        rtype::SOA => {
            if zone_at == 0 {
                return Outcome::Written(reply(out).start_of_authority());
            }
            Ok(())
        }
        rtype::NS if zone_at == 0 => {
            let servers = nameserver::names(query.zone(zone_at), snapshot, authority);
            if !servers.is_empty() {
                return Outcome::Written(reply(out).name_servers(&servers));
            }
            Ok(())
        }
        rtype::AXFR | rtype::IXFR => {
            return Outcome::Written(refuse(query, Refusal::Refused, out));
        }
        rtype::ANY => match place.exists() {
            Ok(()) => return Outcome::Written(reply(out).any()),
            missing => missing,
        },
        _ => place.exists(),
    };
    match existence {
        Ok(()) => Outcome::Written(reply(out).nothing(rcode::NOERROR)),
        // What was not seen yet may well be there: nobody must believe the contrary.
        Err(Missing) if snapshot.loaded() == Loaded::Partly => {
            Outcome::Written(reply(out).nothing(rcode::SERVFAIL))
        }
        Err(Missing) if authority.falls_through(query.lower()) => Outcome::NotOurs,
        Err(Missing) => Outcome::Written(reply(out).nothing(rcode::NXDOMAIN)),
    }
}

/// Writes the answer of a name that led elsewhere: its aliases, then the records that were found
/// there, each in uncompressed wire form.
pub fn complete(
    query: &Query<'_>,
    follow: &Follow,
    records: &[Vec<u8>],
    (snapshot, authority): (&Snapshot, &Authority),
    out: &mut Vec<u8>,
) -> u16 {
    Reply::new(query, follow.zone_at, snapshot, authority, out).followed(&follow.aliases, records)
}
