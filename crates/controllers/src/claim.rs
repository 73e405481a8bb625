//! Which objects a controller manages: adoption and release by selector and controller reference.
//!
//! Upstream's `ControllerRefManager`: an object with another controller is left alone; one of ours
//! that no longer matches is released; an orphan that matches is adopted, unless it or we are
//! being deleted.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};

use crate::Result;
use crate::kind::Kind;
use crate::object::{Key, Meta, Object, controller_ref};
use crate::selector::Selector;

/// The outcome of sorting candidates.
#[derive(Debug)]
pub(crate) struct Claim<K> {
    pub(crate) owned: Vec<Arc<K>>,
    pub(crate) adopt: Vec<Arc<K>>,
    pub(crate) release: Vec<Arc<K>>,
}

/// Sorts candidates. Pure.
pub(crate) fn claim<O: Object, K: Object>(
    owner: &O,
    selector: &Selector,
    candidates: impl IntoIterator<Item = Arc<K>>,
) -> Claim<K> {
    let mut claim = Claim { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    for candidate in candidates {
        let matches = selector.matches(candidate.meta().labels.as_ref());
        match candidate.controller() {
            Some(reference) if reference.uid != owner.uid() => {}
            Some(_) if matches => claim.owned.push(candidate),
            Some(_) if owner.is_terminating() => {}
            Some(_) => claim.release.push(candidate),
            None if matches && !owner.is_terminating() && !candidate.is_terminating() => {
                claim.adopt.push(candidate);
            }
            None => {}
        }
    }
    claim
}

/// Carries a claim out and returns what is managed.
pub(crate) async fn settle<O: Object, K: Object>(
    owner: &O,
    owners: &Kind<O>,
    dependents: &Kind<K>,
    claim: Claim<K>,
) -> Result<Vec<Arc<K>>> {
    let Claim { mut owned, adopt, release } = claim;
    for object in release {
        dependents
            .merge(&Key::of(&*object), object.uid(), &release_patch(&*object, owner.uid()))
            .await?;
    }
    if adopt.is_empty() {
        return Ok(owned);
    }
    // The cache may not know yet that the owner is going; an orphan must not be caught by it.
    let live = owners.read(&Key::of(owner)).await?;
    if live.is_none_or(|live| live.uid() != owner.uid() || live.is_terminating()) {
        return Ok(owned);
    }
    for object in adopt {
        let key = Key::of(&*object);
        let patch = adopt_patch(&*object, controller_ref(owner));
        dependents.merge(&key, object.uid(), &patch).await?;
        owned.extend(dependents.cache.find(&key));
    }
    Ok(owned)
}

fn adopt_patch<K: Object>(object: &K, owner: OwnerReference) -> Value {
    let mut references = object.meta().owner_references.clone().unwrap_or_default();
    references.retain(|r| r.uid != owner.uid);
    references.push(owner);
    owners_patch(object, &references)
}

fn release_patch<K: Object>(object: &K, owner_uid: &str) -> Value {
    let mut references = object.meta().owner_references.clone().unwrap_or_default();
    references.retain(|r| r.uid != owner_uid);
    owners_patch(object, &references)
}

fn owners_patch<K: Object>(object: &K, references: &[OwnerReference]) -> Value {
    json!({ "metadata": {
        "uid": object.uid(),
        "resourceVersion": object.meta().resource_version,
        "ownerReferences": references,
    }})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::testing::{at, labelled, pod, replica_set};

    fn sorted(owner_terminating: bool, candidates: Vec<Pod>) -> (usize, usize, usize) {
        let mut owner = replica_set("ns", "rs", 1);
        if owner_terminating {
            owner.metadata.deletion_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1)));
        }
        let selector = Selector::equal(&BTreeMap::from([("app".into(), "web".into())]));
        let claim = claim(&owner, &selector, candidates.into_iter().map(Arc::new));
        (claim.owned.len(), claim.adopt.len(), claim.release.len())
    }

    fn of(owner: &str, app: &str) -> Pod {
        let mut pod = labelled(pod("ns", "p"), &[("app", app)]);
        pod.metadata.owner_references = Some(vec![controller_ref(&replica_set("ns", owner, 1))]);
        pod
    }

    #[test]
    fn objects_of_another_controller_are_left_alone() {
        assert_eq!(sorted(false, vec![of("other", "web")]), (0, 0, 0));
    }

    #[test]
    fn an_owned_object_that_no_longer_matches_is_released() {
        assert_eq!(sorted(false, vec![of("rs", "web"), of("rs", "db")]), (1, 0, 1));
    }

    #[test]
    fn a_matching_orphan_is_adopted_unless_something_is_being_deleted() {
        let orphan = labelled(pod("ns", "p"), &[("app", "web")]);
        assert_eq!(sorted(false, vec![orphan.clone()]), (0, 1, 0));
        assert_eq!(sorted(true, vec![orphan.clone()]), (0, 0, 0));
        let mut going = orphan;
        going.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1)));
        assert_eq!(sorted(false, vec![going]), (0, 0, 0));
    }

    #[test]
    fn adopting_keeps_the_other_owners() {
        let mut object = pod("ns", "p");
        object.metadata.owner_references =
            Some(vec![OwnerReference { uid: "x".into(), ..OwnerReference::default() }]);
        let patch = adopt_patch(&object, controller_ref(&replica_set("ns", "rs", 1)));
        let owners = patch["metadata"]["ownerReferences"].as_array().unwrap();
        assert_eq!(owners.len(), 2);
    }
}
