//! Takes stored roles and bindings into the policy: a list, then what watches bring.
//!
//! The watches are emptied when a question is asked, so that whoever wrote a binding may rely on it with the next
//! request; nothing runs in between. A watch that fell behind is replaced by a new list.

use futures::FutureExt as _;
use parking_lot::{Mutex, RwLock};
use portolan_api::{Kind, kinds};
use portolan_store::{Event, ListOptions, Revision, Store, Watch};
use tokio::task::unconstrained;

use super::policy::Policy;

const KINDS: [&str; 4] = ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];

/// Where the policy is in the history of the store.
pub(super) struct Changes {
    /// Those of the kinds that are served.
    kinds: Vec<&'static Kind>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seen: Option<Revision>,
    watches: Vec<(&'static Kind, Watch)>,
}

impl Changes {
    /// Follows the kinds that are served.
    pub(super) fn served() -> Changes {
        let api_version = format!("{}/v1", super::policy::GROUP);
        let kinds = KINDS.iter().filter_map(|kind| kinds::by_kind(&api_version, kind));
        Changes::of(kinds.collect())
    }

    pub(super) fn of(kinds: Vec<&'static Kind>) -> Changes {
        Changes { kinds, state: Mutex::default() }
    }

    /// Brings the policy up to the store's present.
    pub(super) fn take_in(&self, store: &Store, policy: &RwLock<Policy>) {
        let now = store.revision();
        let mut state = self.state.lock();
        if state.seen == Some(now) {
            return;
        }
        if state.seen.is_none() || !state.drain(policy) {
            state.begin(&self.kinds, store, policy);
        }
        state.seen = Some(now);
    }

    /// Leaves the policy as a test has made it.
    #[cfg(test)]
    pub(super) fn pretend_seen(&self, store: &Store) {
        self.state.lock().seen = Some(store.revision());
    }
}

impl State {
    /// Whether all watches are whole.
    fn drain(&mut self, policy: &RwLock<Policy>) -> bool {
        for (kind, watch) in &mut self.watches {
            // Unconstrained: a task that has done much already would else find the queue empty.
            while let Some(event) = unconstrained(watch.next()).now_or_never() {
                match event {
                    Ok(Event::Put { stored, .. }) => policy.write().put(kind.kind, &stored.value),
                    Ok(Event::Delete { stored, .. }) => {
                        policy.write().remove(kind.kind, &stored.value);
                    }
                    Err(error) => {
                        tracing::debug!(kind = kind.kind, %error, "the policy is read anew");
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Reads everything. A kind that is not served has the objects that a cluster begins with.
    fn begin(&mut self, served: &[&'static Kind], store: &Store, policy: &RwLock<Policy>) {
        self.watches.clear();
        let mut fresh = Policy::bootstrap(|kind| !served.iter().any(|k| k.kind == kind));
        for kind in served {
            let prefix = kind.prefix(None);
            let Ok(page) = store.list(&prefix, ListOptions::default()) else { continue };
            page.items.iter().for_each(|one| fresh.put(kind.kind, &one.value));
            if let Ok(watch) = store.watch(&prefix, page.revision) {
                self.watches.push((kind, watch));
            }
        }
        *policy.write() = fresh;
    }
}
