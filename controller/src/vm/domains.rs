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
    let held = held.filter(|(node, domain, _)| view.is_own(domain) && view.home().is_none_or(|home| home == *node));
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
    if !view.is_own(domain) {
        return format!("{}; the VM is not started on {node} before", describe_copy(host, domain));
    }
    let HostDomain { name, uuid, .. } = domain;
    format!(
        "the host {host} has the domain {name} of this VM, at epoch {}, as after a migration by hand: nothing is started \
         on {node} beside it. Bring it to {node} with virsh migrate; or save what is needed of it, then remove it on \
         {host}: virsh destroy {uuid}; virsh undefine {uuid}",
        mark.epoch
    )
}

/// What is said of a domain that bears the mark of a VM and is another one, and the ways out.
fn describe_copy(host: &str, domain: &HostDomain) -> String {
    let HostDomain { name, uuid, .. } = domain;
    format!(
        "the host {host} has the domain {name}, a copy of this VM's with its mark: to keep it, {}; or remove it there: \
         virsh destroy {uuid}; virsh undefine {uuid}",
        take_mark_off(uuid)
    )
}

fn take_mark_off(uuid: &str) -> String {
    format!(
        "take the mark off there: virsh metadata {uuid} --uri https://kubevmm.io/libvirt/1 --remove --config, and once \
         more with --live if it runs"
    )
}

/// A domain with the VM's mark that the executor of `node`, the VM's own, takes no mark off: on another host, or a copy.
/// What is said of it.
pub fn marked_beside(view: &View, node: &str) -> Option<String> {
    let mut marked = view.hosts.holding(&view.cluster_id, view.uid());
    let (host, domain, _) = marked.find(|(host, domain, _)| *host != node || !view.is_own(domain))?;
    Some(if view.is_own(domain) {
        format!(
            "the host {host} has the domain {} with the mark of this VM, which nobody there takes off: {}",
            domain.name,
            take_mark_off(&domain.uuid)
        )
    } else {
        describe_copy(host, domain)
    })
}

/// Another host may still have the domain, and so the disks: it tells of it, or has yet to tell what it has. So may a copy
/// of the domain, on any host. Reason and message. A person's word that the host is gone for good ends the waiting.
pub fn held_elsewhere(view: &View, status: &VirtualMachineStatus) -> Option<Refusal> {
    let released = condition::find(&status.conditions, HOST_RELEASED);
    if released.is_some_and(|released| released.status == "True" && released.reason == "HostOutOfService") {
        return None;
    }
    // The report that the VM's own host has it may be older than the executor's word that it has not.
    let own_host = |host: &str| Some(host) == status.node_name.as_deref();
    let mut held = view.hosts.holding(&view.cluster_id, view.uid()).filter(|(host, ..)| view.hosts.is_live(host));
    if let Some((host, domain, _)) = held.find(|(host, domain, _)| !own_host(host) || !view.is_own(domain)) {
        let message = if view.is_own(domain) {
            format!(
                "the VM is deleted once the host {host} does not have its domain {} any more, which nobody there stops: \
                 save what is needed of it, then remove it there: virsh destroy {1}; virsh undefine {1}",
                domain.name, domain.uuid
            )
        } else {
            format!("{}; the VM is not deleted before", describe_copy(host, domain))
        };
        return Some(("HeldElsewhere", message));
    }
    let owing = view.hosts.owing_reports();
    (!owing.is_empty()).then(|| {
        let message =
            format!("the VM is deleted once these hosts have told that they do not have it: {}", enumerate(&owing));
        ("HostsNotReported", message)
    })
}
