//! A change costs what it is itself, however many Services there are: in the delta, in the plan, which is
//! made of the delta alone, and in the bytes that the kernel gets.

use portolan_backend_nftables::{Options, Planner};
use portolan_model::Family;
use portolan_netlink::nft::Op;

use crate::changes::{changes, model, size};

/// For each of some changes: how much of the table it changes, how many operations the plan has, and of
/// how many bytes it is for the kernel.
fn efforts(services: u32) -> Vec<[usize; 3]> {
    let mut model = model(services);
    let mut planner = Planner::new(Family::Ipv4, Options::default());
    planner.carried_out(&planner.full(model.table()));
    let effort = |change: Vec<_>| {
        change.into_iter().for_each(|event| model.apply(event));
        let delta = model.flush();
        let plan = planner.delta(model.table(), &delta);
        planner.carried_out(&plan);
        let batches = plan.pack(usize::MAX);
        let bytes = batches.iter().flat_map(|batch| &batch.ops).map(Op::encoded_len).sum();
        [size(&delta), plan.operations(), bytes]
    };
    changes(services).into_iter().map(effort).collect()
}

#[test]
fn a_change_costs_the_same_among_few_services_and_among_many() {
    let few = efforts(10);
    for [size, operations, bytes] in &few {
        assert!((1..40).contains(size) && (1..40).contains(operations), "{few:?}");
        assert!((1..8 << 10).contains(bytes), "{few:?}");
    }
    assert_eq!(few, efforts(3_000));
}
