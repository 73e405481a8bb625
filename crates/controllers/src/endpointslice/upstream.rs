//! How many writes upstream's reconciler makes for a change, by counting only.
//!
//! Written against the description of `reconcileByPortMapping` and `reconcileByAddressType` and
//! from nothing of ours: slices are numbers here, endpoints are not followed.

/// A slice before the change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    /// Whether its ports are those that the Service has.
    pub(super) right_ports: bool,
    /// Endpoints in it, how many of them stay, and how many of these change.
    pub(super) held: usize,
    pub(super) staying: usize,
    pub(super) changing: usize,
}

/// Slices created, updated, deleted, for a Service with one family and one port set.
pub(super) fn writes(slices: &[Before], wanted: usize, max: usize) -> (usize, usize, usize) {
    let (mut create, mut delete) = (0, 0);
    let mut updating = Vec::new();
    let mut unchanged = Vec::new();
    let mut missing = wanted;
    for slice in slices {
        if !slice.right_ports || wanted == 0 {
            delete += 1;
            continue;
        }
        missing -= slice.staying;
        if slice.staying == slice.held && slice.changing == 0 {
            unchanged.push(slice.held);
        } else if slice.staying == 0 {
            delete += 1;
        } else {
            updating.push(slice.staying);
        }
    }
    let room: usize = updating.iter().map(|size| max - size).sum();
    missing -= missing.min(room);
    let mut update = updating.len();
    while missing > 0 {
        let best = unchanged.iter().position(|size| missing < max && size + missing <= max);
        match best {
            Some(at) => {
                unchanged.remove(at);
                update += 1;
                missing = 0;
            }
            None => {
                create += 1;
                missing -= missing.min(max);
            }
        }
    }
    if delete == slices.len() && create == 0 && update == 0 {
        match slices {
            // The placeholder that is there already.
            [one] if one.held == 0 && !one.right_ports => delete = 0,
            _ => create = 1,
        }
    }
    let renamed = create.min(delete);
    (create - renamed, update + renamed, delete - renamed)
}
