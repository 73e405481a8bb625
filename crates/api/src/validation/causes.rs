//! Collecting causes, and the paths that name their fields. A path lives on the stack, linked to
//! its parent, and becomes text only when something is wrong.

use std::fmt;

use serde_json::Value;

use super::formats;
use crate::cause::{Cause, Reason};
use crate::fields::{Fields, same};

/// The way to a field.
#[derive(Clone, Copy)]
pub(super) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    pub(super) fn new(field: &'a str) -> Self {
        Self { parent: None, step: Step::Field(field) }
    }

    pub(super) fn child(&'a self, field: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Field(field) }
    }

    pub(super) fn index(&'a self, index: usize) -> Self {
        Self { parent: Some(self), step: Step::Index(index) }
    }

    pub(super) fn key(&'a self, key: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match (self.step, self.parent) {
            (Step::Field(field), None) => f.write_str(field),
            (Step::Field(field), Some(_)) => write!(f, ".{field}"),
            (Step::Index(index), _) => write!(f, "[{index}]"),
            (Step::Key(key), _) => write!(f, "[{key}]"),
        }
    }
}

/// The causes found so far; the methods are named like upstream's constructors in `field`.
#[derive(Default)]
pub(super) struct Causes(Vec<Cause>);

impl Causes {
    pub(super) fn into_inner(self) -> Vec<Cause> {
        self.0
    }

    fn push(&mut self, reason: Reason, path: &Path<'_>, message: String) {
        self.0.push(Cause { reason, message, field: path.to_string() });
    }

    pub(super) fn required(&mut self, path: &Path<'_>, detail: &str) {
        let colon = if detail.is_empty() { "" } else { ": " };
        self.push(Reason::Required, path, format!("Required value{colon}{detail}"));
    }

    pub(super) fn invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: &str) {
        // Value's Display is JSON, which quotes text as Go's %q does.
        let value: Value = value.into();
        self.push(Reason::Invalid, path, format!("Invalid value: {value}: {detail}"));
    }

    pub(super) fn duplicate(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        let value: Value = value.into();
        self.push(Reason::Duplicate, path, format!("Duplicate value: {value}"));
    }

    /// As [`Causes::duplicate`], of a value whose fields upstream shows in an order of its own.
    pub(super) fn duplicate_json(&mut self, path: &Path<'_>, json: &str) {
        self.push(Reason::Duplicate, path, format!("Duplicate value: {json}"));
    }

    pub(super) fn not_found(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        let value: Value = value.into();
        self.push(Reason::NotFound, path, format!("Not found: {value}"));
    }

    pub(super) fn forbidden(&mut self, path: &Path<'_>, detail: &str) {
        self.push(Reason::Forbidden, path, format!("Forbidden: {detail}"));
    }

    pub(super) fn too_long(&mut self, path: &Path<'_>, bytes: usize) {
        let message = format!("Too long: may not be more than {bytes} bytes");
        self.push(Reason::TooLong, path, message);
    }

    pub(super) fn too_many(&mut self, path: &Path<'_>, count: usize, most: usize) {
        let message = format!("Too many: {count}: must have at most {most} items");
        self.push(Reason::TooMany, path, message);
    }

    pub(super) fn not_supported(&mut self, path: &Path<'_>, value: &str, supported: &[&str]) {
        self.not_supported_value(path, &value.into(), supported);
    }

    /// As [`Causes::not_supported`], of a value that is no text.
    pub(super) fn not_supported_value(
        &mut self,
        path: &Path<'_>,
        value: &Value,
        supported: &[&str],
    ) {
        let supported: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let message =
            format!("Unsupported value: {value}: supported values: {}", supported.join(", "));
        self.push(Reason::NotSupported, path, message);
    }

    /// Each message about one value.
    pub(super) fn all(&mut self, path: &Path<'_>, value: &str, messages: Vec<String>) {
        for message in messages {
            self.invalid(path, value, &message);
        }
    }

    /// A word out of a list, which must be given.
    pub(super) fn one_of(&mut self, path: &Path<'_>, value: &str, supported: &[&str]) {
        if value.is_empty() {
            self.required(path, "");
        } else {
            self.one_of_or_empty(path, value, supported);
        }
    }

    pub(super) fn one_of_or_empty(&mut self, path: &Path<'_>, value: &str, supported: &[&str]) {
        if !value.is_empty() && !supported.contains(&value) {
            self.not_supported(path, value, supported);
        }
    }

    pub(super) fn non_negative(&mut self, parent: &Path<'_>, object: &Value, field: &str) {
        if object.number(field) < 0 {
            self.invalid(&parent.child(field), object.number(field), formats::NEGATIVE);
        }
    }

    pub(super) fn port_number(&mut self, path: &Path<'_>, port: i64) {
        if !(1..=65535).contains(&port) {
            self.invalid(path, port, formats::PORT_RANGE);
        }
    }

    pub(super) fn immutable(&mut self, path: &Path<'_>, new: &Value, old: &Value) {
        if !same(new, old) {
            self.invalid(path, new.clone(), formats::IMMUTABLE);
        }
    }
}
