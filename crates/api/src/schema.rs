//! The schemas of all served types, from k8s-openapi with our overlay.
//!
//! Two forms, for two uses. [`check`] and strategic merge walk a compact tree of types
//! (`types`), built once, without descriptions. OpenAPI documents carry the descriptions; they are
//! big and rarely asked for, so [`components`] builds them anew and the caller keeps only bytes.

mod check;
mod decode;
mod merge;
mod openapi;
mod overlay;
mod ownership;
pub(crate) mod quantity;
mod types;

use std::collections::HashSet;

use serde_json::Value;

pub use self::decode::{ContentType, Decoded, decode};
pub use self::merge::{SchemaMerge, merge_schema};
pub use self::openapi::components;
pub use self::ownership::{OwnedType, owned_type};
pub use self::quantity::canonical as canonical_quantity;
use crate::kinds::Kind;

/// What to do about unknown and duplicate fields (`fieldValidation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Drop them silently.
    Ignore,
    /// Drop them and warn.
    Warn,
    /// Refuse the object.
    Strict,
}

/// More unknown and duplicate fields than these are not told of (as upstream's `sigs.k8s.io/json`).
const MOST_FINDINGS: usize = 100;

/// Why a body was refused; the text is what a Kubernetes API server puts into its BadRequest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

/// Checks types, removes nulls and unknown fields, brings quantities into canonical form; the
/// warnings are for `Warning` headers.
///
/// # Errors
/// The full BadRequest message, e.g. `Service in version "v1" cannot be handled as a Service: …`.
pub fn check(
    kind: &Kind,
    object: &mut Value,
    duplicates: &[String],
    strictness: Strictness,
) -> Result<Vec<String>, DecodeError> {
    check_component(kind.schema, object, duplicates, strictness)
}

/// As [`check`], for a type that is not a kind of the table (`Scale`, `Binding`, `DeleteOptions` …),
/// named by its component.
///
/// # Errors
/// As [`check`]; an unknown component is a mistake of the caller and is reported as such.
pub fn check_component(
    component: &str,
    object: &mut Value,
    duplicates: &[String],
    strictness: Strictness,
) -> Result<Vec<String>, DecodeError> {
    let kind = component.rsplit('.').next().unwrap_or(component);
    let version = component.rsplit('.').nth(1).unwrap_or_default();
    let refuse = |reason: &str| {
        let text = format!("{kind} in version {version:?} cannot be handled as a {kind}: {reason}");
        DecodeError(text)
    };
    let unknown = check::check(component, object).map_err(|reason| refuse(&reason))?;
    let duplicates = duplicates.iter().map(|path| format!("duplicate field {path:?}"));
    let unknown = unknown.iter().map(|path| format!("unknown field {path:?}"));
    let mut seen = HashSet::new();
    let findings: Vec<String> =
        unknown.chain(duplicates).filter(|f| seen.insert(f.clone())).take(MOST_FINDINGS).collect();
    match strictness {
        Strictness::Ignore => Ok(Vec::new()),
        Strictness::Warn => Ok(findings),
        Strictness::Strict if findings.is_empty() => Ok(findings),
        Strictness::Strict => {
            Err(refuse(&format!("strict decoding error: {}", findings.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests;
