//! Which slice holds which endpoint, with as few writes as may be. Pure.
//!
//! Upstream's packing (`reconciler.go`): (1) drop and refresh in place, a slice left empty goes;
//! (2) put new endpoints into slices that are written anyway, fullest first; (3) a remainder
//! smaller than a slice goes into the one untouched slice it fits best, if any, the rest into new
//! slices. Slices are never rebalanced.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::endpoint::{Endpoints, Identity};
use crate::object::Meta;

/// Writes for the slices of one address type and port set, as lists of endpoints.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Packing {
    pub(super) create: Vec<Vec<Endpoint>>,
    pub(super) update: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
    /// Slices that are as they should be.
    pub(super) untouched: Vec<Arc<EndpointSlice>>,
    /// Endpoints that no slice had, and such that are no more.
    pub(super) added: usize,
    pub(super) removed: usize,
}

/// Packs `wanted` into slices and new ones of at most `max`. `untouched` are known to be right and
/// hold nothing of what is wanted; `slices` are to be looked into. `stale` says which of these need
/// a write even if their endpoints stay, `same` whether an endpoint is as it should be.
pub(super) fn pack(
    mut untouched: Vec<Arc<EndpointSlice>>,
    slices: &[Arc<EndpointSlice>],
    mut wanted: Endpoints,
    max: usize,
    stale: impl Fn(&EndpointSlice) -> bool,
    same: impl Fn(&Endpoint, &Endpoint) -> bool,
) -> Packing {
    let mut packing = Packing::default();
    for slice in slices {
        let mut kept = Vec::with_capacity(held(slice).len());
        let mut changed = stale(slice);
        for endpoint in held(slice) {
            match wanted.remove(&Identity::of(endpoint)) {
                // A slice from a larger limit sheds what is too much.
                Some(fresh) if kept.len() < max => {
                    changed |= !same(&fresh, endpoint);
                    kept.push(fresh);
                }
                Some(fresh) => {
                    changed = true;
                    wanted.insert(Identity::of(&fresh), fresh);
                }
                None => {
                    changed = true;
                    packing.removed += 1;
                }
            }
        }
        if kept.is_empty() {
            packing.delete.push(Arc::clone(slice));
        } else if changed {
            packing.update.push((Arc::clone(slice), kept));
        } else {
            untouched.push(Arc::clone(slice));
        }
    }

    packing.added = wanted.len();
    packing.update.sort_by_key(|(slice, kept)| (Reverse(kept.len()), slice.name().to_owned()));
    for (_, kept) in &mut packing.update {
        fill(kept, &mut wanted, max);
    }

    untouched.sort_by(|a, b| a.name().cmp(b.name()));
    while !wanted.is_empty() {
        let fits = |slice: &EndpointSlice| held(slice).len() + wanted.len() <= max;
        let best = untouched
            .iter()
            .enumerate()
            .filter(|(_, slice)| wanted.len() < max && fits(slice))
            .max_by_key(|(i, slice)| (held(slice).len(), Reverse(*i)))
            .map(|(i, _)| i);
        if let Some(best) = best {
            let slice = untouched.remove(best);
            let mut kept = held(&slice).to_vec();
            fill(&mut kept, &mut wanted, max);
            packing.update.push((slice, kept));
        } else {
            let mut fresh = Vec::new();
            fill(&mut fresh, &mut wanted, max);
            packing.create.push(fresh);
        }
    }
    packing.untouched = untouched;
    packing
}

/// The endpoints in a slice.
pub(crate) fn held(slice: &EndpointSlice) -> &[Endpoint] {
    slice.endpoints.as_deref().unwrap_or_default()
}

fn fill(slice: &mut Vec<Endpoint>, wanted: &mut Endpoints, max: usize) {
    while slice.len() < max
        && let Some((_, endpoint)) = wanted.pop_first()
    {
        slice.push(endpoint);
    }
}
