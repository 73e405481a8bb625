//! Label and field selectors of list, watch and deletecollection.
//!
//! The grammar and messages of label selectors follow `apimachinery/pkg/labels`, those of field selectors
//! `apimachinery/pkg/fields`; which fields a kind can be selected by follows its registry's conversion function.

use portolan_api::Kind;
use portolan_api::kinds::Scope;
use serde_json::Value;

use crate::status::{Result, Status};

/// A conjunction of requirements on labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LabelSelector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    Greater(i64),
    Less(i64),
}

impl LabelSelector {
    pub(crate) fn parse(text: &str) -> Result<LabelSelector, String> {
        let mut lexer = Lexer { rest: text };
        let mut requirements = Vec::new();
        loop {
            match lexer.peek() {
                Token::End if requirements.is_empty() => break,
                Token::Word(_) | Token::Symbol("!") => {
                    let requirement = requirement(&mut lexer)
                        .map_err(|e| format!("unable to parse requirement: {e}"))?;
                    requirements.push(requirement);
                    match lexer.next() {
                        Token::End => break,
                        Token::Symbol(",") => match lexer.peek() {
                            Token::Word(_) | Token::Symbol("!") => {}
                            other => {
                                return Err(format!(
                                    "found '{}', expected: identifier after ','",
                                    other.text()
                                ));
                            }
                        },
                        other => {
                            return Err(format!(
                                "found '{}', expected: ',' or 'end of string'",
                                other.text()
                            ));
                        }
                    }
                }
                other => {
                    return Err(format!(
                        "found '{}', expected: !, identifier, or 'end of string'",
                        other.text()
                    ));
                }
            }
        }
        Ok(LabelSelector(requirements))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"].get(key).and_then(Value::as_str);
        self.0.iter().all(|r| match (&r.test, label(&r.key)) {
            (Test::Exists, found) => found.is_some(),
            (Test::Absent, found) => found.is_none(),
            (Test::In(values), found) => found.is_some_and(|v| values.iter().any(|w| w == v)),
            (Test::NotIn(values), found) => !found.is_some_and(|v| values.iter().any(|w| w == v)),
            (Test::Greater(bound), found) => {
                found.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v > *bound)
            }
            (Test::Less(bound), found) => {
                found.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v < *bound)
            }
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'a str),
    End,
}

impl<'a> Token<'a> {
    fn text(self) -> &'a str {
        match self {
            Token::Word(text) | Token::Symbol(text) => text,
            Token::End => "",
        }
    }
}

struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    fn scan(&self) -> (Token<'a>, &'a str) {
        const SYMBOLS: &str = "=!(),<>";
        let rest = self.rest.trim_start();
        if rest.is_empty() {
            return (Token::End, rest);
        }
        for symbol in ["==", "!=", "=", "!", "(", ")", ",", "<", ">"] {
            if let Some(after) = rest.strip_prefix(symbol) {
                return (Token::Symbol(&rest[..symbol.len()]), after);
            }
        }
        let end =
            rest.find(|c: char| c.is_whitespace() || SYMBOLS.contains(c)).unwrap_or(rest.len());
        (Token::Word(&rest[..end]), &rest[end..])
    }

    fn peek(&self) -> Token<'a> {
        self.scan().0
    }

    fn next(&mut self) -> Token<'a> {
        let (token, rest) = self.scan();
        self.rest = rest;
        token
    }

    /// A value may be empty: `a=` and `a in (x,)`.
    fn value(&mut self) -> Result<String, String> {
        match self.peek() {
            Token::Word(word) => {
                self.next();
                check_label_value(word)?;
                Ok(word.to_owned())
            }
            Token::End | Token::Symbol("," | ")") => Ok(String::new()),
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }
}

fn requirement(lexer: &mut Lexer<'_>) -> Result<Requirement, String> {
    let absent = lexer.peek() == Token::Symbol("!");
    if absent {
        lexer.next();
    }
    let key = match lexer.next() {
        Token::Word(word) => word.to_owned(),
        other => return Err(format!("found '{}', expected: identifier", other.text())),
    };
    check_label_key(&key)?;
    if absent {
        return Ok(Requirement { key, test: Test::Absent });
    }
    let test = match lexer.peek() {
        Token::End | Token::Symbol(",") => Test::Exists,
        operator => {
            lexer.next();
            match operator.text() {
                "=" | "==" => Test::In(vec![lexer.value()?]),
                "!=" => Test::NotIn(vec![lexer.value()?]),
                "in" => Test::In(values(lexer)?),
                "notin" => Test::NotIn(values(lexer)?),
                ">" => Test::Greater(bound(lexer)?),
                "<" => Test::Less(bound(lexer)?),
                other => {
                    return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt"));
                }
            }
        }
    };
    Ok(Requirement { key, test })
}

fn values(lexer: &mut Lexer<'_>) -> Result<Vec<String>, String> {
    match lexer.next() {
        Token::Symbol("(") => {}
        other => return Err(format!("found '{}' expected: '('", other.text())),
    }
    let mut values = vec![lexer.value()?];
    loop {
        match lexer.next() {
            Token::Symbol(",") => values.push(lexer.value()?),
            Token::Symbol(")") => return Ok(values),
            other => return Err(format!("found '{}', expected: ')'", other.text())),
        }
    }
}

fn bound(lexer: &mut Lexer<'_>) -> Result<i64, String> {
    let value = lexer.value()?;
    value.parse().map_err(|_| {
        format!("values[0]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer")
    })
}

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    !text.is_empty()
        && text.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn check_label_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    if is_name(name) && prefix.is_none_or(|p| !p.is_empty() && p.len() <= 253) {
        return Ok(());
    }
    Err(format!(
        "key: Invalid value: {key:?}: name part must consist of alphanumeric characters, '-', '_' \
         or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or \
         'my.name',  or '123-abc', regex used for validation is \
         '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
    ))
}

fn check_label_value(value: &str) -> Result<(), String> {
    if is_name(value) {
        return Ok(());
    }
    Err(format!(
        "values[0][{value}]: Invalid value: {value:?}: a valid label must be an empty string or \
         consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
         alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
         validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
    ))
}

/// A conjunction of equalities and inequalities on fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSelector(Vec<(String, Comparison, String)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
}

impl FieldSelector {
    pub(crate) fn parse(text: &str) -> Result<FieldSelector, String> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let found = ["!=", "==", "="]
                .iter()
                .filter_map(|op| part.find(op).map(|at| (at, *op)))
                .min_by_key(|(at, op)| (*at, std::cmp::Reverse(op.len())));
            let Some((at, operator)) = found else {
                return Err(format!("invalid selector: '{text}'; can't understand '{part}'"));
            };
            let comparison =
                if operator == "!=" { Comparison::NotEqual } else { Comparison::Equal };
            let value = unescape(&part[at + operator.len()..])?;
            terms.push((part[..at].to_owned(), comparison, value));
        }
        Ok(FieldSelector(terms))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Only the object of this name.
    pub(crate) fn and_name(mut self, name: &str) -> FieldSelector {
        self.0.push(("metadata.name".into(), Comparison::Equal, name.to_owned()));
        self
    }

    /// The one name that an object must have, where a term asks for one.
    pub(crate) fn name(&self) -> Option<&str> {
        let mut terms = self.0.iter();
        let (.., name) = terms.find(|(f, c, _)| f == "metadata.name" && *c == Comparison::Equal)?;
        Some(name.as_str()).filter(|name| !name.is_empty())
    }

    /// The one value that a field must have, if the selector says so.
    pub(crate) fn exactly(&self, field: &str) -> Option<&str> {
        let mut equal = self.0.iter().filter(|(f, c, _)| f == field && *c == Comparison::Equal);
        equal.next().map(|(_, _, value)| value.as_str())
    }

    /// Refuses fields that the kind cannot be selected by.
    pub(crate) fn check(&self, kind: &Kind) -> Result<()> {
        let own = own_fields(kind);
        for (field, ..) in &self.0 {
            let known = field == "metadata.name"
                || (field == "metadata.namespace" && kind.scope == Scope::Namespaced)
                || own.iter().any(|(name, _)| name == field);
            if known {
                continue;
            }
            return Err(Status::bad_request(if own.is_empty() {
                format!(
                    "{field:?} is not a known field selector: only \"metadata.name\", \
                     \"metadata.namespace\""
                )
            } else if kind.plural == "jobs" {
                format!("field label {field:?} not supported for Job")
            } else {
                format!("field label not supported: {field}")
            }));
        }
        Ok(())
    }

    /// `object` is in the stored form of its kind.
    pub(crate) fn matches(&self, kind: &Kind, object: &Value) -> bool {
        self.0.iter().all(|(field, comparison, wanted)| {
            let found = field_value(kind, object, field);
            (found == *wanted) == (*comparison == Comparison::Equal)
        })
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn unescape(text: &str) -> Result<String, String> {
    let mut value = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => value.push(next),
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    return Err(format!(
                        "invalid field selector: invalid escape sequence: {sequence}"
                    ));
                }
            },
            ',' | '=' => {
                return Err(format!("invalid field selector: unescaped character in value: {c}"));
            }
            c => value.push(c),
        }
    }
    Ok(value)
}

/// Field labels of a kind beside the metadata, with the JSON pointer into the stored object.
fn own_fields(kind: &Kind) -> &'static [(&'static str, &'static str)] {
    match (kind.group, kind.plural) {
        ("", "pods") => &[
            ("spec.nodeName", "/spec/nodeName"),
            ("spec.restartPolicy", "/spec/restartPolicy"),
            ("spec.schedulerName", "/spec/schedulerName"),
            ("spec.serviceAccountName", "/spec/serviceAccountName"),
            ("spec.hostNetwork", "/spec/hostNetwork"),
            ("status.phase", "/status/phase"),
            ("status.podIP", "/status/podIP"),
            ("status.podIPs", "/status/podIP"),
            ("status.nominatedNodeName", "/status/nominatedNodeName"),
        ],
        ("", "events") => &[
            ("involvedObject.kind", "/involvedObject/kind"),
            ("involvedObject.namespace", "/involvedObject/namespace"),
            ("involvedObject.name", "/involvedObject/name"),
            ("involvedObject.uid", "/involvedObject/uid"),
            ("involvedObject.apiVersion", "/involvedObject/apiVersion"),
            ("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
            ("involvedObject.fieldPath", "/involvedObject/fieldPath"),
            ("reason", "/reason"),
            ("reportingComponent", "/reportingComponent"),
            ("source", "/source/component"),
            ("type", "/type"),
        ],
        ("events.k8s.io", "events") => &[
            ("regarding.kind", "/involvedObject/kind"),
            ("regarding.namespace", "/involvedObject/namespace"),
            ("regarding.name", "/involvedObject/name"),
            ("regarding.uid", "/involvedObject/uid"),
            ("regarding.apiVersion", "/involvedObject/apiVersion"),
            ("regarding.resourceVersion", "/involvedObject/resourceVersion"),
            ("regarding.fieldPath", "/involvedObject/fieldPath"),
            ("reason", "/reason"),
            ("reportingController", "/reportingComponent"),
            ("type", "/type"),
        ],
        ("", "services") => &[("spec.clusterIP", "/spec/clusterIP"), ("spec.type", "/spec/type")],
        ("", "secrets") => &[("type", "/type")],
        ("", "nodes") => &[("spec.unschedulable", "/spec/unschedulable")],
        ("", "namespaces") => &[("status.phase", "/status/phase"), ("name", "/metadata/name")],
        ("", "replicationcontrollers") | ("apps", "replicasets") => {
            &[("status.replicas", "/status/replicas")]
        }
        ("batch", "jobs") => &[("status.successful", "/status/succeeded")],
        ("certificates.k8s.io", _) => &[("spec.signerName", "/spec/signerName")],
        _ => &[],
    }
}

fn field_value(kind: &Kind, object: &Value, field: &str) -> String {
    let pointer = match field {
        "metadata.name" => "/metadata/name",
        "metadata.namespace" => "/metadata/namespace",
        other => own_fields(kind).iter().find(|(n, _)| *n == other).map_or("", |(_, p)| p),
    };
    match object.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => zero(field).into(),
        Some(other) => other.to_string(),
    }
}

/// How Go writes a field that is not there.
fn zero(field: &str) -> &'static str {
    match field {
        "spec.hostNetwork" | "spec.unschedulable" => "false",
        "status.replicas" | "status.successful" => "0",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selects(text: &str, labels: Value) -> bool {
        LabelSelector::parse(text).unwrap().matches(&json!({"metadata": {"labels": labels}}))
    }

    #[test]
    fn every_operator_selects() {
        let labels = || json!({"app": "web", "n": "5"});
        for yes in [
            "",
            "app",
            "app=web",
            "app==web",
            "app!=x",
            "app in (web, x)",
            "!b",
            "n>4",
            "n<6",
            "app notin (a,b),n",
            "b notin (x)",
            "b!=x",
        ] {
            assert!(selects(yes, labels()), "{yes}");
        }
        for no in ["!app", "app=x", "app in (x)", "b", "n>5", "app notin (web)", "app="] {
            assert!(!selects(no, labels()), "{no}");
        }
    }

    #[test]
    fn bad_label_selectors_say_what_was_found() {
        let error = |text: &str| LabelSelector::parse(text).unwrap_err();
        assert_eq!(error("a in"), "unable to parse requirement: found '' expected: '('");
        assert_eq!(error("a,"), "found '', expected: identifier after ','");
        assert_eq!(
            error("a b"),
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"
        );
        assert!(error("-a=b").contains("name part must consist of"));
    }

    #[test]
    fn field_selectors_compare_and_unescape() {
        let pods = FieldSelector::parse("spec.nodeName=,metadata.name!=b").unwrap();
        let kind = portolan_api::kinds::by_kind("v1", "Pod").unwrap();
        assert!(pods.matches(kind, &json!({"metadata": {"name": "a"}})));
        assert!(!pods.matches(kind, &json!({"metadata": {"name": "b"}})));
        assert_eq!(
            FieldSelector::parse("a=b\\,c").unwrap().0,
            [("a".into(), Comparison::Equal, "b,c".into())]
        );
        assert_eq!(
            FieldSelector::parse("x").unwrap_err(),
            "invalid selector: 'x'; can't understand 'x'"
        );
        let status = FieldSelector::parse("spec.foo=1").unwrap().check(kind).unwrap_err();
        assert_eq!(status.message, "field label not supported: spec.foo");
    }

    proptest::proptest! {
        #[test]
        fn any_selector_is_parsed_or_refused_and_then_selects_or_not(
            text in proptest::prop_oneof!["[a-z/=!,()<> in\\\\.]{0,40}", ".{0,40}"],
            value in ".{0,10}",
        ) {
            let object = json!({"metadata": {"name": value, "labels": {"a": value}}});
            if let Ok(selector) = LabelSelector::parse(&text) {
                selector.matches(&object);
            }
            let kind = portolan_api::kinds::by_kind("v1", "Pod").unwrap();
            if let Ok(selector) = FieldSelector::parse(&text) {
                let _ = selector.check(kind);
                let selected = selector.matches(kind, &object);
                proptest::prop_assert!(!selected || selector.name().is_none_or(|n| n == value));
            }
        }
    }
}
