//! What a pool's status says: pure.

use kubevmm_api::condition::{READY, Wanted};
use kubevmm_api::hypervisor::HostPool;
use kubevmm_api::{VirtualMachineStoragePool, VirtualMachineStoragePoolStatus};

use crate::hosts::{Hosts, complaints};
use crate::lifecycle::{Action, steps};
use crate::object::uid;

/// The steps for a pool.
pub fn decide(
    pool: &VirtualMachineStoragePool,
    users: &[String],
    hosts: &Hosts,
) -> Vec<Action<VirtualMachineStoragePoolStatus>> {
    let told = hosts.told(|status| &status.pools);
    let reports: Vec<(&str, &HostPool)> = told.filter(|(_, report)| report.uid == uid(pool)).collect();
    let names: Vec<&str> = reports.iter().map(|(host, _)| *host).collect();
    steps(pool, users, &names, || status(&reports))
}

/// Images of which a host keeps a copy in the pool `name`.
pub fn images_in(name: &str, hosts: &Hosts) -> Vec<String> {
    let images = hosts.told(|status| &status.images).map(|(_, image)| image);
    images
        .filter(|image| image.pool_name == name)
        .map(|image| match &image.namespace {
            Some(namespace) => format!("{:?} {namespace}/{}", image.kind, image.name),
            None => format!("{:?} {}", image.kind, image.name),
        })
        .collect()
}

fn status(reports: &[(&str, &HostPool)]) -> (VirtualMachineStoragePoolStatus, Wanted) {
    let ready = reports.iter().filter(|(_, pool)| pool.ready).count();
    let troubled = reports.iter().filter(|(_, pool)| !pool.ready);
    let trouble = complaints(troubled.map(|(host, pool)| (*host, &pool.message, &pool.reason)), "not ready");
    let condition = if ready > 0 {
        Wanted::yes(READY, "Ready", trouble)
    } else if trouble.is_empty() {
        Wanted::no(READY, "NoHost", "no host has the pool: spec.nodeSelector selects no node with a ready Hypervisor")
    } else {
        Wanted::no(READY, "NotReady", trouble)
    };
    let status = VirtualMachineStoragePoolStatus {
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

    #[test]
    fn a_pool_is_ready_where_a_host_says_so_and_names_the_others() {
        let pool: VirtualMachineStoragePool =
            yaml("metadata: {name: fast, uid: p, finalizers: [kubevmm.io/cleanup]}\nspec: {dir: {path: /x}}");
        let run = |hosts: &Hosts| match decide(&pool, &[], hosts).as_slice() {
            [Action::Write(status, ready)] => (status.ready_hosts, ready.reason, ready.message.clone()),
            other => panic!("{other:?}"),
        };
        let good = "pools: [{name: fast, uid: p, ready: true}]";
        let bad = "pools: [{name: fast, uid: p, ready: false, reason: PoolNotMounted, message: '/x is not mounted'}]";
        let old = "pools: [{name: fast, uid: earlier, ready: true}]";
        assert_eq!(run(&hosts(&[("a", good), ("b", bad)])), (Some(1), "Ready", "b: /x is not mounted".into()));
        assert_eq!(run(&hosts(&[("b", bad)])), (Some(0), "NotReady", "b: /x is not mounted".into()));
        assert_eq!(run(&hosts(&[("a", old)])).1, "NoHost");
    }
}
