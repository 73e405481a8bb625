//! A kernel without IPVS says so.

use portolan_netlink::ipvs::{IpvsError, Socket};

use crate::netns::in_netns;

#[test]
fn a_kernel_without_ipvs_says_so() {
    in_netns("a_kernel_without_ipvs_says_so", || match Socket::open() {
        // This one has it: the suite `vm` is about that.
        Ok(_) => {}
        Err(e @ IpvsError::NoIpvs) => {
            assert_eq!(e.to_string(), "this kernel has no IPVS; hint: load the module ip_vs");
        }
        Err(e) => panic!("{e:?}"),
    });
}
