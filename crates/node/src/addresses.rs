//! A node's or a pod's own addresses: one, or one of each family, the primary first.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// One address, or one of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Addresses {
    primary: IpAddr,
    secondary: Option<IpAddr>,
}

/// Why a list of addresses is none of [`Addresses`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressesError {
    /// There is none.
    #[error("no address is given")]
    Empty,
    /// A part of the text is no address.
    #[error("{0:?} is not an IP address")]
    Unreadable(String),
    /// Two of one family, or more than two.
    #[error("{0} is one too many: give one address, or one of each family")]
    TooMany(IpAddr),
}

impl Addresses {
    /// Out of one address, or of one of each family, the primary first.
    ///
    /// # Errors
    /// None at all, two of one family.
    pub fn of(list: impl IntoIterator<Item = IpAddr>) -> Result<Addresses, AddressesError> {
        let mut list = list.into_iter();
        let mut this = Addresses::from(list.next().ok_or(AddressesError::Empty)?);
        for address in list {
            if this.like(address).is_some() {
                return Err(AddressesError::TooMany(address));
            }
            this.secondary = Some(address);
        }
        Ok(this)
    }

    /// The first: `status.podIP` and what everything is reached by that takes one address only.
    #[must_use]
    pub fn primary(&self) -> IpAddr {
        self.primary
    }

    /// All of them, the primary first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        [Some(self.primary), self.secondary].into_iter().flatten()
    }

    /// The one of the same family as `other`.
    #[must_use]
    pub fn like(&self, other: IpAddr) -> Option<IpAddr> {
        self.iter().find(|address| address.is_ipv4() == other.is_ipv4())
    }
}

impl From<IpAddr> for Addresses {
    fn from(primary: IpAddr) -> Addresses {
        Addresses { primary, secondary: None }
    }
}

/// Parted by commas, as kubelet's `--node-ip` takes them and `status.podIPs` is shown to pods.
impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.primary)?;
        self.secondary.map_or(Ok(()), |secondary| write!(f, ",{secondary}"))
    }
}

impl FromStr for Addresses {
    type Err = AddressesError;

    fn from_str(text: &str) -> Result<Addresses, AddressesError> {
        let parse =
            |part: &str| part.parse().map_err(|_| AddressesError::Unreadable(part.to_owned()));
        let list: Vec<IpAddr> = text.split(',').map(parse).collect::<Result<_, _>>()?;
        Addresses::of(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_keeps_the_order_and_finds_the_family() {
        for text in ["10.0.0.1", "fd00::1", "10.0.0.1,fd00::1", "fd00::1,10.0.0.1"] {
            let addresses: Addresses = text.parse().unwrap();
            assert_eq!(addresses.to_string(), text);
            assert_eq!(text.split(',').next(), Some(addresses.primary().to_string().as_str()));
        }
        let both: Addresses = "fd00::1,10.0.0.1".parse().unwrap();
        let like = |text: &str| both.like(text.parse().unwrap()).map(|ip| ip.to_string());
        assert_eq!(like("192.0.2.1").as_deref(), Some("10.0.0.1"));
        assert_eq!(like("::1").as_deref(), Some("fd00::1"));
        assert_eq!(Addresses::from(both.primary()).like([10, 0, 0, 1].into()), None);
    }

    #[test]
    fn what_is_no_pair_of_families_is_refused() {
        for text in ["", ",", "10.0.0.1,", "web", "10.0.0.1,10.0.0.2", "fd00::1,10.0.0.1,fd00::2"] {
            assert!(text.parse::<Addresses>().is_err(), "{text:?}");
        }
        assert_eq!(Addresses::of([]), Err(AddressesError::Empty));
    }
}
