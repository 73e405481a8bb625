//! JSON patch, merge patch, strategic merge patch and server-side apply on values, by schema.
//!
//! Pure: a value and a patch give a value or a refusal, and the original is never touched. What a
//! strategic merge needs to know of types comes in through [`MergeSchema`].

pub mod apply;
mod json;
mod strategic;

pub use json::{MAX_OPERATIONS, json_patch, merge_patch};
pub use strategic::strategic_merge;

/// A field that identifies the items of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeKey {
    /// Name of the field in each item.
    pub field: &'static str,
    /// Value that an item without the field has.
    pub default: Option<&'static str>,
}

/// How a list is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListMerge {
    /// The patch's list replaces the old one.
    Atomic,
    /// Items with equal keys are merged. The first key is the one that clients know.
    ByKey(&'static [MergeKey]),
    /// A set of primitives: union.
    Set,
}

/// What a strategic merge asks of a type's schema.
pub trait MergeSchema {
    /// How the list at `path` is merged. The path holds the field names (and map keys) from the
    /// object's root; items of lists add nothing to it.
    fn list(&self, path: &[&str]) -> ListMerge;
}

/// Why a patch was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatchError {
    /// The patch itself is malformed: BadRequest.
    #[error("{0}")]
    Malformed(String),
    /// The patch cannot be applied to this object: Invalid.
    #[error("{0}")]
    Unprocessable(String),
    /// The patch asks for more work than is allowed: RequestEntityTooLarge.
    #[error("{0}")]
    TooLarge(String),
}
