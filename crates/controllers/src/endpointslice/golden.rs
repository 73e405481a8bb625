//! Whole slices, as written, for Services as people write them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use super::memory::Memory;
use super::plan::{Hints, Input, plan};
use super::topology::shares;
use crate::object::Meta;
use crate::testing::at;
use crate::testing::golden::check;

#[test]
fn the_slices_are_those_of_the_golden_cases() {
    check("endpointslice", |objects| {
        let nodes: Vec<Node> = objects.all();
        let services: Vec<Service> = objects.all();
        let [service] = services.as_slice() else { panic!("a case has one Service") };
        let selector = super::selector(service).unwrap();
        let pods: Vec<Arc<Pod>> = objects.all().into_iter().map(Arc::new).collect();
        let pods: Vec<_> =
            pods.into_iter().filter(|p| selector.matches(p.metadata.labels.as_ref())).collect();
        let slices: Vec<Arc<EndpointSlice>> = objects.all().into_iter().map(Arc::new).collect();
        let all: Vec<_> = nodes.iter().cloned().map(Arc::new).collect();
        let shares = shares(&all);
        let input = Input {
            service,
            pods: &pods,
            slices: &slices,
            node: |name: &str| nodes.iter().find(|n| n.name() == name).cloned().map(Arc::new),
            nodes: 0,
            shares: shares.as_ref(),
            trigger: Some(at(1_700_000_000)),
            max: 100,
        };
        let plan = plan(&mut Memory::default(), input);
        let deleted: Vec<_> = plan.delete.iter().map(|s| s.name()).collect();
        let mut told = json!({ "create": plan.create, "update": plan.update, "delete": deleted });
        for (family, hints) in &plan.hints {
            let text = match hints {
                Hints::Off => continue,
                Hints::Refused(why) => why.clone(),
                Hints::On(zones) => format!("{zones:?}"),
            };
            told["hints"][family.as_str()] = text.into();
        }
        told
    });
}
