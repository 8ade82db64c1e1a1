//! Which Hypervisor objects there shall be, and what is said of one whose executor is silent: pure.

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kubevmm_api::condition::{self, READY, Wanted};
use kubevmm_api::{Hypervisor, HypervisorSpec};

use crate::hosts::Host;
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

/// What a host's Hypervisor must say instead of its Ready, and the version of the Lease that has run out. Only what
/// would be believed is taken back: an executor that calls itself not ready has told more.
pub fn lost(host: &Host) -> Option<(Wanted, &str)> {
    let version = host.lease.expired.as_deref()?;
    let ready = condition::is_true(&host.status()?.conditions, READY);
    let message = "the executor has not renewed its Lease: whether its guests run is not known. Look at its pod in \
                   kubevmm-system and at the host";
    ready.then(|| (Wanted::unknown(READY, "HostLost", message), version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{hosts, lose, yaml};

    #[test]
    fn a_host_that_falls_silent_is_not_called_ready() {
        let mut hosts = hosts(&[("a", "")]);
        assert_eq!(lost(&hosts.0["a"]), None, "it is alive");
        lose(&mut hosts, "a");
        let (ready, version) = lost(&hosts.0["a"]).unwrap();
        assert_eq!((ready.status, ready.reason, version), (None, "HostLost", "7"));

        let mut no_libvirt = hosts.0["a"].clone();
        no_libvirt.hypervisor = Some(std::sync::Arc::new(yaml(
            "metadata: {name: a}\nspec: {}\nstatus: {conditions: [{type: Ready, status: 'False', \
             reason: LibvirtUnavailable, message: m, lastTransitionTime: \"2026-01-01T00:00:00Z\"}]}",
        )));
        assert_eq!(lost(&no_libvirt), None, "it has said itself why it is not ready");

        let mut starting = hosts.0["a"].clone();
        starting.lease.expired = None;
        assert_eq!(lost(&starting), None, "its Lease has not been seen yet");
    }

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
