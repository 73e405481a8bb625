//! Directives as settings: one function a plugin.
//!
//! Upstream rule: setup.go of each plugin in github.com/coredns/coredns/plugin.

mod cache;
mod forward;
mod kubernetes;
mod words;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::blocks::{Block, Directive};
use super::lexer::Token;
use super::settings::{Corefile, Health, Reload, ServerBlock, Zone};
use super::{CorefileError, Surroundings};
use crate::answer::LoadBalance;
use crate::wire::Name;
use words::{Words, duration, fault, number};

/// The longest response over UDP where a block says nothing, in bytes.
const BUFSIZE: u16 = 4096;

/// The settings that blocks say.
pub(super) fn corefile(
    blocks: Vec<Block>,
    port: u16,
    surroundings: &dyn Surroundings,
) -> Result<Corefile, CorefileError> {
    let mut corefile = Corefile::default();
    for block in blocks {
        let server = server(&block, port, surroundings, &mut corefile)?;
        for (zone, key) in server.zones.iter().zip(&block.keys) {
            // With `bind`, too: blocks are found by the port alone.
            let overlaps = |known: &ServerBlock| known.zones.contains(zone);
            if corefile.servers.iter().any(overlaps) {
                let text = format!("{}:{} is served by a block above", zone.name, zone.port);
                return Err(fault(key, text));
            }
        }
        corefile.servers.push(server);
    }
    Ok(corefile)
}

fn server(
    block: &Block,
    port: u16,
    surroundings: &dyn Surroundings,
    corefile: &mut Corefile,
) -> Result<ServerBlock, CorefileError> {
    let mut server = ServerBlock { bufsize: BUFSIZE, ..ServerBlock::default() };
    for key in &block.keys {
        server.zones.extend(zones(key, port)?);
    }
    let names: Vec<Name> = server.zones.iter().map(|zone| zone.name.clone()).collect();
    let mut seen: Vec<&str> = Vec::new();
    for directive in &block.directives {
        let plugin = directive.name.text.as_str();
        // Upstream takes these more than once.
        if seen.contains(&plugin) && !matches!(plugin, "forward" | "log" | "bind") {
            return Err(fault(&directive.name, format!("{plugin} is there already")));
        }
        seen.push(plugin);
        let words = Words::new(directive);
        match plugin {
            "errors" => {
                errors(directive, corefile);
                server.errors = true;
            }
            "log" => {
                log(directive, corefile);
                server.log = true;
            }
            "health" => put(&mut corefile.health, health(&words)?, |a, b| a == b, directive)?,
            "ready" => put(&mut corefile.ready, page(&words, 8181)?, |a, b| a == b, directive)?,
            "prometheus" => {
                let address = page(&words, 9153)?;
                put(&mut corefile.metrics, address, |a, b| a == b, directive)?;
                server.prometheus = true;
            }
            "kubernetes" => {
                server.kubernetes = Some(kubernetes::read(&words, &names, corefile)?);
            }
            "forward" => server.forwards.push(forward::read(&words, surroundings)?),
            "cache" => server.cache = Some(cache::read(&words)?),
            "loop" => {
                words.at_most(0)?;
                words.no_options()?;
                server.loop_detection = true;
            }
            "reload" => corefile.reload = reload(&words)?,
            "loadbalance" => server.load_balance = load_balance(&words)?,
            "bind" => {
                for argument in words.arguments {
                    server.bind.push(ip(argument)?);
                }
                words.at_least(1)?;
            }
            "bufsize" => {
                words.at_most(1)?;
                server.bufsize = match words.arguments.first() {
                    Some(size) => number(size, 512..=4096)?,
                    None => 1232,
                };
            }
            // Minimal answers to ANY are what is given anyway.
            "any" => words.at_most(0)?,
            other => return Err(fault(&directive.name, unsupported(other))),
        }
    }
    server.plugins = seen.into_iter().map(str::to_owned).collect();
    server.plugins.sort();
    server.plugins.dedup();
    Ok(server)
}

/// Every plugin of upstream's plugin.cfg that is not served here.
const OTHERS: [&str; 39] = [
    "acl",
    "auto",
    "autopath",
    "azure",
    "cancel",
    "chaos",
    "clouddns",
    "debug",
    "dns64",
    "dnssec",
    "dnstap",
    "erratic",
    "etcd",
    "file",
    "geoip",
    "grpc",
    "header",
    "hosts",
    "import",
    "k8s_external",
    "local",
    "metadata",
    "minimal",
    "multisocket",
    "nomad",
    "nsid",
    "pprof",
    "quic",
    "rewrite",
    "root",
    "route53",
    "secondary",
    "sign",
    "template",
    "timeouts",
    "tls",
    "trace",
    "transfer",
    "tsig",
];

fn unsupported(plugin: &str) -> String {
    if OTHERS.contains(&plugin) || matches!(plugin, "view" | "whoami") {
        format!("the plugin {plugin:?} is not supported")
    } else {
        format!("{plugin:?} is no plugin")
    }
}

/// Keeps what a page's plugin says; another block may say the same again, and nothing else.
fn put<T>(
    place: &mut Option<T>,
    value: T,
    is_same: impl Fn(&T, &T) -> bool,
    directive: &Directive,
) -> Result<(), CorefileError> {
    if place.as_ref().is_some_and(|known| !is_same(known, &value)) {
        let text = format!("{} is set otherwise by a block above", directive.name.text);
        return Err(fault(&directive.name, text));
    }
    *place = Some(value);
    Ok(())
}

/// The zones of a key: `[dns://]zone[:port]`, or a network whose addresses are looked up.
fn zones(key: &Token, port: u16) -> Result<Vec<Zone>, CorefileError> {
    let mut text = key.text.as_str();
    if let Some((scheme, rest)) = text.split_once("://") {
        if scheme != "dns" {
            return Err(fault(key, format!("the protocol {scheme}:// is not supported")));
        }
        text = rest;
    }
    let (zone, port) = match text.rsplit_once(':') {
        Some((zone, digits))
            if digits.chars().all(|c| c.is_ascii_digit()) && !digits.is_empty() =>
        {
            let port = digits.parse().map_err(|_| fault(key, format!("{digits} is no port")))?;
            (zone, port)
        }
        _ => (text, port),
    };
    let names = words::zones(key, zone)?;
    Ok(names.into_iter().map(|name| Zone { name, port }).collect())
}

fn ip(token: &Token) -> Result<IpAddr, CorefileError> {
    token.text.parse().map_err(|_| {
        fault(
            token,
            format!("{:?} is no address; names of interfaces are not supported", token.text),
        )
    })
}

fn errors(directive: &Directive, corefile: &mut Corefile) {
    for (name, _) in &directive.options {
        let text = format!("{}: errors: {:?} has no effect", name.at, name.text);
        corefile.warnings.push(text);
    }
}

fn log(directive: &Directive, corefile: &mut Corefile) {
    let words = directive.arguments.iter().chain(directive.options.iter().map(|(name, _)| name));
    for word in words {
        let text =
            format!("{}: log: {:?} has no effect, every query is logged", word.at, word.text);
        corefile.warnings.push(text);
    }
}

fn health(words: &Words<'_>) -> Result<Health, CorefileError> {
    let address = page(&Words { options: &[], ..*words }, 8080)?;
    let mut lameduck = Duration::ZERO;
    for option in words.options() {
        match option.name() {
            "lameduck" => lameduck = duration(option.one()?)?,
            _ => return Err(option.unknown()),
        }
    }
    Ok(Health { address, lameduck })
}

/// The address of a page: `[host]:port`, all addresses where there is no host.
fn page(words: &Words<'_>, port: u16) -> Result<SocketAddr, CorefileError> {
    words.at_most(1)?;
    words.no_options()?;
    let Some(token) = words.arguments.first() else {
        return Ok((Ipv6Addr::UNSPECIFIED, port).into());
    };
    let text = token.text.as_str();
    let bad = || fault(token, format!("{text:?} is no address such as :{port}"));
    if let Some(port) = text.strip_prefix(':') {
        return Ok((Ipv6Addr::UNSPECIFIED, port.parse().map_err(|_| bad())?).into());
    }
    if let Some(port) = text.strip_prefix("localhost:") {
        return Ok((Ipv4Addr::LOCALHOST, port.parse().map_err(|_| bad())?).into());
    }
    text.parse().map_err(|_| bad())
}

fn reload(words: &Words<'_>) -> Result<Option<Reload>, CorefileError> {
    words.at_most(2)?;
    words.no_options()?;
    let mut interval = Duration::from_secs(30);
    if let Some(token) = words.arguments.first() {
        interval = duration(token)?;
        if interval.is_zero() {
            return Ok(None);
        }
        if interval < Duration::from_secs(2) {
            return Err(fault(token, "the interval must be 2s or more"));
        }
    }
    if let Some(token) = words.arguments.get(1) {
        // The jitter spreads what many servers do at once; a watched file needs none.
        duration(token)?;
    }
    Ok(Some(Reload { interval }))
}

fn load_balance(words: &Words<'_>) -> Result<LoadBalance, CorefileError> {
    words.no_options()?;
    match words.arguments {
        [] => Ok(LoadBalance::RoundRobin),
        [policy] if policy.text == "round_robin" => Ok(LoadBalance::RoundRobin),
        [policy, ..] => {
            Err(fault(policy, format!("the policy {:?} is not supported", policy.text)))
        }
    }
}

/// Names of zones, or networks, in lower case.
fn names(tokens: &[Token]) -> Result<Vec<Name>, CorefileError> {
    let mut all = Vec::new();
    for token in tokens {
        all.extend(words::zones(token, &token.text)?);
    }
    Ok(all)
}
