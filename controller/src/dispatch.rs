//! Which objects a change may matter to.
//!
//! Asking once too often costs a look at the mirror; not asking is a VM that waits for ever.

use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use kubevmm_api::common::{ImageKind, NetworkKind};
use kubevmm_api::{LABEL_VM, VirtualMachine, VirtualMachineDisk, condition, effective};

use crate::budget;
use crate::disk::decide::{existing_volume, names as names_disk, volume_name};
use crate::hypervisor::reservation;
use crate::key::Key;
use crate::object::{is_deleting, name, uid};
use crate::queue::Queue;
use crate::world::{Change, World};

/// Queues what `change` may matter to.
pub fn dispatch(world: &World, queue: &Queue<Key>, change: &Change) {
    match change {
        Change::Vm(vm) => {
            let namespace = vm.namespace().unwrap_or_default();
            queue.add(Key::Vm(namespace.clone(), vm.name_any()));
            for disk in &vm.spec.disks {
                queue.add(Key::Disk(namespace.clone(), effective::disk_name(&vm.name_any(), disk)));
            }
            held_disks(world, queue, &namespace, uid(vm.as_ref()));
            leaving_kinds(world, queue);
            if budget::is_affected(world, &namespace, vm) {
                queue.add(Key::Budget(namespace.clone()));
            }
            if let Some(class) = &vm.spec.class_name {
                queue.add(Key::Class(class.clone()));
            }
            for network in vm.spec.networks.iter().filter_map(|nic| nic.network.as_ref()) {
                queue.add(Key::network(network.kind, &namespace, &network.name));
            }
            let effective = vm.status.as_ref().and_then(|status| status.effective.as_ref());
            for network in effective.iter().flat_map(|effective| &effective.networks) {
                queue.add(Key::network(network.kind, &namespace, &network.network_name));
            }
        }
        Change::Disk(disk) => {
            let namespace = disk.namespace().unwrap_or_default();
            queue.add(Key::Disk(namespace.clone(), disk.name_any()));
            if let Some(image) = &disk.spec.source.image {
                queue.add(Key::image(image.kind, &namespace, &image.name));
            }
            if let Some(pool) = disk.status.as_ref().and_then(|status| status.pool_name.as_ref()) {
                queue.add(Key::Pool(pool.clone()));
            }
            users_of(world, queue, disk);
            // Who waits for a volume that this disk had.
            let volume = volume_name(disk);
            for other in world.disks.state_filter(|other| volume.is_some() && existing_volume(other) == volume) {
                users_of(world, queue, &other);
            }
        }
        Change::Pod(pod) => {
            if let Some(vm) = pod.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_VM)) {
                queue.add(Key::Vm(pod.namespace().unwrap_or_default(), vm.clone()));
            }
            // What its VM had been promised is free: a device, space in a pool.
            if world.pods.get(&ObjectRef::from_obj(pod.as_ref())).is_none() {
                unplaced_vms(world, queue, None);
            }
        }
        Change::Reservation(pod) => {
            if let Some(host) = pod.metadata.labels.as_ref().and_then(|labels| labels.get(reservation::LABEL)) {
                queue.add(Key::Hypervisor(host.clone()));
            }
        }
        Change::Budget(budget) => queue.add(Key::Budget(budget.namespace().unwrap_or_default())),
        Change::Class(class) => {
            queue.add(Key::Class(class.name_any()));
            unplaced_vms(world, queue, None);
        }
        Change::Image(image) => {
            let namespace = image.namespace().unwrap_or_default();
            queue.add(Key::image(ImageKind::VirtualMachineImage, &namespace, name(image)));
            unplaced_vms(world, queue, None);
        }
        Change::ClusterImage(image) => {
            queue.add(Key::image(ImageKind::ClusterVirtualMachineImage, "", name(image)));
            unplaced_vms(world, queue, None);
        }
        Change::Network(network) => {
            let namespace = network.namespace().unwrap_or_default();
            queue.add(Key::network(NetworkKind::VirtualMachineNetwork, &namespace, name(network)));
            unplaced_vms(world, queue, None);
        }
        Change::ClusterNetwork(network) => {
            queue.add(Key::network(NetworkKind::ClusterVirtualMachineNetwork, "", name(network)));
            unplaced_vms(world, queue, None);
        }
        Change::Pool(pool) => {
            queue.add(Key::Pool(pool.name_any()));
            unplaced_vms(world, queue, None);
            for disk in world.disks.state_filter(|disk| disk.status.as_ref().is_none_or(|s| s.pool_name.is_none())) {
                queue.add(Key::Disk(disk.namespace().unwrap_or_default(), disk.name_any()));
            }
        }
        Change::Node(node) => {
            queue.add(Key::Hypervisor(node.name_any()));
            // Only the taint matters beyond the Hypervisor, and only for what waits for a lost host.
            if !world.hosts().is_live(name(node.as_ref())) {
                of_host(world, queue, name(node.as_ref()));
                shared_kinds(world, queue);
            }
        }
        Change::Hypervisor(hypervisor) => {
            queue.add(Key::Hypervisor(hypervisor.name_any()));
            unplaced_vms(world, queue, Some(name(hypervisor.as_ref())));
            of_host(world, queue, name(hypervisor.as_ref()));
            shared_kinds(world, queue);
        }
        Change::Host(host) => {
            queue.add(Key::Hypervisor(host.clone()));
            unplaced_vms(world, queue, Some(host));
            of_host(world, queue, host);
            shared_kinds(world, queue);
        }
        Change::Everything => everything(world, queue),
    }
}

/// VMs that hold or name the disk.
fn users_of(world: &World, queue: &Queue<Key>, disk: &VirtualMachineDisk) {
    let namespace = disk.namespace().unwrap_or_default();
    let held = disk.status.as_ref().and_then(|status| status.used_by.as_ref());
    for vm in world.vms.state() {
        let same = vm.metadata.namespace.as_deref() == Some(namespace.as_str());
        let holds = held.is_some_and(|holder| holder.uid == uid(vm.as_ref()));
        if same && (holds || names_disk(&vm, name(disk))) {
            queue.add(Key::Vm(namespace.clone(), vm.name_any()));
        }
    }
}

/// Disks that a VM holds without naming them any longer.
fn held_disks(world: &World, queue: &Queue<Key>, namespace: &str, vm_uid: &str) {
    for disk in world.disks.state_filter(|disk| {
        disk.metadata.namespace.as_deref() == Some(namespace)
            && disk.status.as_ref().and_then(|status| status.used_by.as_ref()).is_some_and(|by| by.uid == vm_uid)
    }) {
        queue.add(Key::Disk(namespace.to_owned(), disk.name_any()));
    }
}

/// Classes and networks that are being deleted: a VM may have been the last to name them, and names them no longer.
fn leaving_kinds(world: &World, queue: &Queue<Key>) {
    for class in world.classes.state_filter(is_deleting) {
        queue.add(Key::Class(class.name_any()));
    }
    for network in world.networks.state_filter(is_deleting) {
        let namespace = network.namespace().unwrap_or_default();
        queue.add(Key::network(NetworkKind::VirtualMachineNetwork, &namespace, name(network.as_ref())));
    }
    for network in world.cluster_networks.state_filter(is_deleting) {
        queue.add(Key::network(NetworkKind::ClusterVirtualMachineNetwork, "", name(network.as_ref())));
    }
}

/// The VM waits for nothing that a report of some host could bring.
fn is_settled(vm: &VirtualMachine) -> bool {
    // The deletion may wait for any host's word that it does not have the domain.
    let Some(status) = vm.status.as_ref().filter(|_| !is_deleting(vm)) else { return false };
    let holds = |kind| condition::is_true(&status.conditions, kind);
    if vm.spec.observed().is_some() {
        return holds(condition::SCHEDULED);
    }
    let confirmed = status.placement.as_ref().is_some_and(|placement| placement.confirmed.is_some());
    confirmed && holds(condition::SCHEDULED) && holds(condition::DISKS_READY)
}

/// VMs that wait for something, and those on `host`.
fn unplaced_vms(world: &World, queue: &Queue<Key>, host: Option<&str>) {
    for vm in world.vms.state() {
        let status = vm.status.as_ref();
        let here = host.is_some() && status.and_then(|status| status.node_name.as_deref()) == host;
        if !is_settled(&vm) || here {
            queue.add(Key::Vm(vm.namespace().unwrap_or_default(), vm.name_any()));
        }
    }
}

/// VMs that `host` tells of, and disks that lie there.
fn of_host(world: &World, queue: &Queue<Key>, host: &str) {
    let hosts = world.hosts();
    let domains = hosts.get(host).and_then(|host| host.status()).into_iter().flat_map(|status| &status.domains);
    for mark in domains.filter_map(|domain| domain.mark.as_ref()) {
        queue.add(Key::Vm(mark.namespace.clone(), mark.name.clone()));
    }
    for vm in world.vms.state() {
        if vm.status.as_ref().and_then(|status| status.node_name.as_deref()) == Some(host) {
            queue.add(Key::Vm(vm.namespace().unwrap_or_default(), vm.name_any()));
        }
    }
    for disk in world.disks.state() {
        let status = disk.status.as_ref();
        let there = status.and_then(|status| status.node_name.as_deref()) == Some(host);
        // A disk may wait for the report that its holder's domain is gone.
        if there || status.is_some_and(|status| status.used_by.is_some()) {
            queue.add(Key::Disk(disk.namespace().unwrap_or_default(), disk.name_any()));
        }
    }
}

/// Objects whose status is counted from the hosts' reports.
fn shared_kinds(world: &World, queue: &Queue<Key>) {
    for pool in world.pools.state() {
        queue.add(Key::Pool(pool.name_any()));
    }
    for image in world.images.state() {
        let namespace = image.namespace().unwrap_or_default();
        queue.add(Key::image(ImageKind::VirtualMachineImage, &namespace, name(image.as_ref())));
    }
    for image in world.cluster_images.state() {
        queue.add(Key::image(ImageKind::ClusterVirtualMachineImage, "", name(image.as_ref())));
    }
    for network in world.networks.state() {
        let namespace = network.namespace().unwrap_or_default();
        queue.add(Key::network(NetworkKind::VirtualMachineNetwork, &namespace, name(network.as_ref())));
    }
    for network in world.cluster_networks.state() {
        queue.add(Key::network(NetworkKind::ClusterVirtualMachineNetwork, "", name(network.as_ref())));
    }
}

fn everything(world: &World, queue: &Queue<Key>) {
    for vm in world.vms.state() {
        let namespace = vm.namespace().unwrap_or_default();
        queue.add(Key::Budget(namespace.clone()));
        queue.add(Key::Vm(namespace, vm.name_any()));
    }
    for budget in world.budgets.state() {
        queue.add(Key::Budget(budget.namespace().unwrap_or_default()));
    }
    for disk in world.disks.state() {
        queue.add(Key::Disk(disk.namespace().unwrap_or_default(), disk.name_any()));
    }
    for class in world.classes.state() {
        queue.add(Key::Class(class.name_any()));
    }
    for node in world.nodes.state() {
        queue.add(Key::Hypervisor(node.name_any()));
    }
    shared_kinds(world, queue);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn a_vm_that_is_being_deleted_hears_every_report() {
        let vm = |meta: &str| -> VirtualMachine {
            let condition = |kind: &str| {
                format!(
                    "{{type: {kind}, status: 'True', reason: R, message: '', \
                     lastTransitionTime: \"2026-01-01T00:00:00Z\"}}"
                )
            };
            yaml(&format!(
                "metadata: {{name: web, namespace: shop, uid: u, {meta}}}\nspec: {{}}\n\
                 status: {{nodeName: a, placement: {{epoch: 1, confirmed: a_1}}, conditions: [{}, {}]}}",
                condition("Scheduled"),
                condition("DisksReady")
            ))
        };
        assert!(is_settled(&vm("")));
        assert!(!is_settled(&vm("deletionTimestamp: \"2026-01-01T00:00:00Z\"")));
    }
}
