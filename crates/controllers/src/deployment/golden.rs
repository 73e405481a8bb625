//! Whole steps of a Deployment, as written.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::json;

use super::plan::{Write, plan};
use crate::object::Meta;
use crate::testing::at;
use crate::testing::golden::check;

#[test]
fn the_steps_are_those_of_the_golden_cases() {
    check("deployment", |objects| {
        let deployments: Vec<Deployment> = objects.all();
        let [deployment] = deployments.as_slice() else { panic!("a case has one Deployment") };
        let sets: Vec<Arc<ReplicaSet>> = objects.all().into_iter().map(Arc::new).collect();
        let plan = plan(deployment, &sets, |_| false, at(1_700_000_000));
        let writes = plan.writes.iter().map(|write| match write {
            Write::Create(set) => json!({ "create": set }),
            Write::Update { old, new } => json!({
                "update": old.name(),
                "patch": crate::kind::merge_patch(&json!(**old), &json!(**new)),
            }),
            Write::Delete(set) => json!({ "delete": set.name() }),
        });
        json!({
            "writes": writes.collect::<Vec<_>>(),
            "revision": plan.revision,
            "status": plan.status,
        })
    });
}
