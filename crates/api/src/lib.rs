//! Kinds, defaulting, validation and the schema of the objects that Portolan serves.

pub mod alloc;
pub mod autoscalers;
pub mod cause;
pub mod defaults;
pub mod events;
mod fields;
pub mod kinds;
pub mod printers;
pub mod schema;
pub mod strategy;
pub mod validation;

pub use cause::{Cause, Reason};
pub use defaults::defaults;
pub use kinds::Kind;
pub use validation::{validate_create, validate_update};
