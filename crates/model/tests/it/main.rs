//! What must hold for any objects and any order of events.

#[cfg(test)]
mod properties;
#[cfg(test)]
mod table;
