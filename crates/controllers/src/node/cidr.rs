//! Pod CIDRs for nodes: equal slices of the cluster's range, the lowest free one first.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::{Config, Error, Result};

/// The slices of the cluster's range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    cluster: IpNet,
    mask: u8,
}

impl Range {
    /// Refuses a mask that cuts no slice out of the range.
    pub(super) fn of(config: &Config) -> Result<Self> {
        let (cluster, mask) = (config.cluster_cidr.trunc(), config.node_cidr_mask);
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

    /// The lowest slice that overlaps none of `used`.
    pub(super) fn allocate(&self, used: &BTreeSet<IpNet>) -> Option<IpNet> {
        let overlaps = |slice: &IpNet| used.iter().any(|u| u.contains(slice) || slice.contains(u));
        self.cluster.subnets(self.mask).ok()?.find(|slice| !overlaps(slice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(cluster: &str, mask: u8) -> Result<Range> {
        let mut config = Config::new(cluster.parse().unwrap(), "");
        config.node_cidr_mask = mask;
        Range::of(&config)
    }

    fn nets(list: &[&str]) -> BTreeSet<IpNet> {
        list.iter().map(|n| n.parse().unwrap()).collect()
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
