//! Service account tokens: JSON Web Tokens that this server signs and believes.
//!
//! ES256 with one key, kept beside the authority's. A token is believed when its signature, issuer, times and audience
//! are right, and the account and the object that it is bound to are still the ones that it was made for (upstream
//! `pkg/serviceaccount`). Nothing of a token is looked into before its signature is known to be ours.

mod bound;
mod jwt;

pub(crate) use jwt::{Claims, Kubernetes, Reference};

use jiff::Timestamp;
use portolan_store::Store;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::{Error, UserInfo};

/// Who signs, in every token, and the audience that this server is.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Where the public key is served.
pub(crate) const KEYS_PATH: &str = "/openid/v1/jwks";
/// How far clocks may differ (upstream `jwt.DefaultLeeway`).
const LEEWAY: i64 = 60;

/// Signs tokens and checks them.
pub(crate) struct Issuer {
    key: EcdsaKeyPair,
    key_id: String,
    random: SystemRandom,
}

/// Why a token is not believed, as a TokenReview tells it; other clients hear "Unauthorized" only.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// It is no token of this server.
    #[error("invalid bearer token")]
    Foreign,
    /// It says something that is no longer, or not yet, so.
    #[error("[invalid bearer token, {0}]")]
    Void(String),
    /// It is for somebody else.
    #[error(
        "[invalid bearer token, token audiences {0:?} is invalid for the target audiences {1:?}]"
    )]
    Audience(Vec<String>, Vec<String>),
}

impl Issuer {
    /// Takes a private key (P-256, PKCS#8, PEM).
    ///
    /// # Errors
    /// It is not such a key.
    pub(crate) fn new(key_pem: &str) -> Result<Issuer, Error> {
        let random = SystemRandom::new();
        let der = PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes())?;
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::from_pkcs8(algorithm, der.secret_pkcs8_der(), &random)
            .map_err(|e| Error::Config(format!("the service account signing key: {e}")))?;
        let key_id = jwt::key_id(key.public_key().as_ref());
        Ok(Issuer { key, key_id, random })
    }

    /// Signs claims.
    ///
    /// # Errors
    /// The random number generator failed.
    pub(crate) fn sign(&self, claims: &Claims) -> Result<String, ring::error::Unspecified> {
        let signed = jwt::unsigned(&self.key_id, claims);
        let signature = self.key.sign(&self.random, signed.as_bytes())?;
        Ok(jwt::with_signature(signed, signature.as_ref()))
    }

    /// Whom a token stands for, and for which of `audiences` it was made.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub(crate) fn authenticate(
        &self,
        store: &Store,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<(UserInfo, Vec<String>), Refusal> {
        let claims = jwt::verify(token, &self.key_id, self.key.public_key().as_ref())
            .filter(|claims| claims.iss == ISSUER)
            .ok_or(Refusal::Foreign)?;
        let now_second = now.as_second();
        let void = |why: &str| Err(Refusal::Void(why.to_owned()));
        if claims.exp.saturating_add(LEEWAY) < now_second {
            return void("service account token has expired");
        }
        if claims.nbf.saturating_sub(LEEWAY) > now_second
            || claims.iat.saturating_sub(LEEWAY) > now_second
        {
            return void("service account token is not valid yet");
        }
        let common: Vec<String> =
            audiences.iter().filter(|a| claims.aud.contains(a)).cloned().collect();
        if common.is_empty() {
            return Err(Refusal::Audience(claims.aud, audiences.to_vec()));
        }
        bound::check(store, &claims, now_second - LEEWAY).map_err(Refusal::Void)?;
        Ok((user(&claims), common))
    }

    /// `/.well-known/openid-configuration`.
    pub(crate) fn configuration(&self) -> Value {
        json!({
            "issuer": ISSUER,
            "jwks_uri": format!("{ISSUER}{KEYS_PATH}"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [jwt::ALGORITHM],
        })
    }

    /// The public key as a JSON Web Key Set.
    pub(crate) fn keys(&self) -> Value {
        json!({"keys": [jwt::web_key(&self.key_id, self.key.public_key().as_ref())]})
    }
}

/// The user, with what upstream's `serviceaccount.ServiceAccountInfo` knows beside.
fn user(claims: &Claims) -> UserInfo {
    let about = &claims.kubernetes;
    let account = &about.serviceaccount;
    let mut user = UserInfo::service_account(&about.namespace, &account.name, &account.uid);
    let mut add = |key: &str, value: String| {
        if !value.is_empty() {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
        }
    };
    for (what, reference) in [("pod", &about.pod), ("node", &about.node)] {
        if let Some(Reference { name, uid }) = reference {
            add(&format!("{what}-name"), name.clone());
            add(&format!("{what}-uid"), uid.clone());
        }
    }
    add("credential-id", format!("JTI={}", claims.jti));
    user
}

#[cfg(test)]
mod tests;
