//! Puts the resource version into an object's text without taking it apart.

/// Bytes of a resource version with its name.
const LONGEST_MEMBER: usize = 44;

/// Appends the text with `metadata.resourceVersion`; without it for revision zero, or if the object has no metadata to
/// put it in. The stored text never has one of its own.
pub(super) fn append(json: &[u8], revision: u64, to: &mut Vec<u8>) {
    let place = (revision != 0).then(|| metadata_body(json)).flatten();
    let (head, tail) = json.split_at(place.unwrap_or(0));
    to.reserve(json.len() + LONGEST_MEMBER);
    to.extend_from_slice(head);
    if place.is_some() {
        let comma = if tail.first() == Some(&b'}') { "" } else { "," };
        to.extend_from_slice(format!("\"resourceVersion\":\"{revision}\"{comma}").as_bytes());
    }
    to.extend_from_slice(tail);
}

/// The place behind `"metadata":{` at the top of compact JSON.
fn metadata_body(json: &[u8]) -> Option<usize> {
    const MEMBER: &[u8] = b"\"metadata\":{";
    let mut at = 1;
    while json.get(at) == Some(&b'"') {
        if json[at..].starts_with(MEMBER) {
            return Some(at + MEMBER.len());
        }
        at = end_of_value(json, end_of_string(json, at) + 1) + 1;
    }
    None
}

/// The place behind a string that begins at `at`.
fn end_of_string(json: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    json.len()
}

/// The place of the comma or brace that ends the value at `at`.
fn end_of_value(json: &[u8], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => {
                at = end_of_string(json, at);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b',' | b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn with_version(json: &[u8], revision: u64) -> String {
        let mut text = Vec::new();
        append(json, revision, &mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_version_is_put_into_the_top_metadata_and_nothing_else_changes() {
        let cases = [
            json!({"metadata": {}}),
            json!({"metadata": {"name": "a"}, "spec": {"metadata": {"name": "b"}}}),
            json!({"data": {"metadata": {"x": 1}, "q": "\"metadata\":{"}, "metadata": {"name": "a"}}),
            json!({"a": "\\", "b": ["}", {"c": "\\\""}], "kind": null, "metadata": {"labels": {}}, "z": 1.5}),
            json!({"b": true, "a": [[], {}], "metadata": {"name": "ä"}}),
        ];
        for case in cases {
            let mut expected = case.clone();
            expected["metadata"]["resourceVersion"] = "17".into();
            let text = with_version(case.to_string().as_bytes(), 17);
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected, "{case}");
            assert_eq!(with_version(case.to_string().as_bytes(), 0), case.to_string());
        }
    }

    #[test]
    fn what_has_no_metadata_stays_as_it_is() {
        for text in
            ["{}", "null", "[]", "\"x\"", r#"{"metadata":null}"#, r#"{"a":{"metadata":{}}}"#]
        {
            assert_eq!(with_version(text.as_bytes(), 17), text);
        }
    }
}
