//! What is to be done about a disk: pure.
//!
//! ```text
//! a VM takes the disk (vm::disks)      usedBy = the VM
//! the VM is gone, or is off and names
//! the disk no longer                   usedBy = nobody
//! deleted, usedBy = nobody             no volume: let go
//!                                      a volume: the executor of nodeName deletes it, HostReleased, let go
//! ```
//!
//! A volume that its host had already is there before any VM takes the disk. When it is to go with the disk, nodeName
//! is given to a disk that no VM has used, so that an executor deletes it.

use std::sync::Arc;

use kube::ResourceExt;
use kubevmm_api::condition::{self, HOST_RELEASED, Wanted};
use kubevmm_api::disk::ReclaimPolicy;
use kubevmm_api::vm::DomainState;
use kubevmm_api::{VirtualMachine, VirtualMachineDisk, effective};

use crate::disk::status::Owned;
use crate::hosts::Hosts;
use crate::object::{has_finalizer, is_deleting, name, uid};

/// What a disk is judged by.
#[derive(Debug)]
pub struct View<'a> {
    /// The disk.
    pub disk: &'a VirtualMachineDisk,
    /// The VM of the name that `status.usedBy` gives, whatever its UID.
    pub holder: Option<Arc<VirtualMachine>>,
    /// Pools that are annotated as the default.
    pub default_pools: &'a [String],
    /// UID of this cluster's namespace kube-system.
    pub cluster_id: &'a str,
    /// The hosts.
    pub hosts: &'a Hosts,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Put the finalizer on.
    AddFinalizer,
    /// Take the finalizer off.
    RemoveFinalizer,
    /// Write our part of the status.
    Write(Owned),
}

/// The steps for a disk.
pub fn decide(view: &View<'_>) -> Vec<Action> {
    let disk = view.disk;
    if !has_finalizer(disk) {
        return if is_deleting(disk) { vec![] } else { vec![Action::AddFinalizer] };
    }
    let mut owned = Owned::of(disk);
    if is_free(view) {
        owned.used_by = None;
    }
    if owned.pool_name.is_none() && !is_deleting(disk) {
        owned.pool_name = pool_of(disk, view.default_pools);
    }
    if is_deleting(disk) && owned.used_by.is_none() {
        let status = disk.status.clone().unwrap_or_default();
        let unused = unused_volume(view);
        if status.node_name.is_none()
            && let Some(node) = unused
        {
            owned.node_name = Some(node.to_owned());
            owned.pool_name = pool_of(disk, view.default_pools);
            return vec![Action::Write(owned)];
        }
        let (Some(_), Some(node)) = (status.volume_name.as_deref().or(unused), &status.node_name) else {
            return vec![Action::RemoveFinalizer];
        };
        if condition::is_true(&status.conditions, HOST_RELEASED) {
            return vec![Action::RemoveFinalizer];
        }
        if view.hosts.is_gone_for_good(node) {
            owned.host_released = Some(Wanted::yes(
                HOST_RELEASED,
                "HostOutOfService",
                format!("the Node {node} is out of service: the volume, if it is still there, is left to its host"),
            ));
        }
    }
    if owned == Owned::of(disk) { vec![] } else { vec![Action::Write(owned)] }
}

/// The node of a volume that shall go with the disk though no VM has used it. (A host that this cluster has never had is
/// nobody's to wait for.)
fn unused_volume<'a>(view: &View<'a>) -> Option<&'a str> {
    let spec = &view.disk.spec;
    let existing = spec.source.existing.as_ref().filter(|_| spec.reclaim_policy() == ReclaimPolicy::Delete)?;
    view.hosts.get(&existing.node_name).map(|_| existing.node_name.as_str())
}

/// Name of the volume that the disk is made from, when its host had it already.
pub fn existing_volume(disk: &VirtualMachineDisk) -> Option<&str> {
    disk.spec.source.existing.as_ref().map(|existing| existing.volume_name.as_str())
}

/// Name of the volume that the disk is or shall be, as far as it is known.
pub fn volume_name(disk: &VirtualMachineDisk) -> Option<&str> {
    existing_volume(disk).or_else(|| disk.status.as_ref()?.volume_name.as_deref())
}

/// The pool that a disk lies in or shall lie in.
pub fn pool_of(disk: &VirtualMachineDisk, default_pools: &[String]) -> Option<String> {
    let known = disk.status.as_ref().and_then(|status| status.pool_name.clone());
    known.or_else(|| disk.spec.pool_name.clone()).or_else(|| match default_pools {
        [only] => Some(only.clone()),
        _ => None,
    })
}

/// Nobody holds the disk any longer.
fn is_free(view: &View<'_>) -> bool {
    let Some(holder) = view.disk.status.as_ref().and_then(|status| status.used_by.as_ref()) else { return false };
    let mut left = view.hosts.holding(view.cluster_id, &holder.uid);
    match view.holder.as_deref().filter(|vm| uid(*vm) == holder.uid) {
        // A VM whose finalizer was forced off may have left its domain on the disk.
        None => left.next().is_none(),
        // A VM that is being deleted gives its disks back itself, when its host has released it. One that is off keeps
        // its domain defined: the executor defines it anew, without the disk, before it starts it.
        Some(vm) => {
            // A domain that crashed may keep its QEMU, for somebody to look into it.
            let runs = left.any(|(_, domain, _)| domain.state != DomainState::Shutoff);
            !is_deleting(vm) && !names(vm, name(view.disk)) && is_off(vm) && !runs
        }
    }
}

/// Whether the spec of `vm` names the disk.
pub fn names(vm: &VirtualMachine, disk: &str) -> bool {
    vm.spec.disks.iter().any(|entry| effective::disk_name(&vm.name_any(), entry) == disk)
}

/// No domain of the VM runs, and none is about to.
fn is_off(vm: &VirtualMachine) -> bool {
    vm.status.as_ref().is_none_or(|status| {
        let idle = status.placement.as_ref().is_none_or(|placement| placement.confirmed.is_none());
        idle && !status.is_active()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, hosts, yaml};

    fn run(disk: &VirtualMachineDisk, holder: Option<VirtualMachine>, hosts: &Hosts) -> Vec<Action> {
        decide(&View { disk, holder: holder.map(Arc::new), default_pools: &[], cluster_id: testing::CLUSTER, hosts })
    }

    fn disk(meta: &str, status: &str) -> VirtualMachineDisk {
        yaml(&format!(
            "metadata: {{name: data, namespace: shop, uid: d, finalizers: [kubevmm.io/cleanup], {meta}}}\n\
             spec: {{size: 1Gi, poolName: fast, source: {{blank: {{}}}}}}\nstatus: {{poolName: fast, {status}}}"
        ))
    }

    fn vm(meta: &str, spec: &str, status: &str) -> VirtualMachine {
        yaml(&format!(
            "metadata: {{name: web, namespace: shop, uid: u, {meta}}}\nspec: {{{spec}}}\nstatus: {{{status}}}"
        ))
    }

    const HELD: &str = "usedBy: {name: web, uid: u}";

    fn freed(disk: &VirtualMachineDisk) -> Vec<Action> {
        vec![Action::Write(Owned { used_by: None, ..Owned::of(disk) })]
    }

    #[test]
    fn a_new_disk_gets_the_finalizer_then_its_pool() {
        let mut new = disk("", "");
        new.metadata.finalizers = None;
        new.status = None;
        assert_eq!(run(&new, None, &Hosts::default()), [Action::AddFinalizer]);
        new.metadata.finalizers = Some(vec![kubevmm_api::FINALIZER.into()]);
        let owned = Owned { pool_name: Some("fast".into()), ..Owned::default() };
        assert_eq!(run(&new, None, &Hosts::default()), [Action::Write(owned)]);
    }

    #[test]
    fn a_holder_keeps_the_disk_until_it_is_off_and_names_it_no_longer() {
        let (disk, none) = (disk("", HELD), Hosts::default());
        let naming = "disks: [{name: d, diskName: data}]";
        assert_eq!(run(&disk, Some(vm("", naming, "")), &none), []);
        assert_eq!(run(&disk, Some(vm("", "", "placement: {epoch: 1, confirmed: s}")), &none), [], "about to start");
        let running = "domain: {name: shop.web, uuid: u, epoch: 1, state: Running}";
        assert_eq!(run(&disk, Some(vm("", "", running)), &none), []);
        assert_eq!(run(&disk, Some(vm("", "", "")), &none), freed(&disk));
    }

    #[test]
    fn a_holder_that_is_gone_gives_the_disk_back_unless_its_domain_is_left() {
        let disk = disk("", HELD);
        assert_eq!(run(&disk, None, &Hosts::default()), freed(&disk));
        let mut other = vm("", "disks: [{name: d, diskName: data}]", "");
        other.metadata.uid = Some("new".into());
        assert_eq!(run(&disk, Some(other), &Hosts::default()), freed(&disk), "a namesake is another VM");
        let left = hosts(&[(
            "a",
            "domains: [{uuid: u, name: shop.web, state: Running, mark: {clusterID: cluster, namespace: shop, name: web, uid: u, epoch: 1}}]",
        )]);
        assert_eq!(run(&disk, None, &left), []);
    }

    #[test]
    fn a_domain_that_is_only_defined_does_not_keep_a_disk_that_its_vm_names_no_longer() {
        let disk = disk("", HELD);
        let with = |state: &str| {
            hosts(&[(
                "a",
                &format!(
                    "domains: [{{uuid: u, name: shop.web, state: {state}, mark: {{clusterID: cluster, \
                     namespace: shop, name: web, uid: u, epoch: 1}}}}]"
                ),
            )])
        };
        assert_eq!(run(&disk, Some(vm("", "", "")), &with("Shutoff")), freed(&disk));
        assert_eq!(run(&disk, Some(vm("", "", "")), &with("Running")), [], "the host knows better than the status");
        assert_eq!(run(&disk, None, &with("Shutoff")), [], "without its VM nobody defines it anew");
        let copied = hosts(&[(
            "a",
            "domains: [{uuid: copy, name: copy, state: Running, mark: {clusterID: cluster, namespace: shop, name: web, uid: u, epoch: 1}}]",
        )]);
        assert_eq!(run(&disk, Some(vm("", "", "")), &copied), [], "a copy of the domain may use its disks");
    }

    #[test]
    fn a_deleted_disk_goes_when_nobody_holds_it_and_no_volume_is_left() {
        let gone = "deletionTimestamp: \"2026-01-01T00:00:00Z\"";
        let none = Hosts::default();
        let deleting = vm(gone, "disks: [{name: d, diskName: data}]", "nodeName: a");
        assert_eq!(run(&disk(gone, HELD), Some(deleting), &none), [], "its VM has not released it");
        assert_eq!(run(&disk(gone, ""), None, &none), [Action::RemoveFinalizer], "it never had a volume");
        let volume = "volumeName: v, nodeName: a";
        assert_eq!(run(&disk(gone, volume), None, &hosts(&[("a", "")])), [], "the executor deletes it");
        let released = format!(
            "{volume}, conditions: [{{type: HostReleased, status: 'True', reason: Deleted, message: '', lastTransitionTime: \"2026-01-01T00:00:00Z\"}}]"
        );
        assert_eq!(run(&disk(gone, &released), None, &none), [Action::RemoveFinalizer]);
    }

    #[test]
    fn a_volume_that_was_there_before_goes_with_its_disk_only_when_told_to() {
        let deleted = |policy: &str, status: &str| -> VirtualMachineDisk {
            yaml(&format!(
                "metadata: {{name: data, namespace: shop, uid: d, finalizers: [kubevmm.io/cleanup], \
                 deletionTimestamp: \"2026-01-01T00:00:00Z\"}}\n\
                 spec: {{poolName: fast, {policy} source: {{existing: {{nodeName: a, volumeName: v, format: raw}}}}}}\n\
                 status: {{{status}}}"
            ))
        };
        let (delete, here) = ("reclaimPolicy: Delete,", hosts(&[("a", "")]));
        assert_eq!(run(&deleted("", ""), None, &here), [Action::RemoveFinalizer], "no VM has used it, and it stays");
        let owned = Owned { node_name: Some("a".into()), pool_name: Some("fast".into()), ..Owned::default() };
        assert_eq!(run(&deleted(delete, ""), None, &here), [Action::Write(owned)]);
        let placed = "poolName: fast, nodeName: a";
        assert_eq!(run(&deleted(delete, placed), None, &here), [], "the executor deletes it");
        let missing = run(&deleted(delete, ""), None, &hosts(&[("b", "")]));
        assert_eq!(missing, [Action::RemoveFinalizer], "a host that never was");
        let released = format!(
            "{placed}, conditions: [{{type: HostReleased, status: 'True', reason: Released, message: '', lastTransitionTime: \"2026-01-01T00:00:00Z\"}}]"
        );
        assert_eq!(run(&deleted(delete, &released), None, &here), [Action::RemoveFinalizer]);
    }

    #[test]
    fn a_volume_on_a_lost_host_is_given_up_only_on_a_persons_word() {
        let disk = disk("deletionTimestamp: \"2026-01-01T00:00:00Z\"", "volumeName: v, nodeName: a");
        let mut lost = hosts(&[("a", "")]);
        testing::lose(&mut lost, "a");
        assert_eq!(run(&disk, None, &lost), []);
        testing::out_of_service(&mut lost, "a");
        let actions = run(&disk, None, &lost);
        let [Action::Write(owned)] = actions.as_slice() else { panic!("{actions:?}") };
        assert_eq!(owned.host_released.as_ref().map(|wanted| wanted.reason), Some("HostOutOfService"));
    }
}
