//! Asking the API server for a pod's tokens, as the node.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use tokio::time::Instant;

use super::{Done, Worker, sooner};
use crate::pod::tokens::{Purpose, Token};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

impl Worker {
    /// Asks for the tokens that are due.
    pub(super) fn ask_for_tokens(&mut self, wake: &mut Option<Instant>) {
        let now = Timestamp::now();
        for purpose in self.tokens.due(now) {
            let api: Api<ServiceAccount> =
                Api::namespaced(self.node.client.clone(), &self.key.namespace);
            let account = self.spec.service_account_name.clone();
            let account = account.filter(|name| !name.is_empty());
            let account = account.unwrap_or_else(|| "default".to_owned());
            let pod = BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(self.key.name.clone()),
                uid: Some(self.uid.clone()),
            };
            self.jobs.spawn(async move {
                let answer = tokio::time::timeout(PATIENCE, ask(api, &account, &purpose, pod));
                let answer = answer.await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
                Done::Token { purpose, answer }
            });
        }
        if let Some(next) = self.tokens.next() {
            let left = Duration::try_from(next.duration_since(now)).unwrap_or_default();
            sooner(wake, Instant::now() + left);
        }
    }

    /// The API server has answered; the volumes follow.
    pub(super) fn token_answered(&mut self, purpose: &Purpose, answer: Result<Token, String>) {
        if let Err(message) = &answer {
            tracing::warn!(pod = %self.key.name, "no service account token: {message}");
        }
        self.volumes.is_stale |= self.tokens.answered(purpose, answer, Timestamp::now());
    }
}

async fn ask(
    api: Api<ServiceAccount>,
    account: &str,
    purpose: &Purpose,
    pod: BoundObjectReference,
) -> Result<Token, String> {
    let audience = Some(purpose.audience.clone()).filter(|audience| !audience.is_empty());
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: audience.map(|audience| vec![audience]),
            bound_object_ref: Some(pod),
            expiration_seconds: Some(purpose.seconds),
        }),
        ..TokenRequest::default()
    };
    let answer = api.create_token_request(account, &PostParams::default(), &request).await;
    let status = answer.map_err(|error| error.to_string())?.status.unwrap_or_default();
    match (status.token, status.expiration_timestamp) {
        (Some(text), Some(expires)) => Ok(Token { text, expires: expires.0 }),
        _ => Err("the answer has no token".to_owned()),
    }
}
