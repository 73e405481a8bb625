//! Plans carried out by a model of the kernel and by the kernel itself, the latter in anonymous
//! network namespaces.

#[cfg(test)]
mod agreement;
#[cfg(test)]
mod census;
#[cfg(test)]
#[path = "../../../../tests/support/changes.rs"]
mod changes;
#[cfg(test)]
mod effort;
#[cfg(test)]
mod invalid;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod load;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod mutations;
#[cfg(test)]
mod objects;
#[cfg(test)]
#[path = "../../../../tests/support/random.rs"]
mod random;
#[cfg(test)]
mod sample;
#[cfg(test)]
mod sctp;
#[cfg(test)]
mod traffic;
