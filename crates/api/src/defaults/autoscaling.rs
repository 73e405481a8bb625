//! Defaults of HorizontalPodAutoscalers (upstream: pkg/apis/autoscaling/v2/defaults.go).

use serde_json::{Value, json};

use crate::fields::Fields;

pub(super) fn horizontal_pod_autoscaler(autoscaler: &mut Value) {
    let Some(spec) = autoscaler.object_mut("spec") else { return };
    spec.default_absent("minReplicas", 1);
    if spec.items("metrics").is_empty() {
        spec.set(
            "metrics",
            json!([{
                "type": "Resource",
                "resource": {
                    "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 80 },
                },
            }]),
        );
    }
    let Some(behavior) = spec.get_mut("behavior").filter(|behavior| behavior.is_object()) else {
        return;
    };
    let percent = json!({ "type": "Percent", "value": 100, "periodSeconds": 15 });
    if let Some(up) = behavior.object_mut("scaleUp") {
        up.default_absent("stabilizationWindowSeconds", 0);
        let pods = json!({ "type": "Pods", "value": 4, "periodSeconds": 15 });
        rules(up, json!([pods, percent.clone()]));
    }
    if let Some(down) = behavior.object_mut("scaleDown") {
        rules(down, json!([percent]));
    }
}

fn rules(rules: &mut Value, policies: Value) {
    rules.default_to("selectPolicy", "Max");
    // An empty list is a mistake, which validation tells.
    rules.default_absent("policies", policies);
}
