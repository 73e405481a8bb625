//! The types as server-side apply sees them: what is owned whole and what is taken apart.

use portolan_patch::apply::{Field, FieldSchema, Shape};

use super::types::{Type, Types};
use crate::kinds::Kind;

/// A type, and how a value at its place is owned. Two words: no look-up by name on the way but that
/// of the field itself.
#[derive(Clone, Copy, Debug)]
pub struct OwnedType {
    type_: &'static Type,
    shape: Shape,
}

/// The type of a kind's objects.
pub fn owned_type(kind: &Kind) -> OwnedType {
    static ANY: Type = Type::Any;
    let type_ = Types::get().component(kind.schema).unwrap_or(&ANY);
    OwnedType { type_, shape: type_.shape() }
}

impl FieldSchema for OwnedType {
    fn shape(self) -> Shape {
        match self.type_ {
            Type::Struct(index) if Types::get().structure(*index).is_atomic => Shape::Leaf,
            _ => self.shape,
        }
    }

    fn field(self, name: &str) -> Option<Field<Self>> {
        let Type::Struct(index) = self.type_ else { return None };
        let (type_, ownership) = Types::get().structure(*index).owned_field(name)?;
        let schema = OwnedType { type_, shape: ownership.shape };
        Some(Field { schema, always: ownership.always })
    }

    fn item(self) -> Option<Self> {
        match self.type_ {
            Type::List(item) | Type::Map(item) => {
                Some(OwnedType { type_: item, shape: item.shape() })
            }
            _ => None,
        }
    }
}
