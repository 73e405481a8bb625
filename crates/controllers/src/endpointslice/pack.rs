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
}

/// Packs `wanted` into `slices` and new ones of at most `max`. `stale` says which slices need a
/// write even if their endpoints stay.
pub(super) fn pack(
    slices: &[Arc<EndpointSlice>],
    mut wanted: Endpoints,
    max: usize,
    stale: impl Fn(&EndpointSlice) -> bool,
) -> Packing {
    let mut packing = Packing::default();
    let mut untouched = Vec::new();
    for slice in slices {
        let mut kept = Vec::with_capacity(held(slice).len());
        let mut changed = stale(slice);
        for endpoint in held(slice) {
            match wanted.remove(&Identity::of(endpoint)) {
                // A slice from a larger limit sheds what is too much.
                Some(fresh) if kept.len() < max => {
                    changed |= fresh != *endpoint;
                    kept.push(fresh);
                }
                Some(fresh) => {
                    changed = true;
                    wanted.insert(Identity::of(&fresh), fresh);
                }
                None => changed = true,
            }
        }
        if kept.is_empty() {
            packing.delete.push(Arc::clone(slice));
        } else if changed {
            packing.update.push((Arc::clone(slice), kept));
        } else {
            untouched.push((Arc::clone(slice), kept));
        }
    }

    packing.update.sort_by_key(|(slice, kept)| (Reverse(kept.len()), slice.name().to_owned()));
    for (_, kept) in &mut packing.update {
        fill(kept, &mut wanted, max);
    }

    while !wanted.is_empty() {
        let fits = |kept: &Vec<Endpoint>| kept.len() + wanted.len() <= max;
        let best = untouched
            .iter()
            .enumerate()
            .filter(|(_, (_, kept))| wanted.len() < max && fits(kept))
            .max_by_key(|(i, (_, kept))| (kept.len(), Reverse(*i)))
            .map(|(i, _)| i);
        if let Some(best) = best {
            let (slice, mut kept) = untouched.swap_remove(best);
            fill(&mut kept, &mut wanted, max);
            packing.update.push((slice, kept));
        } else {
            let mut fresh = Vec::new();
            fill(&mut fresh, &mut wanted, max);
            packing.create.push(fresh);
        }
    }
    packing
}

/// The endpoints in a slice.
pub(super) fn held(slice: &EndpointSlice) -> &[Endpoint] {
    slice.endpoints.as_deref().unwrap_or_default()
}

fn fill(slice: &mut Vec<Endpoint>, wanted: &mut Endpoints, max: usize) {
    while slice.len() < max
        && let Some((_, endpoint)) = wanted.pop_first()
    {
        slice.push(endpoint);
    }
}
