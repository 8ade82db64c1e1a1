//! What a network's status says: pure.

use kubevmm_api::VirtualMachineNetworkStatus;
use kubevmm_api::condition::{READY, Wanted};
use kubevmm_api::hypervisor::HostNetwork;

use crate::hosts::{Hosts, complaints};
use crate::lifecycle::{Action, steps};
use crate::object::uid;
use crate::write::Object;

/// The steps for a network; an `existing` one is the hosts' own.
pub fn decide<K: Object>(
    network: &K,
    existing: bool,
    users: &[String],
    hosts: &Hosts,
) -> Vec<Action<VirtualMachineNetworkStatus>> {
    let told = hosts.told(|status| &status.networks);
    let reports: Vec<(&str, &HostNetwork)> = told.filter(|(_, report)| report.uid == uid(network)).collect();
    let names: Vec<&str> = reports.iter().map(|(host, _)| *host).collect();
    steps(network, users, &names, || status(existing, &reports))
}

fn status(existing: bool, reports: &[(&str, &HostNetwork)]) -> (VirtualMachineNetworkStatus, Wanted) {
    let ready = reports.iter().filter(|(_, network)| network.ready).count();
    let troubled = reports.iter().filter(|(_, network)| !network.ready);
    let trouble = complaints(troubled.map(|(host, network)| (*host, &network.message, &network.reason)), "not ready");
    let condition = match (existing, ready, trouble.is_empty()) {
        (true, 1.., _) => Wanted::yes(READY, "Ready", trouble),
        (true, 0, true) => Wanted::no(READY, "NoHost", "no host has told of the network yet"),
        (_, _, false) => Wanted::no(READY, "NotReady", trouble),
        (false, 0, true) => Wanted::yes(READY, "Ready", "each host makes it when the first VM there needs it"),
        (false, ..) => Wanted::yes(READY, "Ready", ""),
    };
    let status = VirtualMachineNetworkStatus {
        observed_generation: None,
        ready_hosts: Some(i32::try_from(ready).unwrap_or(i32::MAX)),
        conditions: vec![],
    };
    (status, condition)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{hosts, yaml};
    use kubevmm_api::ClusterVirtualMachineNetwork;

    #[test]
    fn a_nat_network_is_ready_until_a_host_fails_and_an_existing_one_when_a_host_has_it() {
        let network: ClusterVirtualMachineNetwork =
            yaml("metadata: {name: lan, uid: n, finalizers: [kubevmm.io/cleanup]}\nspec: {}");
        let run = |existing: bool, hosts: &Hosts| match decide(&network, existing, &[], hosts).as_slice() {
            [Action::Write(status, ready)] => (status.ready_hosts, ready.status, ready.reason),
            other => panic!("{other:?}"),
        };
        let entry = |ready: bool| {
            format!(
                "networks: [{{kind: ClusterVirtualMachineNetwork, name: lan, uid: n, ready: {ready}, reason: NameTaken}}]"
            )
        };
        let (good, bad) = (entry(true), entry(false));
        assert_eq!(run(false, &hosts(&[("a", "")])), (Some(0), Some(true), "Ready"));
        assert_eq!(run(false, &hosts(&[("a", &good), ("b", &bad)])), (Some(1), Some(false), "NotReady"));
        assert_eq!(run(true, &hosts(&[("a", "")])), (Some(0), Some(false), "NoHost"));
        assert_eq!(run(true, &hosts(&[("a", &good), ("b", &bad)])), (Some(1), Some(true), "Ready"));
        assert_eq!(run(true, &hosts(&[("b", &bad)])), (Some(0), Some(false), "NotReady"));
    }
}
