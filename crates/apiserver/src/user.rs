//! Who asks: the user of a request, from its client certificate or named by a caller in this process.

/// An authenticated identity, as upstream's `authentication/user.Info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserInfo {
    /// The user's name, e.g. `system:node:node-1`. From a certificate: its common name.
    pub name: String,
    /// The groups, e.g. `system:masters`. From a certificate: its organizations.
    pub groups: Vec<String>,
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
        UserInfo { name: name.into(), groups }
    }

    /// The cluster's administrator: `kubernetes-admin` in `system:masters`.
    pub fn admin() -> UserInfo {
        UserInfo::new("kubernetes-admin", [Self::MASTERS])
    }

    /// A component of the control plane that runs in this process, e.g. `system:kube-controller-manager`.
    pub fn component(name: impl Into<String>) -> UserInfo {
        UserInfo::new(name, [Self::MASTERS])
    }

    /// Whoever sent no credentials.
    pub(crate) fn anonymous() -> UserInfo {
        UserInfo { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()] }
    }

    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    pub(crate) const MASTERS: &str = "system:masters";
    pub(crate) const AUTHENTICATED: &str = "system:authenticated";
}
