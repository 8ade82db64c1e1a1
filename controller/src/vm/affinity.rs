//! Where a placement pod may go: the VM's own affinity, and the hosts that it is bound to. Pure.

use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PreferredSchedulingTerm,
};

/// Key of the only field of a Node that an affinity can select by.
const NODE_NAME: &str = "metadata.name";

/// What the user asks for, and one of `hosts`; of them rather `prefer`. No host: any.
pub fn affinity(asked: Option<Affinity>, hosts: &[String], prefer: Option<&str>) -> Option<Affinity> {
    let mut affinity = asked.unwrap_or_default();
    let mut nodes = affinity.node_affinity.take().unwrap_or_default();
    if !hosts.is_empty() {
        let asked = nodes.required_during_scheduling_ignored_during_execution.take();
        nodes.required_during_scheduling_ignored_during_execution = Some(one_of(asked, hosts));
    }
    if let Some(host) = prefer.filter(|host| hosts.len() > 1 && hosts.iter().any(|candidate| candidate == host)) {
        let preference = NodeSelectorTerm { match_fields: Some(vec![named(host)]), match_expressions: None };
        let preferred = nodes.preferred_during_scheduling_ignored_during_execution.get_or_insert_default();
        preferred.push(PreferredSchedulingTerm { weight: 100, preference });
    }
    affinity.node_affinity = (nodes != NodeAffinity::default()).then_some(nodes);
    (affinity != Affinity::default()).then_some(affinity)
}

/// One of the terms that are asked for, on one of the hosts: terms are alternatives, so each goes with each host.
fn one_of(asked: Option<NodeSelector>, hosts: &[String]) -> NodeSelector {
    let asked = asked.map_or_else(
        || vec![NodeSelectorTerm::default()],
        |selector| {
            // A term without a condition selects no node, and with the name of a host it would select that.
            selector.node_selector_terms.into_iter().filter(|term| *term != NodeSelectorTerm::default()).collect()
        },
    );
    if asked.is_empty() {
        return NodeSelector { node_selector_terms: vec![NodeSelectorTerm::default()] };
    }
    let each = asked.iter().flat_map(|term| {
        hosts.iter().map(|host| {
            let mut term = term.clone();
            term.match_fields.get_or_insert_default().push(named(host));
            term
        })
    });
    NodeSelector { node_selector_terms: each.collect() }
}

fn named(host: &str) -> NodeSelectorRequirement {
    NodeSelectorRequirement { key: NODE_NAME.into(), operator: "In".into(), values: Some(vec![host.to_owned()]) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn made(asked: Value, hosts: &[&str], prefer: Option<&str>) -> Value {
        let asked = if asked.is_null() { None } else { Some(serde_json::from_value(asked).unwrap()) };
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        serde_json::to_value(affinity(asked, &hosts, prefer)).unwrap()
    }

    fn host(name: &str) -> Value {
        json!({"key": "metadata.name", "operator": "In", "values": [name]})
    }

    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

    #[test]
    fn what_is_asked_for_goes_with_each_host() {
        let ssd = json!({"key": "disk", "operator": "In", "values": ["ssd"]});
        let pods = json!({REQUIRED: [{"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "t"}]});
        let asked = json!({
            "nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [
                {"matchExpressions": [ssd]}, {"matchFields": [host("b")]}, {},
            ]}},
            "podAntiAffinity": pods,
        });
        assert_eq!(made(asked.clone(), &[], None), asked, "no host: as it is");
        let on_a = made(asked, &["a"], None);
        assert_eq!(on_a["podAntiAffinity"], pods);
        assert_eq!(
            on_a["nodeAffinity"][REQUIRED]["nodeSelectorTerms"],
            json!([
                {"matchExpressions": [ssd], "matchFields": [host("a")]},
                {"matchFields": [host("b"), host("a")]},
            ])
        );
    }

    #[test]
    fn without_a_wish_only_the_hosts_count() {
        assert_eq!(made(Value::Null, &[], Some("a")), Value::Null);
        let two = made(Value::Null, &["a", "b"], Some("b"));
        let nodes = &two["nodeAffinity"];
        let terms = json!([{"matchFields": [host("a")]}, {"matchFields": [host("b")]}]);
        assert_eq!(nodes[REQUIRED]["nodeSelectorTerms"], terms);
        let preferred = json!([{"weight": 100, "preference": {"matchFields": [host("b")]}}]);
        assert_eq!(nodes["preferredDuringSchedulingIgnoredDuringExecution"], preferred);
        assert_eq!(made(Value::Null, &["a"], Some("a"))["nodeAffinity"].as_object().map(serde_json::Map::len), Some(1));
    }

    #[test]
    fn a_term_that_selects_nothing_selects_no_host_either() {
        let nothing = json!({"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{}]}}});
        assert_eq!(made(nothing.clone(), &["a"], None), nothing);
    }
}
