//! `forward`.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::settings::{Forward, HealthCheck, Policy};
use super::super::{CorefileError, Surroundings, nameservers};
use super::Token;
use super::words::{Words, duration, fault, name, number};

/// How many upstreams there may be.
const MOST: usize = 15;

pub(super) fn read(
    words: &Words<'_>,
    surroundings: &dyn Surroundings,
) -> Result<Forward, CorefileError> {
    words.at_least(2)?;
    let [from, to @ ..] = words.arguments else {
        return Err(fault(words.directive, "forward FROM TO"));
    };
    let mut addresses = Vec::new();
    for token in to {
        addresses.extend(upstreams(token, surroundings)?);
    }
    if addresses.len() > MOST {
        return Err(fault(words.directive, format!("more than {MOST} upstreams")));
    }
    let mut forward = Forward {
        from: name(from, &from.text)?,
        except: Vec::new(),
        to: addresses,
        policy: Policy::Random,
        force_tcp: false,
        prefer_udp: false,
        max_fails: 2,
        health_check: HealthCheck { interval: Duration::from_millis(500), recursion: true },
        max_concurrent: 0,
    };
    for option in words.options() {
        match option.name() {
            "except" => forward.except = super::names(option.some()?)?,
            "force_tcp" => {
                option.none()?;
                forward.force_tcp = true;
            }
            "prefer_udp" => {
                option.none()?;
                forward.prefer_udp = true;
            }
            "max_fails" => forward.max_fails = number(option.one()?, 0..=u32::MAX)?,
            // Connections to upstreams are not kept.
            "expire" | "max_idle_conns" | "max_age" => {
                option.one()?;
            }
            "policy" => {
                let policy = option.one()?;
                forward.policy = match policy.text.as_str() {
                    "random" => Policy::Random,
                    "round_robin" => Policy::RoundRobin,
                    "sequential" => Policy::Sequential,
                    other => return Err(fault(policy, format!("there is no policy {other:?}"))),
                };
            }
            "health_check" => {
                let [interval, rest @ ..] = option.some()? else { return Err(option.unknown()) };
                forward.health_check.interval = duration(interval)?;
                for word in rest {
                    match word.text.as_str() {
                        "no_rec" => forward.health_check.recursion = false,
                        _ => return Err(fault(word, "only no_rec is supported here")),
                    }
                }
            }
            "max_concurrent" => forward.max_concurrent = number(option.one()?, 0..=usize::MAX)?,
            "tls" | "tls_servername" | "next" | "failfast_all_unhealthy_upstreams" | "failover" => {
                return Err(option.unsupported());
            }
            _ => return Err(option.unknown()),
        }
    }
    Ok(forward)
}

/// An address with or without port, or those of a file such as /etc/resolv.conf.
fn upstreams(
    token: &Token,
    surroundings: &dyn Surroundings,
) -> Result<Vec<SocketAddr>, CorefileError> {
    let text = token.text.strip_prefix("dns://").unwrap_or(&token.text);
    if text.contains("://") {
        return Err(fault(token, format!("the protocol of {text:?} is not supported")));
    }
    if let Ok(address) = text.parse() {
        return Ok(vec![address]);
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse() {
        return Ok(vec![SocketAddr::new(ip, 53)]);
    }
    if !text.starts_with(['/', '.']) {
        return Err(fault(token, format!("{text:?} is neither an address nor a file")));
    }
    let file = surroundings.file(text);
    let servers = nameservers(&file.map_err(|e| fault(token, format!("cannot read {text}: {e}")))?);
    if servers.is_empty() {
        return Err(fault(token, format!("{text} names no server")));
    }
    Ok(servers)
}
