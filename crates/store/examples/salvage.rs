//! Writes what can be read of a damaged store to a new file:
//!
//! ```sh
//! cargo run -p portolan-store --example salvage -- DAMAGED NEW
//! ```
//!
//! The damaged file is not changed. What is lost is told in numbers.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut paths = std::env::args_os().skip(1);
    let (Some(damaged), Some(new), None) = (paths.next(), paths.next(), paths.next()) else {
        return Err("usage: salvage DAMAGED NEW".into());
    };
    let found = portolan_store::salvage(Path::new(&damaged), Path::new(&new))?;
    match found.expected {
        Some(expected) => println!("{} of {expected} objects kept", found.kept),
        None => println!("{} objects kept; how many there were cannot be told", found.kept),
    }
    Ok(())
}
