//! What a host offers, as small as comparing needs it.

use std::collections::HashSet;
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
    pub name: String,
    /// Its UID.
    pub uid: String,
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
    pub namespace: Option<String>,
    /// Name of the object.
    pub name: String,
    /// UID of the object.
    pub uid: String,
    /// Why it cannot be used.
    pub not_ready: Option<String>,
}

/// An image of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedImage {
    /// VirtualMachineImage or ClusterVirtualMachineImage.
    pub kind: ImageKind,
    /// Namespace of a VirtualMachineImage.
    pub namespace: Option<String>,
    /// Name of the object.
    pub name: String,
    /// VirtualMachineStoragePool that the copy lies in.
    pub pool: String,
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
            capabilities: status.capabilities.clone().map(Arc::new),
            devices: status.devices.iter().map(needed_of_device).collect(),
            unlisted_devices: status.unlisted_device_count.unwrap_or_default(),
            pools: status
                .pools
                .iter()
                .map(|pool| OfferedPool {
                    name: pool.name.clone(),
                    uid: pool.uid.clone(),
                    not_ready: told(pool.ready, &pool.message, &pool.reason),
                    available: pool.available.as_ref().and_then(|size| size.bytes().ok()),
                })
                .collect(),
            networks: status
                .networks
                .iter()
                .map(|network| OfferedNetwork {
                    kind: network.kind,
                    namespace: network.namespace.clone(),
                    name: network.name.clone(),
                    uid: network.uid.clone(),
                    not_ready: told(network.ready, &network.message, &network.reason),
                })
                .collect(),
            images: status
                .images
                .iter()
                .filter(|image| image.state != ImageState::Failed)
                .map(|image| OfferedImage {
                    kind: image.kind,
                    namespace: image.namespace.clone(),
                    name: image.name.clone(),
                    pool: image.pool_name.clone(),
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

    /// Shares what many hosts have in common: those of one make have the same capabilities.
    pub fn share(&mut self, known: &mut HashSet<Arc<HostCapabilities>>) {
        if let Some(own) = self.capabilities.take() {
            let shared = known.get(&own).cloned().unwrap_or_else(|| {
                known.insert(Arc::clone(&own));
                own
            });
            self.capabilities = Some(shared);
        }
    }

    /// Whether KVM runs the guests' CPUs there.
    pub fn has_kvm(&self) -> bool {
        self.accelerator.as_ref().is_some_and(|accelerator| accelerator.kind == Accelerator::KVM)
    }
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
        ..HostDevice::default()
    }
}

fn bytes(size: Option<&Quantity>) -> u64 {
    size.and_then(|size| size.bytes().ok()).unwrap_or_default()
}
