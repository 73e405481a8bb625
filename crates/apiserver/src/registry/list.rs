//! Lists: consistent pages, selectors, and what `resourceVersion` and `continue` ask for.
//!
//! | `resourceVersion` | match unset | `NotOlderThan` | `Exact` |
//! |---|---|---|---|
//! | unset | most recent | invalid | invalid |
//! | `0` | any: the present | any: the present | invalid |
//! | other | not older: the present; with `limit` exact | the present | that revision, or 410 |
//!
//! A revision that has not been reached is a 504. The store has all of the present, so there is nothing to wait for.
//! Upstream: `storage/etcd3/store.go GetList`, `storage/continue.go`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portolan_api::Kind;
use portolan_store::{self as store, Revision, StoreError, Stored};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Registry;
use crate::query::{ListOptions, VersionMatch};
use crate::status::{Result, Status};

/// Part of a list, or all of it.
pub(crate) struct ListPage {
    pub(crate) items: Vec<Stored>,
    pub(crate) revision: u64,
    next: Option<String>,
    remaining: Option<u64>,
}

impl ListPage {
    /// All of a list.
    #[cfg(test)]
    pub(crate) fn whole(items: Vec<Stored>, revision: u64) -> ListPage {
        ListPage { items, revision, next: None, remaining: None }
    }

    /// `metadata` of the list object.
    pub(crate) fn metadata(&self) -> Value {
        let mut metadata = json!({"resourceVersion": self.revision.to_string()});
        if let Some(next) = &self.next {
            metadata["continue"] = next.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        metadata
    }
}

/// Where a list goes on.
#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    /// The list's revision; [`LATEST`] when that is gone and the client takes what there is now.
    rv: i64,
    /// The last key that was seen, without the prefix of the list.
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";
const LATEST: i64 = -1;
/// The most objects that are looked at in one turn for a selector that few match.
const TURN: usize = 10_000;

impl Registry {
    /// Lists a kind, in one namespace or in all.
    ///
    /// # Errors
    /// 400 (selector, token), 410 (the past that was asked for is gone), 504 (the future).
    pub(crate) fn list(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<ListPage> {
        options.fields.check(kind)?;
        self.check_reached(options.resource_version)?;
        let prefix = options.prefix(kind, namespace);
        let continued = options.continue_token.as_deref();
        let Start { mut at, mut after } = match continued {
            Some(text) => continued_from(text, &prefix, options)?,
            None => Start { at: exact_revision(options), after: None },
        };
        let selects = !options.labels.is_empty() || !options.fields.is_empty();
        let full = |items: &Vec<Stored>| options.limit != 0 && items.len() >= options.limit;
        let mut items = Vec::new();
        let mut turn = options.limit;
        let mut after_now = after.clone();
        loop {
            let query = store::ListOptions { limit: turn, after: after_now.take(), at };
            let page = self.store.list(&prefix, query).map_err(|e| {
                list_status(&e, continued.and(after.as_deref()).map(|a| &a[prefix.len()..]))
            })?;
            // Later turns must show the same state.
            at = Some(page.revision);
            let mut rest = page.remaining + page.items.len() as u64;
            for object in page.items {
                rest -= 1;
                after = Some(object.key.to_string());
                if selects && !options.selects(kind, &object.value) {
                    continue;
                }
                items.push(object);
                if full(&items) {
                    break;
                }
            }
            let last = after.as_deref().filter(|_| rest > 0);
            let Some(last) = last else {
                return Ok(ListPage {
                    items,
                    revision: page.revision.0,
                    next: None,
                    remaining: None,
                });
            };
            if full(&items) {
                let rv = i64::try_from(page.revision.0).unwrap_or(i64::MAX);
                let next = Some(encode_token(rv, &last[prefix.len()..]));
                // Of what is not looked at yet nobody knows how much would match.
                let remaining = (!selects).then_some(rest);
                return Ok(ListPage { items, revision: page.revision.0, next, remaining });
            }
            after_now = Some(last.to_owned());
            turn = turn.saturating_mul(2).min(TURN);
        }
    }
}

struct Start {
    at: Option<Revision>,
    after: Option<String>,
}

/// The one revision that a list must show, if it must.
fn exact_revision(options: &ListOptions) -> Option<Revision> {
    let version = options.resource_version.filter(|v| *v != 0)?;
    match options.version_match {
        Some(VersionMatch::Exact) => Some(Revision(version)),
        Some(VersionMatch::NotOlderThan) => None,
        // From before there was a match: the first page of a version is of that version.
        None => (options.limit > 0).then_some(Revision(version)),
    }
}

fn continued_from(text: &str, prefix: &str, options: &ListOptions) -> Result<Start> {
    let token = decode_token(text)
        .map_err(|why| Status::bad_request(format!("invalid continue token: {why}")))?;
    if options.resource_version.is_some_and(|v| v != 0) {
        return Err(Status::bad_request(
            "specifying resource version is not allowed when using continue",
        ));
    }
    let at = u64::try_from(token.rv).ok().map(Revision);
    Ok(Start { at, after: Some(format!("{prefix}{}", token.start)) })
}

/// `start` is where a continued list would have gone on.
fn list_status(error: &StoreError, start: Option<&str>) -> Status {
    match (error, start) {
        (StoreError::Compacted { .. }, Some(start)) => Status::expired(
            "The provided continue parameter is too old to display a consistent list result. You \
             can start a new list without the continue parameter, or use the continue token in \
             this response to retrieve the remainder of the results. Continuing with the provided \
             token results in an inconsistent list - objects that were created, modified, or \
             deleted between the time the first chunk was returned and now may show up in the list.",
        )
        .with_continue(encode_token(LATEST, start)),
        (StoreError::Compacted { .. }, None) => {
            Status::expired("The resourceVersion for the provided list is too old.")
        }
        (other, _) => other.into(),
    }
}

fn encode_token(rv: i64, start: &str) -> String {
    let token = Token { v: TOKEN_VERSION.into(), rv, start: start.to_owned() };
    URL_SAFE_NO_PAD.encode(crate::encode::to_json(&token))
}

fn decode_token(text: &str) -> Result<Token, String> {
    let invalid = |e: &dyn std::fmt::Display| format!("continue key is not valid: {e}");
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|e| invalid(&e))?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|e| invalid(&e))?;
    if token.v != TOKEN_VERSION {
        let why = format!("server does not recognize this encoded version {}", token.v);
        return Err(invalid(&why));
    }
    let version = format!("(version {TOKEN_VERSION})");
    if token.rv == 0 || token.rv < LATEST {
        return Err(invalid(&format!("incorrect encoded start resourceVersion {version}")));
    }
    if token.start.is_empty() {
        return Err(invalid(&format!("encoded start key empty {version}")));
    }
    // A key that is not in its plain form could lead out of the list's prefix.
    if token.start.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(invalid(&token.start));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(json: &str) -> String {
        decode_token(&URL_SAFE_NO_PAD.encode(json)).err().unwrap()
    }

    #[test]
    fn a_token_that_nobody_gave_out_is_told_what_is_wrong() {
        for (json, why) in [
            (
                r#"{"v":"v2","rv":1,"start":"a"}"#,
                "server does not recognize this encoded version v2",
            ),
            (
                r#"{"v":"meta.k8s.io/v1","rv":0,"start":"a"}"#,
                "incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
            ),
            (
                r#"{"v":"meta.k8s.io/v1","rv":1,"start":""}"#,
                "encoded start key empty (version meta.k8s.io/v1)",
            ),
            (r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../secrets"}"#, "../secrets"),
            (r#"{"v":"meta.k8s.io/v1","rv":1,"start":"/a"}"#, "/a"),
        ] {
            assert_eq!(refusal(json), format!("continue key is not valid: {why}"), "{json}");
        }
    }

    proptest! {
        #[test]
        fn a_token_comes_back_as_it_was(rv in 1..i64::MAX, start in "[a-z0-9.-]{1,20}(/[a-z]{1,9})?") {
            prop_assume!(!start.split('/').any(|part| matches!(part, "." | "..")));
            let token = decode_token(&encode_token(rv, &start)).unwrap();
            prop_assert_eq!((token.rv, token.start), (rv, start));
        }

        #[test]
        fn no_token_makes_it_panic_or_leads_out_of_the_list(
            text in prop_oneof![
                any::<String>(),
                any::<Vec<u8>>().prop_map(|b| URL_SAFE_NO_PAD.encode(b)),
                (any::<i64>(), "[./a-z]{0,12}").prop_map(|(rv, start)| encode_token(rv, &start)),
            ],
        ) {
            if let Ok(token) = decode_token(&text) {
                let parts: Vec<&str> = token.start.split('/').collect();
                prop_assert!(!parts.contains(&"..") && !parts.contains(&""));
            }
        }
    }
}
