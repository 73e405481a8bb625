//! A Service with its endpoints, as they are looked up.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use super::input::{EndpointSlice, Key, Port, Service};

/// A Service, or slices whose Service is not there.
#[derive(Debug)]
pub struct ServiceEntry {
    /// Its namespace and name.
    pub key: Arc<Key>,
    /// What it is, when it is there.
    pub service: Option<Arc<Service>>,
    /// Its slices by name.
    pub slices: Box<[Arc<Slice>]>,
}

/// What an endpoint is called under its Service's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndpointName<'a> {
    /// A name of its own.
    Named(&'a str),
    /// Its address with dashes.
    Dashed(IpAddr),
}

impl EndpointName<'_> {
    /// Writes the label.
    pub fn write(&self, label: &mut String) {
        label.clear();
        match self {
            Self::Named(name) => label.push_str(name),
            Self::Dashed(ip) => dashed(*ip, label),
        }
    }
}

/// The endpoints of a slice that are ready.
#[derive(Debug, PartialEq, Eq)]
pub struct Slice {
    /// The slice's name.
    pub name: Arc<str>,
    /// The ports of each; one without a number stands for none.
    pub ports: Box<[Port]>,
    /// Those with a name, by the name in lower case.
    named: Box<[(Arc<str>, IpAddr)]>,
    /// Those without, by the address.
    dashed: Box<[IpAddr]>,
}

impl Slice {
    /// A slice for lookups. `name_of` gives an endpoint's name, if it has one.
    pub(super) fn new(
        name: Arc<str>,
        slice: EndpointSlice,
        name_of: impl Fn(&super::Endpoint) -> Option<Arc<str>>,
    ) -> Self {
        let (mut named, mut dashed) = (Vec::new(), Vec::new());
        for endpoint in &slice.endpoints {
            match name_of(endpoint) {
                Some(name) => {
                    named.extend(endpoint.addresses.iter().map(|ip| (Arc::clone(&name), *ip)));
                }
                None => dashed.extend_from_slice(&endpoint.addresses),
            }
        }
        named.sort_unstable();
        named.dedup();
        dashed.sort_unstable();
        dashed.dedup();
        Self { name, ports: slice.ports.into(), named: named.into(), dashed: dashed.into() }
    }

    /// How many addresses there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.named.len() + self.dashed.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every address, and what it is called.
    pub fn endpoints(&self) -> impl Iterator<Item = (EndpointName<'_>, IpAddr)> {
        let named = self.named.iter().map(|(name, ip)| (EndpointName::Named(name), *ip));
        named.chain(self.dashed.iter().map(|ip| (EndpointName::Dashed(*ip), *ip)))
    }

    /// Every address.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.named.iter().map(|(_, ip)| *ip).chain(self.dashed.iter().copied())
    }

    /// The addresses of this name, which is in lower case.
    pub fn called<'a>(
        &'a self,
        label: &str,
        ip: Option<IpAddr>,
    ) -> impl Iterator<Item = (EndpointName<'a>, IpAddr)> {
        let start = self.named.partition_point(|(name, _)| **name < *label);
        let named = self.named[start..].iter();
        let count = named.take_while(|(name, _)| **name == *label).count();
        let named = self.named[start..start + count].iter();
        let dashed = ip.filter(|ip| self.dashed.binary_search(ip).is_ok());
        named
            .map(|(name, ip)| (EndpointName::Named(name), *ip))
            .chain(dashed.map(|ip| (EndpointName::Dashed(ip), ip)))
    }

    /// What an address is called.
    pub fn names_of(&self, ip: IpAddr) -> impl Iterator<Item = EndpointName<'_>> {
        let named = self.named.iter().filter(move |(_, known)| *known == ip);
        let dashed = self.dashed.binary_search(&ip).is_ok();
        named
            .map(|(name, _)| EndpointName::Named(name))
            .chain(dashed.then_some(EndpointName::Dashed(ip)))
    }

    /// Whether it has an address.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.names_of(ip).next().is_some()
    }
}

/// Writes an address as a label: `10-0-0-1`, `fd00--1`.
pub(crate) fn dashed(ip: IpAddr, label: &mut String) {
    let start = label.len();
    // Writing to a String does not fail.
    let _ = write!(label, "{ip}");
    let text = label.split_off(start);
    label.extend(text.chars().map(|c| if matches!(c, '.' | ':') { '-' } else { c }));
}

/// The address whose label this is, exactly.
pub(crate) fn undashed(label: &[u8]) -> Option<IpAddr> {
    let ip = pod_ip(label)?;
    let mut text = String::with_capacity(40);
    dashed(ip, &mut text);
    (text.as_bytes() == label).then_some(ip)
}

/// The address that a pod's label stands for: three single dashes make it one of IPv4.
pub(crate) fn pod_ip(label: &[u8]) -> Option<IpAddr> {
    let mut buffer = [0; 45];
    let text = buffer.get_mut(..label.len())?;
    let dashes = label.iter().filter(|byte| **byte == b'-').count();
    let is_v4 = dashes == 3 && !label.windows(2).any(|pair| pair == b"--");
    let dot = if is_v4 { b'.' } else { b':' };
    for (to, from) in text.iter_mut().zip(label) {
        *to = match from {
            b'-' => dot,
            // A label with dots or colons of its own is no address.
            b'.' | b':' => return None,
            byte => *byte,
        };
    }
    let text = std::str::from_utf8(text).ok()?;
    if is_v4 {
        return text.parse().ok().map(IpAddr::V4);
    }
    text.parse().ok().map(IpAddr::V6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_addresses() {
        for (label, ip) in [
            ("10-0-0-1", Some("10.0.0.1")),
            ("fd00--1", Some("fd00::1")),
            ("--1", Some("::1")),
            ("010-0-0-1", None),
            ("10-0-0-256", None),
            ("10-0-0", None),
            ("1.2.3-4", None),
            ("web-0", None),
            ("", None),
        ] {
            let ip = ip.map(|ip| ip.parse().unwrap());
            assert_eq!(undashed(label.as_bytes()), ip, "{label}");
        }
        // Another way to write it is a pod's label, but no endpoint is called so.
        assert_eq!(pod_ip(b"fd00-0-0-0-0-0-0-1"), Some("fd00::1".parse().unwrap()));
        assert_eq!(undashed(b"fd00-0-0-0-0-0-0-1"), None);
    }
}
