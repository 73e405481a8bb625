//! Plans carried out by a model of the kernel, and by kernels that have IPVS.

#[cfg(test)]
mod agreement;
#[cfg(test)]
#[path = "../../../../tests/support/changes.rs"]
mod changes;
#[cfg(test)]
mod effort;
#[cfg(test)]
#[path = "../../../backend-nftables/tests/it/lab.rs"]
#[expect(dead_code, reason = "tests of mode nftables use more of it")]
mod lab;
#[cfg(test)]
mod machine;
#[cfg(test)]
#[path = "../../../backend-nftables/tests/it/objects.rs"]
#[expect(dead_code, reason = "tests of mode nftables use more of it")]
mod objects;
#[cfg(test)]
#[path = "../../../../tests/support/random.rs"]
mod random;
#[cfg(test)]
mod vm;
