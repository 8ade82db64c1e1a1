//! What a VM is judged by.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use k8s_openapi::api::core::v1::Pod;
use kubevmm_api::common::{ImageKind, ImageRef, NetworkKind};
use kubevmm_api::fit::Claims;
use kubevmm_api::hypervisor::HostDomain;
use kubevmm_api::{
    ClusterVirtualMachineNetwork, VirtualMachine, VirtualMachineClass, VirtualMachineDisk, VirtualMachineNetwork,
    VirtualMachineStatus, VirtualMachineStoragePool,
};

use crate::hosts::Hosts;
use crate::object::{name, uid};

/// A VM and everything that its placement depends on, at one moment.
#[derive(Debug, Clone)]
pub struct View {
    /// The VM.
    pub vm: Arc<VirtualMachine>,
    /// UID of this cluster's namespace kube-system.
    pub cluster_id: String,
    /// The class that spec.className names.
    pub class: Option<Arc<VirtualMachineClass>>,
    /// Disks of the namespace that the VM names or holds, by name.
    pub disks: BTreeMap<String, Arc<VirtualMachineDisk>>,
    /// Disks of any namespace that may have the volume of one of `disks` that a host had already.
    pub rivals: Vec<Arc<VirtualMachineDisk>>,
    /// Every storage pool, by name.
    pub pools: BTreeMap<String, Arc<VirtualMachineStoragePool>>,
    /// Networks of the namespace that the VM names, by name.
    pub networks: BTreeMap<String, Arc<VirtualMachineNetwork>>,
    /// Cluster networks, by name.
    pub cluster_networks: BTreeMap<String, Arc<ClusterVirtualMachineNetwork>>,
    /// Images that the disks of the VM name and that exist.
    pub images: BTreeMap<(ImageKind, String), Image>,
    /// The VM's placement pods: in its namespace, and controlled by it.
    pub pods: Vec<Arc<Pod>>,
    /// The hosts.
    pub hosts: Arc<Hosts>,
    /// What the placed VMs have been promised of the hosts.
    pub claims: Arc<RwLock<Claims>>,
    /// UIDs of the pods whose claims do not count for this VM: its own, and those that came after it.
    pub apart_from: Vec<String>,
    /// Image of the placement pods.
    pub pause_image: String,
    /// CPU that is requested for each virtual CPU of a VM that does not say it, in thousandths.
    pub millis_per_vcpu: u64,
    /// Why the next placement pod is not due yet: reason and message.
    pub pod_pause: Option<(&'static str, String)>,
    /// The VM whose memory on the node of this VM's new pod is not free yet: see [`crate::vm::room::taken_by`].
    pub taken_by: Option<String>,
    /// The namespace is being deleted, as far as it was asked: see [`crate::vm::eviction::evicted`].
    pub namespace_ends: bool,
    /// Why the API server has refused a disk of the VM, while it is not asked again.
    pub disk_refused: Option<String>,
}

/// What counts of an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Image {
    /// It is being deleted.
    pub leaving: bool,
    /// Bytes of the disk that it holds, once that is known.
    pub size: Option<u64>,
}

impl View {
    /// Namespace of the VM.
    pub fn namespace(&self) -> &str {
        self.vm.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Name of the VM.
    pub fn name(&self) -> &str {
        name(self.vm.as_ref())
    }

    /// UID of the VM.
    pub fn uid(&self) -> &str {
        uid(self.vm.as_ref())
    }

    /// The node that the VM never leaves: that of the domain that it was imported from.
    pub fn home(&self) -> Option<&str> {
        self.vm.spec.existing_domain.as_ref().map(|existing| existing.node_name.as_str())
    }

    /// Whether a domain with the VM's mark is its own one. Who copies a domain copies its mark, too.
    pub fn is_own(&self, domain: &HostDomain) -> bool {
        domain.uuid.eq_ignore_ascii_case(self.vm.spec.domain_uuid().unwrap_or(self.uid()))
    }

    /// Status of the VM.
    pub fn status(&self) -> VirtualMachineStatus {
        self.vm.status.clone().unwrap_or_default()
    }

    /// The placement pod `name`.
    pub fn pod(&self, pod: &str) -> Option<&Pod> {
        self.pods.iter().map(AsRef::as_ref).find(|candidate: &&Pod| name(*candidate) == pod)
    }

    /// The image, when there is one.
    pub fn image(&self, image: &ImageRef) -> Option<Image> {
        self.images.get(&(image.kind, image.name.clone())).copied()
    }

    /// The cluster networks that are annotated as the default.
    pub fn default_networks(&self) -> Vec<&str> {
        let networks = self.cluster_networks.values();
        networks.filter(|network| is_default(network.as_ref())).map(|network| name(network.as_ref())).collect()
    }

    /// The pools that are annotated as the default.
    pub fn default_pools(&self) -> Vec<String> {
        default_pools(self.pools.values().map(AsRef::as_ref))
    }

    /// The networks of the VM's NICs, resolved: NIC, kind, name.
    pub fn nics(&self) -> Vec<(&str, NetworkKind, Option<&str>)> {
        let defaults = self.default_networks();
        let fallback = if let [only] = defaults.as_slice() { Some(*only) } else { None };
        let networks = self.vm.spec.networks.iter();
        networks
            .map(|nic| match &nic.network {
                Some(network) => (nic.name.as_str(), network.kind, Some(network.name.as_str())),
                None => (nic.name.as_str(), NetworkKind::ClusterVirtualMachineNetwork, fallback),
            })
            .collect()
    }
}

/// Whether an object bears the annotation `kubevmm.io/is-default: "true"` and is not being deleted.
pub fn is_default<K: kube::Resource>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_none()
        && object
            .meta()
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(kubevmm_api::IS_DEFAULT))
            .is_some_and(|value| value == "true")
}

/// Names of the default pools, sorted.
pub fn default_pools<'a>(pools: impl Iterator<Item = &'a VirtualMachineStoragePool>) -> Vec<String> {
    let mut names: Vec<String> = pools.filter(|pool| is_default(*pool)).map(|pool| name(pool).to_owned()).collect();
    names.sort();
    names
}
