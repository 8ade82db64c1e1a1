//! What a host offers, as small as comparing needs it.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::common::{Accelerator, ImageKind, NetworkKind};
use crate::condition;
use crate::hypervisor::{AcceleratorStatus, HostCapabilities, HostDevice, HypervisorStatus, ImageState};
use crate::{Hypervisor, Quantity};

/// What a VM is compared with: a Hypervisor without what no VM asks for. A cluster has thousands of them in memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offer {
    /// Why the executor does not call the host ready.
    pub not_ready: Option<String>,
    /// An administrator wants no VM placed there.
    pub maintenance: bool,
    /// How guests' CPUs run there.
    pub accelerator: Option<AcceleratorStatus>,
    /// What guests can be given. Older executors do not tell.
    pub capabilities: Option<Arc<HostCapabilities>>,
    /// Devices that guests can be given.
    pub devices: Box<[HostDevice]>,
    /// Devices that the executor has left out.
    pub unlisted_devices: i32,
    /// Storage pools.
    pub pools: Box<[OfferedPool]>,
    /// Networks.
    pub networks: Box<[OfferedNetwork]>,
    /// Images that are there or on their way.
    pub images: Box<[OfferedImage]>,
    /// Most virtual CPUs of VMs, where an administrator limits them.
    pub most_vcpus: Option<i64>,
    /// CPUs of the host.
    pub cpus: u64,
    /// Memory for VMs, in bytes.
    pub memory: u64,
    /// Virtual CPUs of running domains.
    pub used_vcpus: i64,
    /// Memory of running domains, in bytes.
    pub used_memory: u64,
    /// Virtual CPUs of those running domains that have no placement pod.
    pub unmanaged_vcpus: i64,
    /// Memory of those, in bytes.
    pub unmanaged_memory: u64,
}

/// A storage pool of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedPool {
    /// Name of the VirtualMachineStoragePool.
    pub name: Arc<str>,
    /// Its UID.
    pub uid: Arc<str>,
    /// Why it cannot be used.
    pub not_ready: Option<String>,
    /// Bytes that are left, when the executor has told.
    pub available: Option<u64>,
}

/// A network of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedNetwork {
    /// VirtualMachineNetwork or ClusterVirtualMachineNetwork.
    pub kind: NetworkKind,
    /// Namespace of a VirtualMachineNetwork.
    pub namespace: Option<Arc<str>>,
    /// Name of the object.
    pub name: Arc<str>,
    /// UID of the object.
    pub uid: Arc<str>,
    /// Why it cannot be used.
    pub not_ready: Option<String>,
}

/// An image of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedImage {
    /// VirtualMachineImage or ClusterVirtualMachineImage.
    pub kind: ImageKind,
    /// Namespace of a VirtualMachineImage.
    pub namespace: Option<Arc<str>>,
    /// Name of the object.
    pub name: Arc<str>,
    /// VirtualMachineStoragePool that the copy lies in.
    pub pool: Arc<str>,
    /// It is there as a whole; otherwise it is on its way.
    pub whole: bool,
}

impl Offer {
    /// What the Hypervisor offers.
    pub fn of(hypervisor: &Hypervisor) -> Self {
        let nothing = HypervisorStatus::default();
        let status = hypervisor.status.as_ref().unwrap_or(&nothing);
        let allocatable = status.allocatable.as_ref();
        let told = |ready: bool, message: &Option<String>, reason: &Option<String>| {
            let why = || message.as_deref().or(reason.as_deref()).unwrap_or("not ready").to_owned();
            (!ready).then(why)
        };
        Self {
            not_ready: not_ready(status),
            maintenance: hypervisor.spec.maintenance,
            accelerator: status.accelerator.clone(),
            capabilities: status.capabilities.clone().map(sorted).map(Arc::new),
            devices: status.devices.iter().map(needed_of_device).collect(),
            unlisted_devices: status.unlisted_device_count.unwrap_or_default(),
            pools: status
                .pools
                .iter()
                .map(|pool| OfferedPool {
                    name: pool.name.as_str().into(),
                    uid: pool.uid.as_str().into(),
                    not_ready: told(pool.ready, &pool.message, &pool.reason),
                    available: pool.available.as_ref().and_then(|size| size.bytes().ok()),
                })
                .collect(),
            networks: status
                .networks
                .iter()
                .map(|network| OfferedNetwork {
                    kind: network.kind,
                    namespace: network.namespace.as_deref().map(Arc::from),
                    name: network.name.as_str().into(),
                    uid: network.uid.as_str().into(),
                    not_ready: told(network.ready, &network.message, &network.reason),
                })
                .collect(),
            images: status
                .images
                .iter()
                .filter(|image| image.state != ImageState::Failed)
                .map(|image| OfferedImage {
                    kind: image.kind,
                    namespace: image.namespace.as_deref().map(Arc::from),
                    name: image.name.as_str().into(),
                    pool: image.pool_name.as_str().into(),
                    whole: image.state == ImageState::Downloaded,
                })
                .collect(),
            most_vcpus: allocatable.and_then(|resources| resources.vcpus),
            cpus: status.cpus.and_then(|cpus| u64::try_from(cpus).ok()).unwrap_or_default(),
            memory: bytes(allocatable.map(|resources| &resources.memory).or(status.memory.as_ref())),
            used_vcpus: status.used.as_ref().map(|used| used.vcpus).unwrap_or_default(),
            used_memory: bytes(status.used.as_ref().map(|used| &used.memory)),
            unmanaged_vcpus: status.unmanaged.as_ref().map(|used| used.vcpus).unwrap_or_default(),
            unmanaged_memory: bytes(status.unmanaged.as_ref().map(|used| &used.memory)),
        }
    }

    /// Shares what many hosts have in common. Beside the memory, it spares the time of reading the same word in another
    /// place for each host.
    pub fn share(&mut self, known: &mut Shared) {
        self.capabilities = self.capabilities.take().map(|own| shared(&mut known.capabilities, own));
        let words = &mut known.words;
        for pool in &mut self.pools {
            share(words, [&mut pool.name, &mut pool.uid]);
        }
        for network in &mut self.networks {
            share(words, [&mut network.name, &mut network.uid].into_iter().chain(&mut network.namespace));
        }
        for image in &mut self.images {
            share(words, [&mut image.name, &mut image.pool].into_iter().chain(&mut image.namespace));
        }
        known.forget_unused();
    }

    /// Whether KVM runs the guests' CPUs there.
    pub fn has_kvm(&self) -> bool {
        self.accelerator.as_ref().is_some_and(|accelerator| accelerator.kind == Accelerator::KVM)
    }
}

/// What the offers of many hosts have in common: those of one make have the same capabilities, and names are the
/// cluster's.
#[derive(Debug, Default)]
pub struct Shared {
    capabilities: HashSet<Arc<HostCapabilities>>,
    words: HashSet<Arc<str>>,
    /// How many there may be until those that no host has any more are looked for.
    most: usize,
}

impl Shared {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.capabilities.len() + self.words.len()
    }

    fn forget_unused(&mut self) {
        const FEW: usize = 1000;
        if self.len() > self.most {
            self.capabilities.retain(|one| Arc::strong_count(one) > 1);
            self.words.retain(|one| Arc::strong_count(one) > 1);
            self.most = 2 * self.len() + FEW;
        }
    }
}

fn share<'a>(known: &mut HashSet<Arc<str>>, words: impl IntoIterator<Item = &'a mut Arc<str>>) {
    for word in words {
        *word = shared(known, Arc::clone(word));
    }
}

fn shared<T: Eq + Hash + ?Sized>(known: &mut HashSet<Arc<T>>, own: Arc<T>) -> Arc<T> {
    if let Some(shared) = known.get(&own) {
        return Arc::clone(shared);
    }
    known.insert(Arc::clone(&own));
    own
}

/// Sorted, as an executor writes them, whoever has written these: they are searched by halves.
fn sorted(mut capabilities: HostCapabilities) -> HostCapabilities {
    let HostCapabilities { cpu, machines, firmwares, tpm_backends, .. } = &mut capabilities;
    for list in [&mut cpu.models, &mut cpu.features, machines, firmwares, tpm_backends] {
        list.sort_unstable();
    }
    capabilities
}

fn not_ready(status: &HypervisorStatus) -> Option<String> {
    match condition::find(&status.conditions, condition::READY) {
        None => Some("its executor has not reported yet".into()),
        Some(ready) if ready.status == "True" => None,
        Some(ready) if ready.message.is_empty() => Some(ready.reason.clone()),
        Some(ready) => Some(ready.message.clone()),
    }
}

/// A device without what is for people only.
fn needed_of_device(device: &HostDevice) -> HostDevice {
    HostDevice {
        bus: device.bus,
        address: device.address.clone(),
        vendor_id: device.vendor_id.clone(),
        product_id: device.product_id.clone(),
        iommu_group: device.iommu_group,
        used_by: device.used_by.clone(),
        ..HostDevice::default()
    }
}

fn bytes(size: Option<&Quantity>) -> u64 {
    size.and_then(|size| size.bytes().ok()).unwrap_or_default()
}
