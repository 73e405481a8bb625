//! Words of a directive, read as what they must be.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::CorefileError;
use super::super::blocks::Directive;
use super::super::lexer::Token;
use crate::wire::Name;

pub(super) fn fault(token: &Token, text: impl Into<String>) -> CorefileError {
    CorefileError::new(token.at, text)
}

/// A directive's words.
#[derive(Clone, Copy)]
pub(super) struct Words<'a> {
    pub(super) directive: &'a Token,
    pub(super) arguments: &'a [Token],
    pub(super) options: &'a [(Token, Vec<Token>)],
}

impl<'a> Words<'a> {
    pub(super) fn new(directive: &'a Directive) -> Self {
        let Directive { name, arguments, options } = directive;
        Self { directive: name, arguments, options }
    }

    pub(super) fn at_most(&self, count: usize) -> Result<(), CorefileError> {
        match self.arguments.get(count) {
            Some(token) => Err(fault(token, format!("{:?} is one argument too many", token.text))),
            None => Ok(()),
        }
    }

    pub(super) fn at_least(&self, count: usize) -> Result<(), CorefileError> {
        if self.arguments.len() >= count {
            return Ok(());
        }
        let text = format!("{} needs {count} arguments or more", self.directive.text);
        Err(fault(self.directive, text))
    }

    pub(super) fn no_options(&self) -> Result<(), CorefileError> {
        match self.options.first() {
            Some((token, _)) => {
                Err(fault(token, format!("{} has no option {:?}", self.directive.text, token.text)))
            }
            None => Ok(()),
        }
    }

    pub(super) fn options(&self) -> impl Iterator<Item = Opt<'a>> {
        let plugin = self.directive;
        self.options.iter().map(move |(token, arguments)| Opt { plugin, token, arguments })
    }
}

/// A line in a directive's block.
#[derive(Clone, Copy)]
pub(super) struct Opt<'a> {
    plugin: &'a Token,
    pub(super) token: &'a Token,
    pub(super) arguments: &'a [Token],
}

impl<'a> Opt<'a> {
    pub(super) fn name(&self) -> &'a str {
        &self.token.text
    }

    /// Its only argument.
    pub(super) fn one(&self) -> Result<&'a Token, CorefileError> {
        match self.arguments {
            [one] => Ok(one),
            [_, second, ..] => {
                Err(fault(second, format!("{:?} is one argument too many", second.text)))
            }
            [] => Err(fault(self.token, format!("{} needs an argument", self.token.text))),
        }
    }

    pub(super) fn none(&self) -> Result<(), CorefileError> {
        match self.arguments.first() {
            Some(token) => Err(fault(token, format!("{:?} is one argument too many", token.text))),
            None => Ok(()),
        }
    }

    pub(super) fn some(&self) -> Result<&'a [Token], CorefileError> {
        if self.arguments.is_empty() {
            return Err(fault(self.token, format!("{} needs an argument", self.token.text)));
        }
        Ok(self.arguments)
    }

    pub(super) fn unknown(&self) -> CorefileError {
        fault(self.token, format!("{} has no option {:?}", self.plugin.text, self.token.text))
    }

    pub(super) fn unsupported(&self) -> CorefileError {
        let text = format!("{}: {:?} is not supported", self.plugin.text, self.token.text);
        fault(self.token, text)
    }
}

/// A span in Go's notation.
pub(super) fn duration(token: &Token) -> Result<Duration, CorefileError> {
    crate::duration::parse(&token.text).map_err(|text| fault(token, text))
}

/// A number within a range.
pub(super) fn number<T>(token: &Token, range: RangeInclusive<T>) -> Result<T, CorefileError>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    match token.text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => {
            let (first, last) = range.into_inner();
            Err(fault(token, format!("{:?} is no number from {first} to {last}", token.text)))
        }
    }
}

/// The name of a zone in lower case.
pub(super) fn name(token: &Token, text: &str) -> Result<Name, CorefileError> {
    let name = Name::parse(text).filter(|_| !text.is_empty());
    name.map(|name| name.lowercased()).ok_or_else(|| fault(token, format!("{text:?} is no zone")))
}

/// A zone, or the zones of a network's addresses, of which no more than 256 are made.
pub(super) fn zones(token: &Token, text: &str) -> Result<Vec<Name>, CorefileError> {
    let network = text
        .split_once('/')
        .and_then(|(ip, bits)| Some((ip.parse::<IpAddr>().ok()?, bits.parse::<usize>().ok()?)));
    let Some((ip, bits)) = network else { return name(token, text).map(|name| vec![name]) };
    let (bytes, unit, root) = match ip {
        IpAddr::V4(ip) => (ip.octets().to_vec(), 8, "in-addr.arpa"),
        IpAddr::V6(ip) => {
            (ip.octets().iter().flat_map(|byte| [byte >> 4, byte & 0xF]).collect(), 4, "ip6.arpa")
        }
    };
    if bits > bytes.len() * unit {
        return Err(fault(token, format!("{text:?} is no network")));
    }
    // Down to a whole label: the rest of its bits are counted through.
    let labels = bits.div_ceil(unit);
    let free = labels * unit - bits;
    let mut names = Vec::new();
    for last in 0..1_u16 << free {
        let mut zone = String::new();
        for at in (0..labels).rev() {
            let mut label = u16::from(bytes[at]);
            if at + 1 == labels {
                label = label >> free << free | last;
            }
            // Writing to a String does not fail.
            let _ = match unit {
                4 => write!(zone, "{label:x}."),
                _ => write!(zone, "{label}."),
            };
        }
        zone.push_str(root);
        names.push(name(token, &zone)?);
    }
    Ok(names)
}
