//! Lists: consistent pages, selectors, and what `resourceVersion` and `continue` ask for.
//!
//! The store answers every list at its current revision or at a past one that is still in its history, so
//! `NotOlderThan` is served by the current state. Upstream: `storage/etcd3/store.go GetList`.

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

#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: u64,
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

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
        let prefix = kind.prefix(namespace);
        let mut at = match options.version_match {
            Some(VersionMatch::Exact) => options.resource_version.map(Revision),
            _ => None,
        };
        let mut after = None;
        if let Some(text) = &options.continue_token {
            let token = decode_token(text)?;
            at = Some(Revision(token.rv));
            after = Some(format!("{prefix}{}", token.start));
        }
        let selects = !options.labels.is_empty() || !options.fields.is_empty();
        let (mut items, mut next, mut remaining) = (Vec::new(), None, None);
        let revision = loop {
            let wanted = match options.limit {
                0 => 0,
                limit => limit - items.len(),
            };
            let query = store::ListOptions { limit: wanted, after: after.take(), at };
            let page = self
                .store
                .list(&prefix, query)
                .map_err(|e| list_status(&e, options.continue_token.is_some()))?;
            // Later pages of this loop must show the same state.
            at = Some(page.revision);
            let last = page.items.last().map(|s| s.key.to_string());
            items.extend(page.items.into_iter().filter(|s| {
                !selects
                    || (options.labels.matches(&s.value) && options.fields.matches(kind, &s.value))
            }));
            let Some(last) = last.filter(|_| page.remaining > 0) else { break page.revision };
            if items.len() >= options.limit {
                next = Some(encode_token(page.revision, &last[prefix.len()..]));
                remaining = (!selects).then_some(page.remaining);
                break page.revision;
            }
            after = Some(last);
        };
        Ok(ListPage { items, revision: revision.0, next, remaining })
    }
}

fn list_status(error: &StoreError, continued: bool) -> Status {
    match error {
        StoreError::Compacted { .. } if continued => Status::expired(
            "The provided continue parameter is too old to display a consistent list result. You \
             must start a new list without the continue parameter.",
        ),
        StoreError::Compacted { .. } => {
            Status::expired("The resourceVersion for the provided list is too old.")
        }
        other => other.into(),
    }
}

fn encode_token(revision: Revision, start: &str) -> String {
    let token = Token { v: TOKEN_VERSION.into(), rv: revision.0, start: start.to_owned() };
    URL_SAFE_NO_PAD.encode(crate::encode::to_json(&token))
}

fn decode_token(text: &str) -> Result<Token> {
    let invalid = |e: String| Status::bad_request(format!("continue key is not valid: {e}"));
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|e| invalid(e.to_string()))?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|e| invalid(e.to_string()))?;
    if token.v != TOKEN_VERSION {
        return Err(invalid(format!(
            "server does not recognize this encoded version {:?}",
            token.v
        )));
    }
    Ok(token)
}
