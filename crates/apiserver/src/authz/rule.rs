//! One rule of a role, and what it matches (upstream `pkg/apis/rbac/v1/evaluation_helpers.go`). Pure.

use serde::{Deserialize, Serialize};

use super::{Action, Attributes};

/// `rbac.authorization.k8s.io/v1 PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    pub(crate) verbs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) api_groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) resources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub(crate) non_resource_urls: Vec<String>,
}

const ANY: &str = "*";

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == ANY || one == wanted)
}

impl Rule {
    pub(crate) fn allows(&self, action: Action<'_>) -> bool {
        match action {
            Action::Resource(attributes) => self.allows_resource(attributes),
            Action::Path { verb, path } => {
                has(&self.verbs, verb) && self.non_resource_urls.iter().any(|url| leads(url, path))
            }
        }
    }

    fn allows_resource(&self, a: Attributes<'_>) -> bool {
        has(&self.verbs, a.verb)
            && has(&self.api_groups, a.group)
            && self.resources.iter().any(|r| names(r, a.resource, a.subresource))
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|n| n == a.name))
    }

    /// Whether this rule alone allows all of what `other`, which is of one verb and one thing, allows.
    pub(super) fn covers(&self, other: &Rule) -> bool {
        let all = |ours: &[String], theirs: &[String]| theirs.iter().all(|one| has(ours, one));
        let resource = |wanted: &String| {
            let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
            self.resources.iter().any(|r| r == wanted || names(r, resource, subresource))
        };
        all(&self.verbs, &other.verbs)
            && all(&self.api_groups, &other.api_groups)
            && other.resources.iter().all(resource)
            && (self.resource_names.is_empty()
                || (!other.resource_names.is_empty()
                    && other.resource_names.iter().all(|n| self.resource_names.contains(n))))
            && other
                .non_resource_urls
                .iter()
                .all(|wanted| self.non_resource_urls.iter().any(|url| leads(url, wanted)))
    }

    /// The rule as rules of one verb and one thing each.
    pub(super) fn broken_down(&self) -> impl Iterator<Item = Rule> + '_ {
        let resources = self.verbs.iter().flat_map(move |verb| {
            self.api_groups.iter().flat_map(move |group| {
                self.resources.iter().flat_map(move |resource| {
                    let one = Rule {
                        verbs: vec![verb.clone()],
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Rule::default()
                    };
                    let named = self.resource_names.iter().map({
                        let one = one.clone();
                        move |name| Rule { resource_names: vec![name.clone()], ..one.clone() }
                    });
                    let plain = self.resource_names.is_empty().then_some(one);
                    plain.into_iter().chain(named.collect::<Vec<_>>())
                })
            })
        });
        let paths = self.verbs.iter().flat_map(move |verb| {
            self.non_resource_urls.iter().map(move |url| Rule {
                verbs: vec![verb.clone()],
                non_resource_urls: vec![url.clone()],
                ..Rule::default()
            })
        });
        resources.chain(paths)
    }
}

/// `*`, `pods`, `pods/log`, or `*/scale`.
fn names(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == ANY {
        return true;
    }
    match rule.split_once('/') {
        None => rule == resource && subresource.is_empty(),
        Some((r, s)) => !subresource.is_empty() && s == subresource && (r == resource || r == ANY),
    }
}

/// `*`, a path, or the beginning of paths followed by `*`.
fn leads(rule: &str, path: &str) -> bool {
    rule == path || rule.strip_suffix('*').is_some_and(|beginning| path.starts_with(beginning))
}
