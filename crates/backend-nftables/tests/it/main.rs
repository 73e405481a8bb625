//! Plans carried out by a model of the kernel and by the kernel itself, the latter in anonymous
//! network namespaces.

#[cfg(test)]
mod agreement;
#[cfg(test)]
#[cfg(test)]
mod lab;
#[cfg(test)]
mod load;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod objects;
#[cfg(test)]
mod traffic;
