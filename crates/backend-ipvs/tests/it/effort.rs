//! A change costs what it is itself, however many Services there are.

use portolan_backend_ipvs::{Options, Planner};
use portolan_model::Family;

use crate::changes::{changes, model, size};

/// For each of some changes: how much of the table it changes, how much of it is looked at, and how long
/// the plan is.
fn efforts(services: u32) -> Vec<[usize; 3]> {
    let mut model = model(services);
    let mut planner = Planner::new(Family::Ipv4, Options::default());
    planner.holds(model.table());
    let effort = |change: Vec<_>| {
        change.into_iter().for_each(|event| model.apply(event));
        let delta = model.flush();
        let plan = planner.delta(model.table(), &delta);
        planner.followed(&delta, &plan);
        [size(&delta), plan.looks(), plan.operations()]
    };
    changes(services).into_iter().map(effort).collect()
}

#[test]
fn a_change_costs_the_same_among_few_services_and_among_many() {
    let few = efforts(10);
    assert!(few.iter().flatten().all(|effort| (1..40).contains(effort)), "{few:?}");
    assert_eq!(few, efforts(3_000));
}
