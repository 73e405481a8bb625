//! For which zones answers are given, and how.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::wire::Name;

/// Which pods have records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PodMode {
    /// None.
    #[default]
    Disabled,
    /// Any address, whether or not there is such a pod.
    Insecure,
    /// Those that there are, in their own namespaces.
    Verified,
}

/// What happens to names that do not exist.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Fallthrough {
    /// They do not exist.
    #[default]
    Never,
    /// Whoever is next is asked.
    Always,
    /// Whoever is next is asked about names in these zones.
    Zones(Vec<Name>),
}

/// The settings of the `kubernetes` plugin that answers depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The zones, in lower case.
    pub zones: Vec<Name>,
    /// Which pods have records.
    pub pods: PodMode,
    /// How long answers hold, in seconds. Default 5.
    pub ttl: u32,
    /// Only these namespaces; empty: all.
    pub namespaces: BTreeSet<String>,
    /// Whether a Service without ready endpoints has no name.
    pub ignore_empty_service: bool,
    /// What happens to names that do not exist.
    pub fallthrough: Fallthrough,
    /// The addresses at which this server is reached, for NS records.
    pub local_ips: Vec<IpAddr>,
}

impl Authority {
    /// With upstream's defaults.
    #[must_use]
    pub fn new(zones: Vec<Name>) -> Self {
        Self {
            zones: zones.iter().map(Name::lowercased).collect(),
            pods: PodMode::default(),
            ttl: 5,
            namespaces: BTreeSet::new(),
            ignore_empty_service: false,
            fallthrough: Fallthrough::default(),
            local_ips: Vec::new(),
        }
    }

    /// Where in a name in lower case the longest zone begins that it is in.
    pub(super) fn zone_of(&self, lower: &[u8]) -> Option<usize> {
        let starts = self.zones.iter().filter_map(|zone| suffix(lower, zone.wire()));
        starts.min()
    }

    /// The zone that names in answers are in: the first that is not for reverse lookups.
    pub(super) fn primary(&self) -> &[u8] {
        let is_forward = |zone: &&Name| !super::reverse::is_reverse(zone.wire());
        let zone = self.zones.iter().find(is_forward).or(self.zones.first());
        zone.map_or(&[0], |zone| zone.wire())
    }

    /// Whether whoever is next is asked about a name that does not exist.
    pub(super) fn falls_through(&self, lower: &[u8]) -> bool {
        match &self.fallthrough {
            Fallthrough::Never => false,
            Fallthrough::Always => true,
            Fallthrough::Zones(zones) => {
                zones.iter().any(|zone| suffix(lower, zone.wire()).is_some())
            }
        }
    }

    /// Whether a namespace has names at all, as far as the settings say.
    pub(super) fn exposes(&self, namespace: &[u8]) -> bool {
        self.namespaces.is_empty()
            || std::str::from_utf8(namespace).is_ok_and(|name| self.namespaces.contains(name))
    }
}

/// Where `suffix` begins in a name, both in lower case.
fn suffix(name: &[u8], suffix: &[u8]) -> Option<usize> {
    if !name.ends_with(suffix) {
        return None;
    }
    crate::wire::is_suffix(name, suffix)
}
