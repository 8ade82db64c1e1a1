//! What every reconciler works with.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};
use kubevmm_api::common::{ImageKind, NetworkKind};
use kubevmm_api::{LABEL_VM, VirtualMachine, VirtualMachineImageStatus, effective};

use crate::disk::decide::{existing_volume, volume_name};
use crate::events::{Events, Notices};
use crate::key::Key;
use crate::lease::Proof;
use crate::object::{is_deleting, uid};
use crate::queue::Queue;
use crate::vm::pauses::Pauses;
use crate::vm::pod::bound_at;
use crate::vm::view::{Image, View, default_pools};
use crate::world::World;
use kubevmm_api::pod::node_of;

/// Clients, mirrors and settings.
pub struct Context {
    /// Client of the API server.
    pub client: Client,
    /// Shows that this controller is the one that acts.
    pub lease: Proof,
    /// The mirrored objects.
    pub world: Arc<World>,
    /// What is to be looked at.
    pub queue: Arc<Queue<Key>>,
    /// Kubernetes Events.
    pub events: Events,
    /// What was last said of objects without a status.
    pub notices: Notices,
    /// Pauses between placement pods that fail.
    pub pod_pauses: Pauses,
    /// Pauses between disks that the API server refuses.
    pub disk_pauses: Pauses,
    /// UID of the namespace kube-system.
    pub cluster_id: String,
    /// The webhook of evictions is served.
    pub answers_evictions: bool,
    /// Image of the placement pods.
    pub pause_image: String,
    /// CPU that is requested for each virtual CPU of a VM that does not say it, in thousandths.
    pub millis_per_vcpu: u64,
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
        let disks = if is_deleting(vm.as_ref()) || spec.observed().is_some() {
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
        let named: BTreeSet<&str> = disks.iter().filter_map(|disk| existing_volume(disk)).collect();
        let rivals = match named.is_empty() {
            true => vec![],
            false => world.disks.state_filter(|disk| volume_name(disk).is_some_and(|volume| named.contains(volume))),
        };
        let templates = spec.disks.iter().filter_map(|disk| disk.template.as_ref()?.source.image.as_ref());
        let sources = disks.iter().filter_map(|disk| disk.spec.source.image.as_ref());
        let images = templates.chain(sources).filter_map(|image| {
            let found = self.image(namespace, image.kind, &image.name)?;
            Some(((image.kind, image.name.clone()), found))
        });
        let images = images.collect();
        let networks = spec.networks.iter().filter_map(|nic| nic.network.as_ref());
        let networks = networks
            .filter(|network| network.kind == NetworkKind::VirtualMachineNetwork)
            .filter_map(|network| world.networks.get(&ObjectRef::new(&network.name).within(namespace)));
        let pods = world.pods_of(namespace, &vm_uid);
        Some(View {
            cluster_id: self.cluster_id.clone(),
            class,
            networks: networks.map(|network| (network.name_any(), network)).collect(),
            rivals,
            disks: disks.into_iter().map(|disk| (disk.name_any(), disk)).collect(),
            pools: world.pools.state().into_iter().map(|pool| (pool.name_any(), pool)).collect(),
            cluster_networks: world.cluster_networks.state().into_iter().map(|net| (net.name_any(), net)).collect(),
            images,
            apart_from: self.apart_from(&vm, &pods),
            pods,
            hosts: world.hosts(),
            claims: world.claims(),
            pause_image: self.pause_image.clone(),
            millis_per_vcpu: self.millis_per_vcpu,
            pod_pause: None,
            taken_by: None,
            namespace_ends: false,
            disk_refused: None,
            vm,
        })
    }

    /// UIDs of the pods whose claims do not stand in the way of the VM with these pods. Of two that were given one thing
    /// at the same time, one must go on: the VM that is placed there, or else the one whose pod was there first.
    fn apart_from(&self, vm: &VirtualMachine, own: &[Arc<Pod>]) -> Vec<String> {
        let mut apart: Vec<String> = own.iter().map(|pod| uid(pod.as_ref()).to_owned()).collect();
        let is_placed =
            vm.status.as_ref().is_some_and(|status| status.placement.as_ref().is_some_and(|p| p.pod_uid.is_some()));
        let bound = own.iter().filter(|_| !is_placed).find_map(|pod| node_of(pod).map(|_| bound_at(pod)));
        let Some(at) = bound else { return apart };
        // On any host: what is promised of a shared pool is gone on all.
        let later = self.world.pods.state_filter(|pod| node_of(pod).is_some() && bound_at(pod) > at);
        let unplaced = later.iter().filter(|pod| !self.is_placed_by(pod)).map(|pod| uid(pod.as_ref()).to_owned());
        apart.extend(unplaced);
        apart
    }

    /// Whether a VM has been placed where this pod is.
    fn is_placed_by(&self, pod: &Pod) -> bool {
        let name = pod.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL_VM));
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let vm = name.and_then(|name| self.world.vms.get(&ObjectRef::new(name).within(namespace)));
        let placement = vm.as_ref().and_then(|vm| vm.status.as_ref()?.placement.as_ref());
        placement.is_some_and(|placement| placement.pod_uid.as_deref() == Some(uid(pod)))
    }

    /// Names of the default pools.
    pub fn default_pools(&self) -> Vec<String> {
        let pools = self.world.pools.state();
        default_pools(pools.iter().map(AsRef::as_ref))
    }

    /// The image, when there is one.
    fn image(&self, namespace: &str, kind: ImageKind, image: &str) -> Option<Image> {
        let facts = |leaving: bool, status: Option<&VirtualMachineImageStatus>| {
            let size = status.and_then(|status| status.virtual_size.as_ref()?.bytes().ok());
            Some(Image { leaving, size })
        };
        match kind {
            ImageKind::VirtualMachineImage => {
                let image = self.world.images.get(&ObjectRef::new(image).within(namespace))?;
                facts(is_deleting(image.as_ref()), image.status.as_ref())
            }
            ImageKind::ClusterVirtualMachineImage => {
                let image = self.world.cluster_images.get(&ObjectRef::new(image))?;
                facts(is_deleting(image.as_ref()), image.status.as_ref())
            }
        }
    }
}
