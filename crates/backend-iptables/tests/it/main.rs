//! Plans carried out by a model of the kernel, and by programs that are not what they should be.

#[cfg(test)]
mod agreement;
#[cfg(test)]
#[path = "../../../../tests/support/changes.rs"]
mod changes;
#[cfg(test)]
mod effort;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod kernel;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod mutations;
#[cfg(test)]
mod objects;
#[cfg(test)]
mod programs;
#[cfg(test)]
#[path = "../../../../tests/support/random.rs"]
mod random;
