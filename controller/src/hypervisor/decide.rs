//! Which Hypervisor objects there shall be: pure.

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kubevmm_api::{Hypervisor, HypervisorSpec};

use crate::object::{is_deleting, name, uid};

/// The Hypervisor that the Linux node `node` lacks. It goes with its Node.
pub fn missing(node: &Node, known: Option<&Hypervisor>) -> Option<Hypervisor> {
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    let label = node.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/os"));
    let linux = label.is_some_and(|os| os == "linux") || info.is_some_and(|info| info.operating_system == "linux");
    if known.is_some() || is_deleting(node) || !linux {
        return None;
    }
    let mut hypervisor = Hypervisor::new(name(node), HypervisorSpec::default());
    hypervisor.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name(node).to_owned(),
        uid: uid(node).to_owned(),
        controller: None,
        block_owner_deletion: None,
    }]);
    Some(hypervisor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn each_linux_node_has_a_hypervisor_that_goes_with_it() {
        let node: Node = yaml("metadata: {name: a, uid: n, labels: {kubernetes.io/os: linux}}");
        let made = missing(&node, None).unwrap();
        assert_eq!(made.metadata.name.as_deref(), Some("a"));
        assert_eq!(made.metadata.owner_references.as_ref().map(|owners| owners[0].uid.as_str()), Some("n"));
        assert_eq!(missing(&node, Some(&made)), None);
        let windows: Node = yaml("metadata: {name: b, uid: m, labels: {kubernetes.io/os: windows}}");
        assert_eq!(missing(&windows, None), None);
    }
}
