//! CertificateSigningRequests (upstream: pkg/apis/certificates/validation). Of the request itself the
//! form is checked; whether its signature holds is for the signer to find out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::causes::{Causes, Path};
use super::formats;
use crate::fields::{Fields, same};
use crate::kinds::Subresource;

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

const SHORTEST: i64 = 600;
/// A host, a slash, and a namespace with a name.
const SIGNER_BYTES: usize = 571;
const ANNOUNCED: [&str; 3] = ["Approved", "Denied", "Failed"];

pub(super) fn request(causes: &mut Causes, request: &Value) {
    let (spec, path) = (&request["spec"], Path::new("spec"));
    if let Err(message) = check_request(spec.text("request")) {
        causes.invalid(&path.child("request"), spec["request"].clone(), message);
    }
    let list = path.child("usages");
    let usages = spec.items("usages");
    if usages.is_empty() {
        causes.required(&list, "");
    }
    for (index, usage) in usages.iter().enumerate() {
        let path = list.index(index);
        causes.one_of(&path, usage.as_str().unwrap_or_default(), USAGES);
        if usages[..index].contains(usage) {
            causes.duplicate(&path, usage.clone());
        }
    }
    signer_name(causes, &path.child("signerName"), spec.text("signerName"));
    if spec.has("expirationSeconds") && spec.number("expirationSeconds") < SHORTEST {
        let seconds = spec.number("expirationSeconds");
        let message = "may not specify a duration less than 600 seconds (10 minutes)";
        causes.invalid(&path.child("expirationSeconds"), seconds, message);
    }
    conditions(causes, request["status"].items("conditions"));
}

/// PEM of the right type around one DER sequence.
fn check_request(encoded: &str) -> Result<(), &'static str> {
    const TYPE: &str = "PEM block type must be CERTIFICATE REQUEST";
    const BEGIN: &str = "-----BEGIN CERTIFICATE REQUEST-----";
    const END: &str = "-----END CERTIFICATE REQUEST-----";
    let text = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.ok_or(TYPE)?;
    let (_, rest) = text.split_once(BEGIN).ok_or(TYPE)?;
    let (block, _) = rest.split_once(END).ok_or(TYPE)?;
    let base64: String = block.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let der = STANDARD.decode(base64).map_err(|_| TYPE)?;
    if is_one_sequence(&der) { Ok(()) } else { Err("asn1: structure error") }
}

/// A DER SEQUENCE that takes up all the bytes.
fn is_one_sequence(der: &[u8]) -> bool {
    let [0x30, first, rest @ ..] = der else { return false };
    let count = usize::from(first & 0x7f);
    let length = match first {
        0..=0x7f => Some((count, rest)),
        0x81..=0x84 => rest.split_at_checked(count).map(|(length, rest)| {
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }),
        _ => None,
    };
    length.is_some_and(|(length, rest)| length > 0 && length == rest.len())
}

fn signer_name(causes: &mut Causes, path: &Path<'_>, name: &str) {
    if name.is_empty() {
        return causes.required(path, "");
    }
    if name.len() > SIGNER_BYTES {
        causes.too_long(path, SIGNER_BYTES);
    }
    let [domain, rest] = name.split('/').collect::<Vec<_>>()[..] else {
        let message = "must be a fully qualified domain and path of the form \
                       'example.com/signer-name'";
        return causes.invalid(path, name, message);
    };
    causes.all(path, domain, formats::dns_subdomain(domain));
    if !domain.contains('.') {
        causes.invalid(
            path,
            domain,
            "should be a domain with at least two segments separated by dots",
        );
    }
    if rest.is_empty() {
        causes.invalid(path, name, "validation-of-path must not be empty");
    } else {
        causes.all(path, rest, formats::dns_subdomain(rest));
    }
}

fn conditions(causes: &mut Causes, conditions: &[Value]) {
    let status = Path::new("status");
    let list = status.child("conditions");
    for (index, condition) in conditions.iter().enumerate() {
        let path = list.index(index);
        let kind = condition.text("type");
        if kind.is_empty() {
            causes.required(&path.child("type"), "");
        }
        let statuses: &[&str] =
            if ANNOUNCED.contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        causes.one_of(&path.child("status"), condition.text("status"), statuses);
        let before = |wanted: &str| conditions[..index].iter().any(|c| c.text("type") == wanted);
        if (kind == "Approved" && before("Denied")) || (kind == "Denied" && before("Approved")) {
            let message = "Approved and Denied conditions are mutually exclusive";
            causes.invalid(&path.child("type"), kind, message);
        }
        if before(kind) {
            causes.duplicate(&path.child("type"), kind);
        }
    }
}

/// What changes is decided by which part is written: approvals by `approval`, the certificate by
/// `status`.
pub(super) fn request_update(
    causes: &mut Causes,
    part: Option<Subresource>,
    new: &Value,
    old: &Value,
) {
    let status = Path::new("status");
    let list = status.child("conditions");
    let of = |request: &Value, kind: &str| -> Vec<Value> {
        let all = request["status"].items("conditions").iter();
        all.filter(|condition| condition.text("type") == kind).cloned().collect()
    };
    for kind in ANNOUNCED {
        let (now, before) = (of(new, kind), of(old, kind));
        let refused = if now.len() < before.len() {
            "remove"
        } else if kind == "Failed" || part == Some(Subresource::Approval) {
            continue;
        } else if now.len() > before.len() {
            "add"
        } else if !same(&now.into(), &before.into()) {
            "modify"
        } else {
            continue;
        };
        causes.forbidden(&list, &format!("updates may not {refused} a condition of type {kind:?}"));
    }
    let (now, before) = (new["status"].text("certificate"), old["status"].text("certificate"));
    if now != before {
        let path = status.child("certificate");
        if part != Some(Subresource::Status) {
            causes.forbidden(&path, "updates may not set certificate content");
        } else if !before.is_empty() {
            causes.forbidden(&path, "updates may not modify existing certificate content");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_pem_around_one_sequence() {
        let pem = |der: &[u8]| {
            let body = STANDARD.encode(der);
            STANDARD.encode(format!(
                "-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n"
            ))
        };
        assert!(check_request(&pem(&[0x30, 2, 5, 0])).is_ok());
        let long = [&[0x30, 0x81, 200][..], &[0; 200]].concat();
        assert!(check_request(&pem(&long)).is_ok());
        for wrong in [&[][..], &[0x30, 3, 5, 0], &[0x31, 2, 5, 0], &[0x30, 0x80], &[0x30, 0x84, 1]]
        {
            assert!(check_request(&pem(wrong)).is_err(), "{wrong:?}");
        }
        assert!(check_request(&STANDARD.encode("x")).is_err());
        assert!(check_request("!").is_err());
    }
}
