//! `$(VAR)` in commands, arguments and values, as Kubernetes expands it.
//!
//! `$(NAME)` becomes the variable's value, or stays as it is when there is none; `$$` is a `$`,
//! so `$$(NAME)` is the literal text. Everything else stays. (Upstream: third_party/forked/golang/expansion.)

/// Expands `text` once, from left to right; values are not expanded again.
pub(crate) fn expand<'a>(text: &str, variable: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('$') {
        out.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) =
            rest.strip_prefix('(').and_then(|inside| inside.split_once(')'))
        {
            match variable(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_escaped_or_kept() {
        let variable = |name: &str| match name {
            "A" => Some("1"),
            "B" => Some("$(A)"),
            "EMPTY" => Some(""),
            _ => None,
        };
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(B)", "$(A)"),
            ("$(EMPTY)", ""),
            ("$(NONE)", "$(NONE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$", "$"),
            ("$$", "$"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("a$)b", "a$)b"),
            ("ü$(A)ü", "ü1ü"),
        ] {
            assert_eq!(expand(text, variable), expected, "{text}");
        }
    }
}
