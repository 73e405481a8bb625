//! The little of JSON Web Tokens (RFC 7515, 7517, 7519) that is needed: one algorithm, one key, compact form. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub(super) const ALGORITHM: &str = "ES256";
/// Tokens of ours are about a kilobyte, more with many audiences; longer ones are not looked at.
const LONGEST: usize = 16 * 1024;
/// Two coordinates of P-256.
const SIGNATURE: usize = 64;
/// What a P-256 point is wrapped in as SubjectPublicKeyInfo (RFC 5480).
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// What a token says. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) aud: Vec<String>,
    pub(crate) exp: i64,
    pub(crate) iat: i64,
    pub(crate) iss: String,
    pub(crate) jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(crate) kubernetes: Kubernetes,
    pub(crate) nbf: i64,
    pub(crate) sub: String,
}

/// The claim `kubernetes.io`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kubernetes {
    pub(crate) namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<Reference>,
    pub(crate) serviceaccount: Reference,
}

/// An object that a token depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    /// Empty for a node that was not known when the token was made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) uid: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: String,
}

/// The name of a public key (an uncompressed point): as upstream's, the hash of its DER form.
pub(super) fn key_id(public_key: &[u8]) -> String {
    BASE64.encode(Sha256::new().chain_update(SPKI_PREFIX).chain_update(public_key).finalize())
}

/// The key as clients of the issuer read it.
pub(super) fn web_key(key_id: &str, public_key: &[u8]) -> Value {
    // 0x04, then x and y of 32 bytes each.
    let (x, y) = public_key[1..].split_at(32);
    json!({
        "use": "sig",
        "kty": "EC",
        "kid": key_id,
        "crv": "P-256",
        "alg": ALGORITHM,
        "x": BASE64.encode(x),
        "y": BASE64.encode(y),
    })
}

/// Header and payload, which are to be signed.
pub(super) fn unsigned(key_id: &str, claims: &Claims) -> String {
    let header = Header { alg: ALGORITHM.to_owned(), kid: key_id.to_owned() };
    let part =
        |value: Result<Vec<u8>, _>| BASE64.encode(value.expect("text and numbers are always JSON"));
    format!("{}.{}", part(serde_json::to_vec(&header)), part(serde_json::to_vec(claims)))
}

pub(super) fn with_signature(signed: String, signature: &[u8]) -> String {
    signed + "." + &BASE64.encode(signature)
}

/// The claims of a token that this key signed; none for anything else.
///
/// The header may say nothing but the one algorithm and the one key, so there is no choice that an attacker could make.
pub(super) fn verify(token: &str, key_id: &str, public_key: &[u8]) -> Option<Claims> {
    if token.len() > LONGEST {
        return None;
    }
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, payload) = signed.split_once('.')?;
    let header: Header = serde_json::from_slice(&BASE64.decode(header).ok()?).ok()?;
    if header.alg != ALGORITHM || header.kid != key_id {
        return None;
    }
    let signature = BASE64.decode(signature).ok().filter(|s| s.len() == SIGNATURE)?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public_key)
        .verify(signed.as_bytes(), &signature)
        .ok()?;
    // A second dot would be in here, where the alphabet has none.
    serde_json::from_slice(&BASE64.decode(payload).ok()?).ok()
}
