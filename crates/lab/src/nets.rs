//! One range of addresses, or one of each family: what a range flag takes.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use portolan_node::Addresses;
use serde::{Deserialize, Serialize};

/// A family of addresses, under the names of `spec.ipFamilies`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Family {
    /// IPv4.
    #[serde(rename = "IPv4")]
    Ipv4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    Ipv6,
}

impl Family {
    /// An address's family.
    pub(crate) fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Ipv4 => "IPv4",
            Family::Ipv6 => "IPv6",
        })
    }
}

/// One range, or one of each family; the first is of the primary family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Nets(Vec<IpNet>);

/// Why a list of ranges is none of [`Nets`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NetsError {
    #[error("{0:?} is not a network")]
    Unreadable(String),
    #[error("no network is given")]
    Empty,
    #[error("there is more than one {0} network")]
    Twice(Family),
}

impl Nets {
    /// Out of one range, or of one of each family, the primary first.
    pub(crate) fn of(list: impl IntoIterator<Item = IpNet>) -> Result<Nets, NetsError> {
        let mut nets = Nets(Vec::new());
        for net in list {
            let family = Family::of(net.addr());
            if nets.net(family).is_some() {
                return Err(NetsError::Twice(family));
            }
            nets.0.push(net);
        }
        if nets.0.is_empty() { Err(NetsError::Empty) } else { Ok(nets) }
    }

    /// All of them, the primary first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = IpNet> {
        self.0.iter().copied()
    }

    /// The one of a family.
    pub(crate) fn net(&self, family: Family) -> Option<IpNet> {
        self.iter().find(|net| Family::of(net.addr()) == family)
    }

    /// The families, the primary first.
    pub(crate) fn families(&self) -> Vec<Family> {
        self.iter().map(|net| Family::of(net.addr())).collect()
    }

    /// An address out of each.
    pub(crate) fn addresses(&self, choose: impl Fn(IpNet) -> IpAddr) -> Addresses {
        Addresses::of(self.iter().map(choose)).expect("there is one net, or one of each family")
    }
}

/// Parted by commas, as Kubernetes' own flags take them.
impl fmt::Display for Nets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, net) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{net}")?;
        }
        Ok(())
    }
}

impl FromStr for Nets {
    type Err = NetsError;

    fn from_str(text: &str) -> Result<Nets, NetsError> {
        let parse = |part: &str| {
            let part = part.trim();
            part.parse().map_err(|_| NetsError::Unreadable(part.to_owned()))
        };
        let list: Vec<IpNet> = text.split(',').map(parse).collect::<Result<_, _>>()?;
        Nets::of(list)
    }
}

impl TryFrom<String> for Nets {
    type Error = NetsError;

    fn try_from(text: String) -> Result<Nets, NetsError> {
        text.parse()
    }
}

impl From<Nets> for String {
    fn from(nets: Nets) -> String {
        nets.to_string()
    }
}

/// Whether two ranges have an address in common.
pub(crate) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_keeps_the_order_which_is_that_of_the_families() {
        for (text, families) in [
            ("10.96.0.0/12", &[Family::Ipv4][..]),
            ("10.96.0.0/12,fd00::/112", &[Family::Ipv4, Family::Ipv6]),
            ("fd00::/112,10.96.0.0/12", &[Family::Ipv6, Family::Ipv4]),
        ] {
            let nets: Nets = text.parse().unwrap();
            assert_eq!((nets.to_string().as_str(), nets.families().as_slice()), (text, families));
            let json = serde_json::to_string(&nets).unwrap();
            assert_eq!(serde_json::from_str::<Nets>(&json).unwrap(), nets);
        }
    }

    #[test]
    fn two_of_a_family_are_refused_however_many_there_are() {
        let twice = |text: &str| text.parse::<Nets>().unwrap_err();
        assert_eq!(twice("10.0.0.0/16,10.1.0.0/16"), NetsError::Twice(Family::Ipv4));
        assert_eq!(twice("fd00::/64,10.0.0.0/16,fd01::/64"), NetsError::Twice(Family::Ipv6));
        assert_eq!(twice("10.0.0.0/16,"), NetsError::Unreadable(String::new()));
        assert_eq!(Nets::of([]), Err(NetsError::Empty));
        assert!(serde_json::from_str::<Nets>("\"\"").is_err());
    }

    #[test]
    fn ranges_of_different_families_never_overlap() {
        let nets = |a: &str, b: &str| overlap(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(nets("10.0.0.0/8", "10.1.0.0/16") && nets("10.1.0.0/16", "10.0.0.0/8"));
        assert!(nets("fd00::/16", "fd00:1::/64") && !nets("fd00::/64", "fd00:1::/64"));
        assert!(!nets("0.0.0.0/0", "::/0"));
    }
}
