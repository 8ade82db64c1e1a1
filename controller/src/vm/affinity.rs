//! Where a placement pod may go: the VM's own affinity, and the host that it is bound to. Pure.

use k8s_openapi::api::core::v1::{Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

/// Key of the only field of a Node that an affinity can select by.
const NODE_NAME: &str = "metadata.name";

/// What the user asks for, on `host` where the pod is for one host only.
pub fn affinity(asked: Option<Affinity>, host: Option<&str>) -> Option<Affinity> {
    let Some(host) = host else { return asked };
    let mut affinity = asked.unwrap_or_default();
    let nodes = affinity.node_affinity.get_or_insert_default();
    let asked = nodes.required_during_scheduling_ignored_during_execution.take();
    nodes.required_during_scheduling_ignored_during_execution = Some(on(asked, host));
    Some(affinity)
}

/// One of the terms that are asked for, on the host: terms are alternatives, so it goes into each.
fn on(asked: Option<NodeSelector>, host: &str) -> NodeSelector {
    let Some(mut selector) = asked else {
        let term = NodeSelectorTerm { match_fields: Some(vec![named(host)]), match_expressions: None };
        return NodeSelector { node_selector_terms: vec![term] };
    };
    // A term without a condition selects no node, and with the name of a host it would select that.
    let terms = selector.node_selector_terms.iter_mut().filter(|term| **term != NodeSelectorTerm::default());
    terms.for_each(|term| term.match_fields.get_or_insert_default().push(named(host)));
    selector
}

fn named(host: &str) -> NodeSelectorRequirement {
    NodeSelectorRequirement { key: NODE_NAME.into(), operator: "In".into(), values: Some(vec![host.to_owned()]) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn made(asked: Value, host: Option<&str>) -> Value {
        let asked = if asked.is_null() { None } else { Some(serde_json::from_value(asked).unwrap()) };
        serde_json::to_value(affinity(asked, host)).unwrap()
    }

    fn host(name: &str) -> Value {
        json!({"key": "metadata.name", "operator": "In", "values": [name]})
    }

    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

    #[test]
    fn what_is_asked_for_goes_with_the_host() {
        let ssd = json!({"key": "disk", "operator": "In", "values": ["ssd"]});
        let pods = json!({REQUIRED: [{"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "t"}]});
        let asked = json!({
            "nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [
                {"matchExpressions": [ssd]}, {"matchFields": [host("b")]}, {},
            ]}},
            "podAntiAffinity": pods,
        });
        assert_eq!(made(asked.clone(), None), asked, "no host: as it is");
        let on_a = made(asked, Some("a"));
        assert_eq!(on_a["podAntiAffinity"], pods);
        assert_eq!(
            on_a["nodeAffinity"][REQUIRED]["nodeSelectorTerms"],
            json!([
                {"matchExpressions": [ssd], "matchFields": [host("a")]},
                {"matchFields": [host("b"), host("a")]},
                {},
            ]),
            "a term that selects nothing selects no host either"
        );
    }

    #[test]
    fn without_a_wish_only_the_host_counts() {
        assert_eq!(made(Value::Null, None), Value::Null);
        let terms = json!([{"matchFields": [host("a")]}]);
        assert_eq!(made(Value::Null, Some("a")), json!({"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}}));
    }
}
