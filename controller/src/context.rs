//! What every reconciler works with.

use std::sync::Arc;

use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};
use kubevmm_api::common::{ImageKind, NetworkKind};
use kubevmm_api::{LABEL_VM, effective};

use crate::events::Events;
use crate::key::Key;
use crate::object::{name, uid};
use crate::queue::Queue;
use crate::vm::pauses::Pauses;
use crate::vm::view::{View, default_pools};
use crate::world::{Change, World};

/// Clients, mirrors and settings.
pub struct Context {
    /// Client of the API server.
    pub client: Client,
    /// The mirrored objects.
    pub world: Arc<World>,
    /// What is to be looked at.
    pub queue: Arc<Queue<Key>>,
    /// Kubernetes Events.
    pub events: Events,
    /// Pauses between placement pods that fail.
    pub pod_pauses: Pauses,
    /// UID of the namespace kube-system.
    pub cluster_id: String,
    /// Image of the placement pods.
    pub pause_image: String,
}

impl Context {
    /// What the VM `namespace/name` is judged by.
    pub fn view_of_vm(&self, namespace: &str, vm_name: &str) -> Option<View> {
        let world = &self.world;
        let vm = world.vms.get(&ObjectRef::new(vm_name).within(namespace))?;
        let spec = &vm.spec;
        let class = spec.class_name.as_ref().and_then(|class| world.classes.get(&ObjectRef::new(class)));
        let vm_uid = uid(vm.as_ref()).to_owned();
        let names: Vec<String> = spec.disks.iter().map(|disk| effective::disk_name(vm_name, disk)).collect();
        let disks = if crate::object::is_deleting(vm.as_ref()) {
            // Also what it named once: everything that it holds is given back.
            world.disks.state_filter(|disk| {
                disk.metadata.namespace.as_deref() == Some(namespace)
                    && disk
                        .status
                        .as_ref()
                        .and_then(|status| status.used_by.as_ref())
                        .is_some_and(|by| by.uid == vm_uid)
            })
        } else {
            names.iter().filter_map(|disk| world.disks.get(&ObjectRef::new(disk).within(namespace))).collect()
        };
        let templates = spec.disks.iter().filter_map(|disk| disk.template.as_ref()?.source.image.as_ref());
        let sources = disks.iter().filter_map(|disk| disk.spec.source.image.as_ref());
        let images = templates.chain(sources).filter(|image| self.has_image(namespace, image.kind, &image.name));
        let images = images.map(|image| (image.kind, image.name.clone())).collect();
        let networks = spec.networks.iter().filter_map(|nic| nic.network.as_ref());
        let networks = networks
            .filter(|network| network.kind == NetworkKind::VirtualMachineNetwork)
            .filter_map(|network| world.networks.get(&ObjectRef::new(&network.name).within(namespace)));
        Some(View {
            cluster_id: self.cluster_id.clone(),
            class,
            networks: networks.map(|network| (network.name_any(), network)).collect(),
            disks: disks.into_iter().map(|disk| (disk.name_any(), disk)).collect(),
            pools: world.pools.state().into_iter().map(|pool| (pool.name_any(), pool)).collect(),
            cluster_networks: world.cluster_networks.state().into_iter().map(|net| (net.name_any(), net)).collect(),
            images,
            pods: world.pods_of(&vm_uid),
            hosts: world.hosts(),
            pause_image: self.pause_image.clone(),
            pod_pause: None,
            vm,
        })
    }

    /// Names of the default pools.
    pub fn default_pools(&self) -> Vec<String> {
        let pools = self.world.pools.state();
        default_pools(pools.iter().map(AsRef::as_ref))
    }

    fn has_image(&self, namespace: &str, kind: ImageKind, image: &str) -> bool {
        match kind {
            ImageKind::VirtualMachineImage => self.world.images.get(&ObjectRef::new(image).within(namespace)).is_some(),
            ImageKind::ClusterVirtualMachineImage => self.world.cluster_images.get(&ObjectRef::new(image)).is_some(),
        }
    }
}

/// Queues what `change` may matter to.
pub fn dispatch(world: &World, queue: &Queue<Key>, change: &Change) {
    match change {
        Change::Vm(vm) => {
            let namespace = vm.namespace().unwrap_or_default();
            queue.add(Key::Vm(namespace.clone(), vm.name_any()));
            for disk in &vm.spec.disks {
                queue.add(Key::Disk(namespace.clone(), effective::disk_name(&vm.name_any(), disk)));
            }
            if crate::object::is_deleting(vm) || vm.status.as_ref().is_some_and(|status| !status.disks.is_empty()) {
                held_disks(world, queue, &namespace, uid(vm));
            }
            if let Some(class) = &vm.spec.class_name {
                queue.add(Key::Class(class.clone()));
            }
            for network in vm.spec.networks.iter().filter_map(|nic| nic.network.as_ref()) {
                queue.add(Key::network(network.kind, &namespace, &network.name));
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
            let disk_name = disk.name_any();
            for vm in world.vms.state() {
                let same = vm.metadata.namespace.as_deref() == Some(namespace.as_str());
                let held = disk.status.as_ref().and_then(|status| status.used_by.as_ref());
                let holds = held.is_some_and(|holder| holder.uid == uid(vm.as_ref()));
                if same && (holds || crate::disk::decide::names(&vm, &disk_name)) {
                    queue.add(Key::Vm(namespace.clone(), vm.name_any()));
                }
            }
        }
        Change::Pod(pod) => {
            if let Some(vm) = pod.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_VM)) {
                queue.add(Key::Vm(pod.namespace().unwrap_or_default(), vm.clone()));
            }
        }
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
            if !world.hosts().is_live(name(node)) {
                of_host(world, queue, name(node));
                shared_kinds(world, queue);
            }
        }
        Change::Hypervisor(hypervisor) => {
            queue.add(Key::Hypervisor(hypervisor.name_any()));
            unplaced_vms(world, queue, Some(name(hypervisor)));
            of_host(world, queue, name(hypervisor));
            shared_kinds(world, queue);
        }
        Change::Host(host) => {
            unplaced_vms(world, queue, Some(host));
            of_host(world, queue, host);
            shared_kinds(world, queue);
        }
        Change::Everything => everything(world, queue),
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

/// VMs that wait for something, and those on `host`.
fn unplaced_vms(world: &World, queue: &Queue<Key>, host: Option<&str>) {
    for vm in world.vms.state() {
        let status = vm.status.as_ref();
        let settled = status.is_some_and(|status| {
            status.placement.as_ref().is_some_and(|placement| placement.confirmed.is_some())
                && [kubevmm_api::condition::SCHEDULED, kubevmm_api::condition::DISKS_READY]
                    .iter()
                    .all(|kind| kubevmm_api::condition::is_true(&status.conditions, kind))
        });
        let here = host.is_some() && status.and_then(|status| status.node_name.as_deref()) == host;
        if !settled || here {
            queue.add(Key::Vm(vm.namespace().unwrap_or_default(), vm.name_any()));
        }
    }
}

/// VMs that `host` tells of, and disks that lie there.
fn of_host(world: &World, queue: &Queue<Key>, host: &str) {
    let hosts = world.hosts();
    for domain in hosts.get(host).and_then(|host| host.status()).iter().flat_map(|status| &status.domains) {
        queue.add(Key::Vm(domain.namespace.clone(), domain.name.clone()));
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
        queue.add(Key::Vm(vm.namespace().unwrap_or_default(), vm.name_any()));
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
