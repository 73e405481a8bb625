//! `cache`.

use std::time::Duration;

use super::super::CorefileError;
use super::super::settings::{Cache, CacheKind, Denial};
use super::Token;
use super::words::{Opt, Words, duration, fault, number};

/// How many answers are kept of each kind.
const CAPACITY: usize = 9984;
/// How long at most, in seconds: what exists, and what does not.
const MAX_TTL: (u32, u32) = (3600, 1800);
/// How long at least, in seconds.
const MIN_TTL: u32 = 5;
/// How many answers anybody may ask to be kept.
const MOST: usize = 1 << 24;

pub(super) fn read(words: &Words<'_>) -> Result<Cache, CorefileError> {
    let kind = |max_ttl| CacheKind { capacity: CAPACITY, max_ttl, min_ttl: MIN_TTL };
    let mut cache = Cache {
        zones: Vec::new(),
        success: kind(MAX_TTL.0),
        denial: kind(MAX_TTL.1),
        disabled: Vec::new(),
        servfail: Duration::from_secs(5),
        prefetch: 0,
        prefetch_pause: Duration::from_secs(60),
        prefetch_percent: 10,
        serve_stale: None,
        verify_stale: false,
    };
    let mut zones = words.arguments;
    if let [first, rest @ ..] = zones
        && first.text.chars().all(|c| c.is_ascii_digit())
    {
        let ttl = number(first, 1..=u32::MAX)?;
        (cache.success.max_ttl, cache.denial.max_ttl) = (ttl, ttl);
        zones = rest;
    }
    cache.zones = super::names(zones)?;
    for option in words.options() {
        match option.name() {
            "success" => limits(&option, &mut cache.success)?,
            "denial" => limits(&option, &mut cache.denial)?,
            "prefetch" => prefetch(option.some()?, &mut cache)?,
            "serve_stale" => {
                let mut arguments = option.arguments.iter();
                cache.serve_stale = Some(match arguments.next() {
                    Some(token) => duration(token)?,
                    None => Duration::from_secs(3600),
                });
                if let Some(mode) = arguments.next() {
                    cache.verify_stale = match mode.text.as_str() {
                        "verify" => true,
                        "immediate" => false,
                        other => return Err(fault(mode, format!("there is no mode {other:?}"))),
                    };
                }
            }
            "servfail" => {
                let token = option.one()?;
                cache.servfail = duration(token)?;
                if cache.servfail > Duration::from_secs(300) {
                    return Err(fault(token, "a failure may be remembered for 5m at most"));
                }
            }
            "disable" => disable(&option, &mut cache)?,
            // Times to live count down, as a resolver's do.
            "keepttl" => return Err(option.unsupported()),
            _ => return Err(option.unknown()),
        }
    }
    Ok(cache)
}

fn limits(option: &Opt<'_>, kind: &mut CacheKind) -> Result<(), CorefileError> {
    let [capacity, rest @ ..] = option.some()? else { return Err(option.unknown()) };
    kind.capacity = number(capacity, 0..=MOST)?;
    if let Some(ttl) = rest.first() {
        kind.max_ttl = number(ttl, 0..=u32::MAX)?;
    }
    if let Some(ttl) = rest.get(1) {
        kind.min_ttl = number(ttl, 0..=kind.max_ttl)?;
    }
    kind.min_ttl = kind.min_ttl.min(kind.max_ttl);
    Ok(())
}

fn prefetch(arguments: &[Token], cache: &mut Cache) -> Result<(), CorefileError> {
    if let Some(amount) = arguments.first() {
        cache.prefetch = number(amount, 0..=u32::MAX)?;
    }
    if let Some(pause) = arguments.get(1) {
        cache.prefetch_pause = duration(pause)?;
    }
    if let Some(percent) = arguments.get(2) {
        let digits = percent.text.strip_suffix('%');
        let digits = digits.ok_or_else(|| fault(percent, "a percentage ends with %"))?;
        let bare = Token { text: digits.to_owned(), ..percent.clone() };
        cache.prefetch_percent = number(&bare, 10..=90)?;
    }
    Ok(())
}

/// kubeadm turns the cluster's own zone off, which is never cached here anyway.
fn disable(option: &Opt<'_>, cache: &mut Cache) -> Result<(), CorefileError> {
    let [what, zones @ ..] = option.some()? else { return Err(option.unknown()) };
    let (kind, limits) = match what.text.as_str() {
        "success" => (Denial::Success, &mut cache.success),
        "denial" => (Denial::Denial, &mut cache.denial),
        other => return Err(fault(what, format!("there is no cache of {other:?}"))),
    };
    if zones.is_empty() {
        limits.capacity = 0;
    }
    cache.disabled.extend(super::names(zones)?.into_iter().map(|zone| (kind, zone)));
    Ok(())
}
