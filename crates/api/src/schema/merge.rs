//! The merge schema of a kind: its types, with the overlay's keys.

use portolan_patch::{ListMerge, MergeSchema};

use super::overlay;
use super::types::{Type, Types};
use crate::kinds::Kind;

/// What strategic merge asks of one component.
#[derive(Clone, Copy, Debug)]
pub struct SchemaMerge(&'static str);

/// The merge schema of a kind.
pub fn merge_schema(kind: &Kind) -> SchemaMerge {
    SchemaMerge(kind.schema)
}

impl MergeSchema for SchemaMerge {
    fn list(&self, path: &[&str]) -> ListMerge {
        let types = Types::get();
        let mut current = types.component(self.0);
        let mut found = None;
        for step in path {
            while let Some(Type::List(item)) = current {
                current = Some(&**item);
            }
            current = match current {
                Some(Type::Struct(index)) => {
                    let structure = types.structure(*index);
                    found = overlay::find(&structure.name, step);
                    structure.field(step)
                }
                Some(Type::Map(item)) => {
                    found = None;
                    Some(&**item)
                }
                _ => return ListMerge::Atomic,
            };
        }
        match (current, found) {
            (Some(Type::List(_)), Some(overlay)) if overlay.keys.is_empty() => ListMerge::Set,
            (Some(Type::List(_)), Some(overlay)) => ListMerge::ByKey(overlay.keys),
            _ => ListMerge::Atomic,
        }
    }
}
