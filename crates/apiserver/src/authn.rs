//! Who sends a request: a bearer token, when no certificate has told already, and whom to act as.

use std::collections::BTreeMap;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;

use crate::UserInfo;
use crate::authz::{Action, Attributes, Authorizer};
use crate::server::Inner;
use crate::status::{Result, Status};
use crate::token;

const EXTRA: &str = "impersonate-extra-";

/// The user behind a token; none when the request carries none.
///
/// # Errors
/// 401 for a token that is not believed, also where nobody need say who they are.
pub(crate) fn bearer(inner: &Inner, headers: &HeaderMap) -> Result<Option<UserInfo>> {
    let Some(token) = token_of(headers) else { return Ok(None) };
    let audiences = [token::ISSUER.to_owned()];
    let store = &inner.registry.store;
    match inner.issuer.authenticate(store, token, &audiences, Timestamp::now()) {
        Ok((user, _)) => Ok(Some(user)),
        Err(why) => {
            tracing::debug!(%why, "bearer token");
            Err(Status::unauthorized())
        }
    }
}

fn token_of(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    let token = token.split(' ').next().unwrap_or("");
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The user that `user` asks to act as, `kubectl --as` (upstream `endpoints/filters/impersonation`). Each part of the
/// other identity must be allowed by itself.
///
/// # Errors
/// 400 for parts without a user name, 403.
pub(crate) fn impersonated(
    access: &Authorizer,
    user: UserInfo,
    headers: &HeaderMap,
) -> Result<UserInfo> {
    let text = |value: &HeaderValue| value.to_str().map(str::to_owned).unwrap_or_default();
    let one = |name: &str| headers.get(name).map(text).unwrap_or_default();
    let all = |name: &str| headers.get_all(name).iter().map(text).collect::<Vec<_>>();
    let (name, uid) = (one("impersonate-user"), one("impersonate-uid"));
    let mut groups = all("impersonate-group");
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for header in headers.keys() {
        if let Some(key) = header.as_str().strip_prefix(EXTRA) {
            let key = percent_decode_str(key).decode_utf8().map_or(key.into(), |key| key);
            extra.insert(key.into_owned(), all(header.as_str()));
        }
    }
    if name.is_empty() {
        return match groups.is_empty() && extra.is_empty() && uid.is_empty() {
            true => Ok(user),
            false => Err(Status::bad_request("requested groups without impersonating a user name")),
        };
    }
    let check = |attributes: Attributes<'_>| {
        access.check(&user, Action::Resource(Attributes { verb: "impersonate", ..attributes }))
    };
    let mut other = UserInfo { name, uid, ..UserInfo::default() };
    match other.as_service_account() {
        Some((namespace, name)) => {
            let resource = "serviceaccounts";
            check(Attributes { resource, namespace, name, ..Attributes::default() })?;
        }
        None => {
            let name = other.name.as_str();
            check(Attributes { resource: "users", name, ..Attributes::default() })?;
        }
    }
    for name in &groups {
        check(Attributes { resource: "groups", name, ..Attributes::default() })?;
    }
    let of_identity = Attributes { group: "authentication.k8s.io", ..Attributes::default() };
    for (subresource, values) in &extra {
        for name in values {
            check(Attributes { resource: "userextras", subresource, name, ..of_identity })?;
        }
    }
    if !other.uid.is_empty() {
        check(Attributes { resource: "uids", name: &other.uid, ..of_identity })?;
    }
    if let Some((namespace, _)) = other.as_service_account()
        && groups.is_empty()
    {
        groups.extend(UserInfo::service_account_groups(namespace));
    }
    let anonymous = other.name == UserInfo::ANONYMOUS;
    let (own, foreign) = match anonymous {
        true => (UserInfo::UNAUTHENTICATED, UserInfo::UNAUTHENTICATED),
        false => (UserInfo::AUTHENTICATED, UserInfo::UNAUTHENTICATED),
    };
    if !groups.iter().any(|group| group == own || group == foreign) {
        groups.push(own.to_owned());
    }
    other.groups = groups;
    other.extra = extra;
    Ok(other)
}
