//! Fills Secrets of type `kubernetes.io/service-account-token`, and deletes them with their account.
//!
//! ```text
//!   Secret ─▶ names an account? ─no─▶ nobody's business
//!                 │ yes
//!                 ├─ the account is there, with the uid that the Secret has ─▶ token, ca.crt, namespace
//!                 └─ gone, or another of that name ─▶ the Secret is deleted
//! ```
//!
//! The token comes by a TokenRequest bound to the Secret, so that it ends with the Secret or the
//! account, and no controller holds a signing key (upstream `pkg/controller/serviceaccount`,
//! `tokens_controller.go`, signs it itself).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{
    BoundObjectReference, TokenRequest, TokenRequestSpec, TokenRequestStatus,
};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::runtime::watcher;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Result;
use crate::kind::{Grace, Kind, status_code};
use crate::object::{Key, Meta};
use crate::queue::WorkQueue;
use crate::reconcile::Reconcile;

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const TOKEN: &str = "token";
const CA: &str = "ca.crt";
const NAMESPACE: &str = "namespace";
/// The longest that may be asked for: such a token has no end of its own.
const SECONDS: i64 = 1 << 32;

/// The controller. Its caches hold only Secrets of the one type.
pub(crate) struct AccountTokens {
    client: kube::Client,
    secrets: Arc<Kind<Secret>>,
    accounts: Arc<Kind<ServiceAccount>>,
    queue: Arc<WorkQueue<Key>>,
    root_ca: String,
}

impl AccountTokens {
    pub(crate) fn new(client: &kube::Client, root_ca: &str) -> Arc<Self> {
        let accounts = Kind::<ServiceAccount>::new(client);
        let secrets = Kind::<Secret>::indexed_by(client, |secret| {
            secret.annotation(ACCOUNT_NAME).map(str::to_owned).into_iter().collect()
        });
        let queue = Arc::new(WorkQueue::new());
        let added = Arc::clone(&queue);
        secrets.cache.subscribe(move |change| added.add(Key::of(&**change.latest())));
        let (of_account, added) = (Arc::downgrade(&secrets), Arc::clone(&queue));
        accounts.cache.subscribe(move |change| {
            let Some(secrets) = of_account.upgrade() else { return };
            let account = change.latest();
            for secret in secrets.cache.indexed(account.namespace(), account.name()) {
                added.add(Key::of(&*secret));
            }
        });
        let (client, root_ca) = (client.clone(), root_ca.to_owned());
        Arc::new(Self { client, secrets, accounts, queue, root_ca })
    }

    /// Starts the watches.
    pub(crate) fn follow(&self, tasks: &mut JoinSet<()>, shutdown: &CancellationToken) {
        let (secrets, api) = (Arc::clone(&self.secrets), Api::all(self.client.clone()));
        let of_type = watcher::Config::default().fields(&format!("type={TYPE}"));
        tasks.spawn(secrets.follow(api, of_type, shutdown.clone()));
        let (accounts, api) = (Arc::clone(&self.accounts), Api::all(self.client.clone()));
        tasks.spawn(accounts.follow(api, watcher::Config::default(), shutdown.clone()));
    }

    /// Waits for the first lists.
    pub(crate) async fn synced(&self) {
        self.secrets.synced().await;
        self.accounts.synced().await;
    }

    /// The account that a Secret is for. Whoever is not in the cache is asked for: a Secret may be
    /// known before its account.
    async fn account_of(&self, secret: &Secret, name: &str) -> Result<Option<ServiceAccount>> {
        let key = Key::new(secret.namespace(), name);
        let is_meant = |account: &ServiceAccount| {
            secret.annotation(ACCOUNT_UID).is_none_or(|uid| uid.is_empty() || uid == account.uid())
        };
        if let Some(account) = self.accounts.cache.find(&key).filter(|account| is_meant(account)) {
            return Ok(Some((*account).clone()));
        }
        Ok(self.accounts.read(&key).await?.filter(is_meant))
    }

    /// A token that ends with the Secret; none when the account went meanwhile.
    async fn token(&self, secret: &Secret, account: &str) -> Result<Option<String>> {
        let bound = BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Secret".into()),
            name: Some(secret.name().into()),
            uid: Some(secret.uid().into()),
        };
        let spec = TokenRequestSpec {
            audiences: None,
            bound_object_ref: Some(bound),
            expiration_seconds: Some(SECONDS),
        };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let accounts: Api<ServiceAccount> =
            Api::namespaced(self.client.clone(), secret.namespace());
        let params = PostParams::default();
        match accounts.create_token_request(account, &params, &request).await {
            Ok(TokenRequest { status: Some(TokenRequestStatus { token, .. }), .. }) => Ok(token),
            Ok(_) => Ok(None),
            // The account or the Secret is gone; its event is on the way.
            Err(error) if status_code(&error) == Some(404) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// What a Secret lacks, but for the token itself. Pure.
#[derive(Debug, PartialEq, Eq)]
struct Lacks {
    token: bool,
    ca: bool,
    namespace: bool,
}

impl Lacks {
    fn of(secret: &Secret, root_ca: &str) -> Lacks {
        let value = |key: &str| {
            secret.data.as_ref().and_then(|data| data.get(key)).map_or(&[][..], |value| &value.0)
        };
        Lacks {
            token: value(TOKEN).is_empty(),
            ca: !root_ca.is_empty() && value(CA) != root_ca.as_bytes(),
            namespace: value(NAMESPACE).is_empty(),
        }
    }

    fn nothing(&self) -> bool {
        !(self.token || self.ca || self.namespace)
    }
}

impl Reconcile for AccountTokens {
    type Key = Key;
    const NAME: &'static str = "serviceaccount-token";

    fn queue(&self) -> &Arc<WorkQueue<Key>> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(secret) = self.secrets.cache.find(key).filter(|s| !s.is_terminating()) else {
            return Ok(None);
        };
        let Some(name) = secret.annotation(ACCOUNT_NAME).filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let Some(account) = self.account_of(&secret, name).await? else {
            self.secrets.delete(key, secret.uid(), Grace::Default).await?;
            return Ok(None);
        };
        let lacks = Lacks::of(&secret, &self.root_ca);
        if lacks.nothing() {
            return Ok(None);
        }
        let mut data: BTreeMap<String, ByteString> = secret.data.clone().unwrap_or_default();
        let mut put = |key: &str, text: &str| {
            data.insert(key.to_owned(), ByteString(text.as_bytes().to_vec()));
        };
        if lacks.ca {
            put(CA, &self.root_ca);
        }
        if lacks.namespace {
            put(NAMESPACE, secret.namespace());
        }
        if lacks.token {
            let Some(token) = self.token(&secret, name).await? else { return Ok(None) };
            put(TOKEN, &token);
        }
        let mut filled = (*secret).clone();
        filled.data = Some(data);
        let annotations = filled.metadata.annotations.get_or_insert_default();
        annotations.insert(ACCOUNT_NAME.into(), account.name().into());
        annotations.insert(ACCOUNT_UID.into(), account.uid().into());
        self.secrets.replace(&filled).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_lacks_what_is_empty_and_an_authority_that_is_another() {
        let secret = |data: &[(&str, &str)]| Secret {
            data: Some(
                data.iter()
                    .map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec())))
                    .collect(),
            ),
            ..Secret::default()
        };
        let whole = [(TOKEN, "t"), (CA, "the CA"), (NAMESPACE, "elsewhere")];
        for (data, root_ca, token, ca, namespace) in [
            (&[][..], "the CA", true, true, true),
            (&whole, "the CA", false, false, false),
            (&whole, "a new CA", false, true, false),
            // Without an authority to publish none is missing.
            (&whole, "", false, false, false),
            (&[(TOKEN, ""), (NAMESPACE, "n")], "", true, false, false),
        ] {
            let lacks = Lacks { token, ca, namespace };
            assert_eq!(Lacks::of(&secret(data), root_ca), lacks, "{data:?} {root_ca:?}");
        }
        assert!(Lacks::of(&Secret::default(), "").token);
    }
}
