//! Who asks: the user of a request, from its client certificate or token, or named by a caller in this process.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// An authenticated identity, as upstream's `authentication/user.Info`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The user's name, e.g. `system:node:node-1`. From a certificate: its common name.
    pub name: String,
    /// The groups, e.g. `system:masters`. From a certificate: its organizations.
    pub groups: Vec<String>,
    /// What tells apart users of one name at different times; empty when there is no such thing.
    pub uid: String,
    /// What else is known, e.g. the pod that a token was made for.
    pub extra: BTreeMap<String, Vec<String>>,
}

tokio::task_local! {
    /// The user of the request that this task answers, for admission deep inside a write.
    static REQUESTER: UserInfo;
}

impl UserInfo {
    /// A user in the given groups; `system:authenticated` is added.
    pub fn new<G: Into<String>>(
        name: impl Into<String>,
        groups: impl IntoIterator<Item = G>,
    ) -> UserInfo {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|g| g == Self::AUTHENTICATED) {
            groups.push(Self::AUTHENTICATED.to_owned());
        }
        UserInfo { name: name.into(), groups, ..UserInfo::default() }
    }

    /// The cluster's administrator: `kubernetes-admin` in `system:masters`.
    pub fn admin() -> UserInfo {
        UserInfo::new("kubernetes-admin", [Self::MASTERS])
    }

    /// A component that runs in this process, e.g. `system:kube-controller-manager`. It may do what the roles bound to
    /// its name allow.
    pub fn component(name: impl Into<String>) -> UserInfo {
        UserInfo::new(name, Vec::<String>::new())
    }

    /// Whoever sent no credentials.
    pub(crate) fn anonymous() -> UserInfo {
        UserInfo {
            name: Self::ANONYMOUS.to_owned(),
            groups: vec![Self::UNAUTHENTICATED.to_owned()],
            ..UserInfo::default()
        }
    }

    /// A service account, in the groups of all service accounts and of those of its namespace.
    pub(crate) fn service_account(namespace: &str, name: &str, uid: &str) -> UserInfo {
        UserInfo {
            uid: uid.to_owned(),
            ..UserInfo::new(
                format!("{}{namespace}:{name}", Self::SERVICE_ACCOUNT),
                Self::service_account_groups(namespace),
            )
        }
    }

    pub(crate) fn service_account_groups(namespace: &str) -> [String; 2] {
        ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
    }

    /// Namespace and name of the service account that this is.
    pub(crate) fn as_service_account(&self) -> Option<(&str, &str)> {
        let (namespace, name) = self.name.strip_prefix(Self::SERVICE_ACCOUNT)?.split_once(':')?;
        let plain = !namespace.is_empty() && !name.is_empty() && !name.contains(':');
        plain.then_some((namespace, name))
    }

    /// The name of the node whose agent this is (upstream `nodeidentifier.NewDefaultNodeIdentifier`).
    pub(crate) fn as_node(&self) -> Option<&str> {
        let name = self.name.strip_prefix("system:node:")?;
        (self.is_in(Self::NODES) && !name.is_empty()).then_some(name)
    }

    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// An administrator or one of the cluster's own parts, which must get on when everybody else has to wait.
    pub(crate) fn is_control_plane(&self) -> bool {
        self.is_in(Self::MASTERS) || Self::CONTROL_PLANE.contains(&self.name.as_str())
    }

    /// As `authentication.k8s.io/v1 UserInfo`.
    pub(crate) fn to_value(&self) -> Value {
        let mut value = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            value["uid"] = self.uid.as_str().into();
        }
        if !self.extra.is_empty() {
            value["extra"] = json!(self.extra);
        }
        value
    }

    /// Runs `work` as the answer to this user's request.
    pub(crate) async fn scope<F: Future>(&self, work: F) -> F::Output {
        REQUESTER.scope(self.clone(), work).await
    }

    /// Whose request is being answered; none when the server itself writes.
    pub(crate) fn of_request() -> Option<UserInfo> {
        REQUESTER.try_with(Clone::clone).ok()
    }

    const CONTROL_PLANE: [&str; 3] =
        ["system:kube-controller-manager", "system:kube-scheduler", "portolan:lab"];
    pub(crate) const MASTERS: &str = "system:masters";
    pub(crate) const AUTHENTICATED: &str = "system:authenticated";
    pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
    pub(crate) const ANONYMOUS: &str = "system:anonymous";
    pub(crate) const NODES: &str = "system:nodes";
    pub(crate) const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_service_accounts_are_known_by_name_and_group() {
        let node =
            |name: &str, group: &str| UserInfo::new(name, [group]).as_node().map(str::to_owned);
        assert_eq!(node("system:node:a", "system:nodes").as_deref(), Some("a"));
        assert_eq!(node("system:node:a", "other"), None);
        assert_eq!(node("a", "system:nodes"), None);
        assert_eq!(node("system:node:", "system:nodes"), None);
        let user = UserInfo::service_account("ns", "web", "u");
        assert_eq!(user.as_service_account(), Some(("ns", "web")));
        for name in ["system:serviceaccount:ns", "system:serviceaccount:a:b:c", "ns:web"] {
            assert_eq!(UserInfo::component(name).as_service_account(), None, "{name}");
        }
    }
}
