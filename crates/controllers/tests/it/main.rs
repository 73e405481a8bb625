//! The controllers on the embedded API server.

#[cfg(test)]
mod cluster;
#[cfg(test)]
mod deletion;
#[cfg(test)]
mod endpoints;
#[cfg(test)]
mod kubectl;
#[cfg(test)]
mod services;
#[cfg(test)]
mod workloads;
#[cfg(test)]
mod world;
