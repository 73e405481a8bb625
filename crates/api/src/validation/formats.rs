//! Formats of names and values: each function gives the messages about one text, none when it is
//! well formed (upstream: apimachinery, util/validation).

use std::net::IpAddr;

use ipnet::IpNet;

pub(super) const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";
pub(super) const IMMUTABLE: &str = "field is immutable";
pub(super) const NEGATIVE: &str = "must be greater than or equal to 0";
pub(super) const NOT_POSITIVE: &str = "must be greater than 0";

const IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

const LABEL_REGEX: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_REGEX: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const QUALIFIED_REGEX: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_VALUE_REGEX: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";

const WILDCARD_REGEX: &str = r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const HTTP_PATH_REGEX: &str = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+";

/// Upstream's RegexError, its commas included.
fn regex_error(text: &str, regex: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{text} (regex used for validation is '{regex}')");
    }
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{text} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

fn too_long(text: &str, most: usize) -> Option<String> {
    (text.len() > most).then(|| format!("must be no more than {most} bytes"))
}

fn is_lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.iter().all(|end| end.is_some_and(|byte| is_lower_alphanumeric(*byte)))
        && bytes.iter().all(|byte| is_lower_alphanumeric(*byte) || *byte == b'-')
}

fn is_name_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.iter().all(|end| end.is_some_and(|byte| byte.is_ascii_alphanumeric()))
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

pub(super) fn dns_label(text: &str) -> Vec<String> {
    let shape = (!is_label_text(text)).then(|| {
        let rule = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters \
                    or '-', and must start and end with an alphanumeric character";
        regex_error(rule, LABEL_REGEX, &["my-name", "123-abc"])
    });
    too_long(text, 63).into_iter().chain(shape).collect()
}

pub(super) fn dns_subdomain(text: &str) -> Vec<String> {
    let shape = (!text.split('.').all(is_label_text)).then(|| {
        let rule = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
                    characters, '-' or '.', and must start and end with an alphanumeric character";
        regex_error(rule, SUBDOMAIN_REGEX, &["example.com"])
    });
    too_long(text, 253).into_iter().chain(shape).collect()
}

/// `*.example.com`
pub(super) fn wildcard_dns_subdomain(text: &str) -> Vec<String> {
    let rest = text.strip_prefix("*.").unwrap_or_default();
    let shape = (!rest.split('.').all(is_label_text)).then(|| {
        let rule = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS \
                    subdomain, which must consist of lower case alphanumeric characters, '-' or \
                    '.' and end with an alphanumeric character";
        regex_error(rule, WILDCARD_REGEX, &["*.example.com"])
    });
    too_long(text, 253).into_iter().chain(shape).collect()
}

/// A name that only has to be one step of a URL's path, as names of roles are.
pub(super) fn path_segment(text: &str) -> Vec<String> {
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    let parts = ['/', '%'].into_iter().filter(|part| text.contains(*part));
    parts.map(|part| format!("may not contain '{part}'")).collect()
}

/// The path of a URL, as far as its characters go.
pub(super) fn http_path(text: &str) -> Vec<String> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    let shape = (text.is_empty() || !text.bytes().all(fine))
        .then(|| regex_error("Invalid path", HTTP_PATH_REGEX, &[]));
    shape.into_iter().collect()
}

pub(super) fn label_value(text: &str) -> Vec<String> {
    let shape = (!text.is_empty() && !is_name_text(text)).then(|| {
        let rule = "a valid label must be an empty string or consist of alphanumeric characters, \
                    '-', '_' or '.', and must start and end with an alphanumeric character";
        regex_error(rule, LABEL_VALUE_REGEX, &["MyValue", "my_value", "12345"])
    });
    too_long(text, 63).into_iter().chain(shape).collect()
}

/// A name with an optional prefix: keys of labels and annotations, and the like.
pub(super) fn qualified_name(text: &str) -> Vec<String> {
    let rule = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                with an alphanumeric character";
    let shape = || regex_error(rule, QUALIFIED_REGEX, &["MyName", "my.name", "123-abc"]);
    let parts: Vec<&str> = text.split('/').collect();
    let (prefix, name) = match parts.as_slice() {
        [name] => (None, *name),
        [prefix, name] => (Some(*prefix), *name),
        _ => {
            let end = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a qualified name {} {end}", shape())];
        }
    };
    let mut messages = Vec::new();
    match prefix {
        Some("") => messages.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => {
            messages.extend(dns_subdomain(prefix).into_iter().map(|m| format!("prefix part {m}")));
        }
        None => {}
    }
    if name.is_empty() {
        messages.push("name part must be non-empty".to_owned());
    }
    messages.extend(too_long(name, 63).map(|message| format!("name part {message}")));
    if !is_name_text(name) {
        messages.push(format!("name part {}", shape()));
    }
    messages
}

/// An IANA service name, as ports of containers have.
pub(super) fn port_name(text: &str) -> Vec<String> {
    let mut messages: Vec<String> = too_long(text, 15).into_iter().collect();
    let mut check = |fails: bool, message: &str| {
        if fails {
            messages.push(message.to_owned());
        }
    };
    let bytes = text.as_bytes();
    check(
        bytes.is_empty() || !bytes.iter().all(|b| is_lower_alphanumeric(*b) || *b == b'-'),
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    );
    check(!bytes.iter().any(u8::is_ascii_lowercase), "must contain at least one letter (a-z)");
    check(text.contains("--"), "must not contain consecutive hyphens");
    check(text.starts_with('-') || text.ends_with('-'), "must not begin or end with a hyphen");
    messages
}

/// Since 1.34 anything printable is allowed but the equals sign.
pub(super) fn env_var_name(text: &str) -> Vec<String> {
    let fine = !text.is_empty() && text.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'=');
    let rule = "a valid environment variable name must consist only of printable ASCII characters \
                other than '='";
    if fine { Vec::new() } else { vec![rule.to_owned()] }
}

pub(super) fn config_map_key(text: &str) -> Vec<String> {
    let mut messages: Vec<String> = too_long(text, 253).into_iter().collect();
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if text.is_empty() || !text.bytes().all(fine) {
        let rule = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        let examples = ["key.name", "KEY_NAME", "key-name"];
        messages.push(regex_error(rule, "[-._a-zA-Z0-9]+", &examples));
    }
    match text {
        "." => messages.push("must not be '.'".to_owned()),
        ".." => messages.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => messages.push("must not start with '..'".to_owned()),
        _ => {}
    }
    messages
}

/// An address as strict validation wants it (StrictIPCIDRValidation); IPv6 may be written in any way.
pub(super) fn ip(text: &str) -> Vec<String> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
        }
        Ok(_) => Vec::new(),
        Err(_) if without_leading_zeros(text).parse::<IpAddr>().is_ok() => {
            vec!["must not have leading 0s".to_owned()]
        }
        Err(_) => vec![IP.to_owned()],
    }
}

/// An address in the one way that is canonical, as names and newer fields must be.
pub(super) fn canonical_ip(text: &str) -> Vec<String> {
    match (ip(text), text.parse::<IpAddr>()) {
        (messages, Ok(ip)) if messages.is_empty() && ip.to_string() != text => {
            vec![format!("must be in canonical form (\"{ip}\")")]
        }
        (messages, _) => messages,
    }
}

/// What older parsers, which read 010 as ten, made of an IPv4 address.
fn without_leading_zeros(text: &str) -> String {
    let (head, quad) = text.split_at(text.rfind(':').map_or(0, |colon| colon + 1));
    let octets: Vec<&str> = quad.split('.').collect();
    let [_, _, _, _] = octets[..] else { return text.to_owned() };
    let bare = octets.iter().map(|octet| match octet.trim_start_matches('0') {
        "" if !octet.is_empty() => "0",
        bare => bare,
    });
    format!("{head}{}", bare.collect::<Vec<_>>().join("."))
}

/// Of an address that is well formed: whether it may be an endpoint or external address.
pub(super) fn non_special_ip(text: &str) -> Vec<String> {
    let Ok(ip) = text.parse::<IpAddr>() else { return vec![IP.to_owned()] };
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), matches!(ip.octets(), [224, 0, 0, _])),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] & 0xff0f == 0xff02),
    };
    let mut messages = Vec::new();
    let mut check = |fails: bool, message: &str| {
        if fails {
            messages.push(message.to_owned());
        }
    };
    check(ip.is_unspecified(), "may not be unspecified (0.0.0.0 or ::)");
    check(ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    check(link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    check(
        link_local_multicast,
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
    );
    messages
}

/// A range as strict validation wants it; IPv6 may be written in any way.
pub(super) fn cidr(text: &str) -> Vec<String> {
    let (ip, length) = text.split_once('/').unwrap_or((text, ""));
    let bare_length = match length.trim_start_matches('0') {
        "" if !length.is_empty() => "0",
        bare => bare,
    };
    let bare = format!("{}/{bare_length}", without_leading_zeros(ip));
    let message = match bare.parse::<IpNet>() {
        Err(_) => CIDR,
        Ok(_) if bare != text => "must not have leading 0s in IP or prefix length",
        Ok(IpNet::V6(net)) if net.addr().to_ipv4_mapped().is_some() => {
            "must not have an IPv4-mapped IPv6 address"
        }
        Ok(net) if net.trunc() != net => "must not have bits set beyond the prefix length",
        Ok(_) => return Vec::new(),
    };
    vec![message.to_owned()]
}

/// A range in its canonical way.
pub(super) fn canonical_cidr(text: &str) -> Vec<String> {
    match (cidr(text), text.parse::<IpNet>()) {
        (messages, Ok(net)) if messages.is_empty() && net.to_string() != text => {
            vec![format!("must be in canonical form (\"{net}\")")]
        }
        (messages, _) => messages,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains() {
        for fine in ["a", "0", "a-b", "123-abc", &"a".repeat(63)] {
            assert!(dns_label(fine).is_empty(), "{fine}");
        }
        for wrong in ["", "-a", "a-", "A", "a.b", "a_b", "é"] {
            assert_eq!(dns_label(wrong).len(), 1, "{wrong}");
        }
        assert_eq!(dns_label(&"a".repeat(64)), ["must be no more than 63 bytes"]);
        assert_eq!(
            dns_label("A")[0],
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
             and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', \
             regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        );
        for (text, fine) in [("a.b-c.d", true), ("a..b", false), (".a", false), ("a.", false)] {
            assert_eq!(dns_subdomain(text).is_empty(), fine, "{text}");
        }
    }

    #[test]
    fn qualified_names_have_at_most_one_prefix() {
        for (text, fine) in [
            ("app", true),
            ("app.kubernetes.io/name", true),
            ("MyName_1.x", true),
            ("", false),
            ("a/b/c", false),
            ("/name", false),
            ("a/", false),
            ("Upper.Case/name", false),
            ("-a", false),
        ] {
            assert_eq!(qualified_name(text).is_empty(), fine, "{text}: {:?}", qualified_name(text));
        }
    }

    #[test]
    fn values_ports_keys_and_variables() {
        assert!(label_value("").is_empty() && label_value("a_b.C-1").is_empty());
        assert!(!label_value("a b").is_empty() && !label_value("-").is_empty());
        assert!(port_name("http").is_empty() && port_name("8080-tcp").is_empty());
        for wrong in ["", "8080", "a--b", "-a", "Http", "a-very-long-name"] {
            assert!(!port_name(wrong).is_empty(), "{wrong}");
        }
        assert!(config_map_key("a.B_c-1").is_empty());
        for wrong in ["", ".", "..", "..a", "a/b"] {
            assert!(!config_map_key(wrong).is_empty(), "{wrong}");
        }
        assert!(env_var_name("A.b-1").is_empty());
        assert!(!env_var_name("A=b").is_empty() && !env_var_name("").is_empty());
    }

    #[test]
    fn addresses() {
        assert!(ip("10.0.0.1").is_empty() && ip("fd00::1").is_empty());
        for wrong in ["", "10.0.0", "010.0.0.1", "::ffff:10.0.0.1", "a", "fe80::1%eth0"] {
            assert_eq!(ip(wrong).len(), 1, "{wrong}");
        }
        for zeros in ["010.0.0.1", "10.00.0.1", "::ffff:010.0.0.1"] {
            assert_eq!(ip(zeros), ["must not have leading 0s"], "{zeros}");
        }
        assert_eq!(ip("0.0.0.0.0"), [IP]);
        assert!(ip("FD00:0::1").is_empty());
        assert_eq!(canonical_ip("FD00:0::1"), ["must be in canonical form (\"fd00::1\")"]);
        assert_eq!(canonical_ip("010.0.0.1"), ["must not have leading 0s"]);
        for (text, fine) in [
            ("8.8.8.8", true),
            ("127.0.0.1", false),
            ("::", false),
            ("fe80::1", false),
            ("224.0.0.5", false),
        ] {
            assert_eq!(non_special_ip(text).is_empty(), fine, "{text}");
        }
        assert!(cidr("10.0.0.0/8").is_empty());
        assert!(!cidr("10.0.0.1/8").is_empty() && !cidr("10.0.0.0").is_empty());
        for zeros in ["010.0.0.0/8", "10.0.0.0/08"] {
            let message = "must not have leading 0s in IP or prefix length";
            assert_eq!(cidr(zeros), [message], "{zeros}");
        }
        let mapped = cidr("::ffff:10.0.0.0/112");
        assert_eq!(mapped, ["must not have an IPv4-mapped IPv6 address"]);
        assert_eq!(cidr("10.0.0.0/33"), [CIDR]);
        assert!(cidr("FD00::/64").is_empty());
        assert_eq!(canonical_cidr("FD00::/64"), ["must be in canonical form (\"fd00::/64\")"]);
    }

    #[test]
    fn path_segments_cannot_lead_elsewhere() {
        assert!(path_segment("services").is_empty());
        assert_eq!(path_segment(".."), ["may not be '..'"]);
        assert_eq!(path_segment("a/b%c"), ["may not contain '/'", "may not contain '%'"]);
    }
}
