//! The domains that hosts tell of, and what they keep a VM from. Pure.

use kubevmm_api::VirtualMachineStatus;
use kubevmm_api::condition::{self, HOST_RELEASED};
use kubevmm_api::hypervisor::{DomainMark, HostDomain};

use crate::object::enumerate;
use crate::vm::candidates::Refusal;
use crate::vm::view::View;

/// The domain of the VM that a host tells of with a higher epoch than the VM knows: node and epoch. An imported VM goes to
/// no other host for it.
pub fn held_with_higher_epoch(view: &View) -> Option<(&str, i64)> {
    let known = view.vm.status.as_ref().and_then(|status| status.placement.as_ref()).map_or(0, |p| p.epoch);
    let held = view.hosts.holding(&view.cluster_id, view.uid());
    let held = held.filter(|(node, ..)| view.home().is_none_or(|home| home == *node));
    held.map(|(node, _, mark)| (node, mark.epoch)).filter(|(_, epoch)| *epoch > known).max_by_key(|(_, epoch)| *epoch)
}

/// Every host has told its domains, and none of them stands in the way of a domain on `node`.
pub fn check_reports(view: &View, node: Option<&str>) -> Result<(), Refusal> {
    check_domains(view, node)?;
    match view.hosts.owing_reports().as_slice() {
        [] => Ok(()),
        owing => Err((
            "HostsNotReported",
            format!("nothing is placed or started before these hosts have told their domains: {}", enumerate(owing)),
        )),
    }
}

/// No domain that a host tells of stands in the way of one on `node`.
pub fn check_domains(view: &View, node: Option<&str>) -> Result<(), Refusal> {
    for (host, domain, mark) in view.hosts.marked_domains() {
        if mark.namespace != view.namespace() || mark.name != view.name() {
            continue;
        }
        let existing = view.vm.spec.existing_domain.as_ref();
        if existing.is_some_and(|existing| existing.node_name == host && existing.uuid == domain.uuid) {
            // The one that the VM is there for, whoever's it was before.
            continue;
        }
        if domain.mark_of(&view.cluster_id, view.uid()).is_none() {
            return Err((
                "OrphanFound",
                format!(
                    "the host {host} has the domain {} of an earlier VirtualMachine of this name (uid {}): save what \
                     is needed of it, then remove it there: virsh destroy {2}; virsh undefine {2}",
                    domain.name, mark.uid, domain.uuid
                ),
            ));
        }
        if let Some(node) = node.filter(|node| *node != host) {
            return Err(("HeldElsewhere", told_by_another(view, host, domain, mark, node)));
        }
    }
    Ok(())
}

/// What is said of a VM that `host` has a domain of, while it is to start on `node`.
fn told_by_another(view: &View, host: &str, domain: &HostDomain, mark: &DomainMark, node: &str) -> String {
    let HostDomain { name, uuid, .. } = domain;
    if !view.is_own(domain) {
        return format!(
            "the host {host} has a copy of this VM's domain, {name}, with the VM's mark, so the VM is not started on \
             {node}: {}; or remove it there: virsh destroy {uuid}; virsh undefine {uuid}",
            take_mark_off(uuid)
        );
    }
    format!(
        "the host {host} has the domain {name} of this VM, at epoch {}, as after a migration by hand: nothing is started \
         on {node} beside it. Bring it to {node} with virsh migrate; or save what is needed of it, then remove it on \
         {host}: virsh destroy {uuid}; virsh undefine {uuid}",
        mark.epoch
    )
}

/// How a person takes the mark off a domain that is to stay.
pub fn take_mark_off(uuid: &str) -> String {
    format!(
        "take the mark off there: virsh metadata {uuid} --uri https://kubevmm.io/libvirt/1 --remove --config, and once \
         more with --live if it runs"
    )
}

/// Another host may still have the domain, and so the disks: it tells of it, or has yet to tell what it has. Reason and
/// message. A person's word that the host is gone for good ends the waiting.
pub fn held_elsewhere(view: &View, status: &VirtualMachineStatus) -> Option<Refusal> {
    let released = condition::find(&status.conditions, HOST_RELEASED);
    if released.is_some_and(|released| released.status == "True" && released.reason == "HostOutOfService") {
        return None;
    }
    let elsewhere = |node: &str| Some(node) != status.node_name.as_deref() && view.hosts.is_live(node);
    let mut held = view.hosts.holding(&view.cluster_id, view.uid());
    if let Some((host, domain, _)) = held.find(|(host, ..)| elsewhere(host)) {
        let message = format!(
            "the VM is deleted once the host {host} does not have its domain {} any more, which nobody there stops: \
             save what is needed of it, then remove it there: virsh destroy {1}; virsh undefine {1}",
            domain.name, domain.uuid
        );
        return Some(("HeldElsewhere", message));
    }
    let owing = view.hosts.owing_reports();
    (!owing.is_empty()).then(|| {
        let message =
            format!("the VM is deleted once these hosts have told that they do not have it: {}", enumerate(&owing));
        ("HostsNotReported", message)
    })
}
