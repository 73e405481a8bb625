//! Pod CIDRs for nodes: equal slices of the cluster's range, the lowest free one first.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::{Config, Error, Result};

/// The slices of the cluster's ranges.
#[derive(Clone, Debug)]
pub(super) struct Ranges(Vec<Range>);

impl Ranges {
    /// Refuses a mask that cuts no slice out of its range, and ranges that are not one of a family.
    pub(super) fn of(config: &Config) -> Result<Self> {
        let cluster: Vec<IpNet> = config.cluster_cidrs.iter().map(IpNet::trunc).collect();
        let twice =
            matches!(cluster.as_slice(), [a, b] if a.addr().is_ipv4() == b.addr().is_ipv4());
        if cluster.is_empty() || cluster.len() > 2 || twice {
            let list: Vec<_> = cluster.iter().map(ToString::to_string).collect();
            return Err(Error::Config(format!(
                "cluster CIDRs {:?} are not one range, or one of each family; hint: give one IPv4 \
                 range, one IPv6 range, or both",
                list.join(",")
            )));
        }
        let range = |cluster: IpNet| {
            let mask = match cluster {
                IpNet::V4(_) => config.node_cidr_mask_ipv4,
                IpNet::V6(_) => config.node_cidr_mask_ipv6,
            };
            Range::new(cluster, mask)
        };
        cluster.into_iter().map(range).collect::<Result<_>>().map(Self)
    }

    /// Of each range the lowest slice that overlaps none of `used`; nothing when one is used up.
    pub(super) fn allocate(&self, used: &BTreeSet<IpNet>) -> Option<Vec<IpNet>> {
        self.0.iter().map(|range| range.allocate(used)).collect()
    }
}

/// The slices of one range.
#[derive(Clone, Copy, Debug)]
struct Range {
    cluster: IpNet,
    mask: u8,
}

impl Range {
    fn new(cluster: IpNet, mask: u8) -> Result<Self> {
        if mask < cluster.prefix_len() || mask > cluster.max_prefix_len() {
            return Err(Error::Config(format!(
                "a node's pod CIDR of /{mask} cannot be cut from cluster CIDR {cluster}; \
                 hint: the node CIDR mask must be between {} and {}",
                cluster.prefix_len(),
                cluster.max_prefix_len()
            )));
        }
        Ok(Self { cluster, mask })
    }

    fn allocate(&self, used: &BTreeSet<IpNet>) -> Option<IpNet> {
        let overlaps = |slice: &IpNet| used.iter().any(|u| u.contains(slice) || slice.contains(u));
        self.cluster.subnets(self.mask).ok()?.find(|slice| !overlaps(slice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(cluster: &str, mask: u8) -> Result<Range> {
        Range::new(cluster.parse().unwrap(), mask)
    }

    fn ranges(cluster: &[&str]) -> Result<Ranges> {
        Ranges::of(&Config::new(cluster.iter().map(|cidr| cidr.parse().unwrap()), ""))
    }

    fn nets(list: &[&str]) -> BTreeSet<IpNet> {
        list.iter().map(|n| n.parse().unwrap()).collect()
    }

    #[test]
    fn a_slice_of_each_range_is_given_in_their_order_or_none() {
        let both = ranges(&["10.244.0.0/16", "fd00:10:244::/48"]).unwrap();
        let given = |ranges: &Ranges, used: &[&str]| {
            let slices = ranges.allocate(&nets(used))?;
            Some(slices.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(given(&both, &[]).unwrap(), ["10.244.0.0/24", "fd00:10:244::/64"]);
        let used = ["10.244.0.0/24", "fd00:10:244::/64", "fd00:10:244:1::/64"];
        assert_eq!(given(&both, &used).unwrap(), ["10.244.1.0/24", "fd00:10:244:2::/64"]);
        let turned = ranges(&["fd00:10:244::/48", "10.244.0.0/16"]).unwrap();
        assert_eq!(given(&turned, &[]).unwrap(), ["fd00:10:244::/64", "10.244.0.0/24"]);
        let narrow = ranges(&["10.244.0.0/16", "fd00:10:244::/64"]).unwrap();
        assert_eq!(given(&narrow, &["fd00:10:244::/64"]), None);
    }

    #[test]
    fn ranges_of_one_family_are_refused_with_a_hint() {
        for list in [
            &[][..],
            &["10.244.0.0/16", "10.245.0.0/16"],
            &["fd00::/48", "fd01::/48"],
            &["10.244.0.0/16", "fd00::/48", "10.245.0.0/16"],
        ] {
            let error = ranges(list).unwrap_err().to_string();
            assert!(error.contains("hint:"), "{error}");
        }
    }

    #[test]
    fn the_lowest_free_slice_is_given() {
        let range = range("10.244.0.0/16", 24).unwrap();
        assert_eq!(range.allocate(&nets(&[])), Some("10.244.0.0/24".parse().unwrap()));
        let used = nets(&["10.244.0.0/24", "10.244.2.0/24"]);
        assert_eq!(range.allocate(&used), Some("10.244.1.0/24".parse().unwrap()));
    }

    #[test]
    fn a_larger_cidr_set_by_hand_is_respected() {
        let range = range("10.244.0.0/16", 24).unwrap();
        let used = nets(&["10.244.0.0/22"]);
        assert_eq!(range.allocate(&used), Some("10.244.4.0/24".parse().unwrap()));
    }

    #[test]
    fn an_exhausted_range_gives_nothing() {
        let range = range("10.244.0.0/23", 24).unwrap();
        assert_eq!(range.allocate(&nets(&["10.244.0.0/24", "10.244.1.0/24"])), None);
    }

    #[test]
    fn ipv6_ranges_work_alike() {
        let range = range("fd00:10:244::/56", 64).unwrap();
        let used = nets(&["fd00:10:244::/64"]);
        assert_eq!(range.allocate(&used), Some("fd00:10:244:1::/64".parse().unwrap()));
    }

    #[test]
    fn a_mask_outside_the_range_is_refused_with_a_hint() {
        let error = range("10.244.0.0/16", 8).unwrap_err().to_string();
        assert!(error.contains("hint:"), "{error}");
    }
}
