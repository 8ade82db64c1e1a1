//! What a VM needs of a host: the controller finds it out and writes it on the placement pod, the scheduler extender
//! compares it with what the hosts have ([`crate::fit`]).

use serde::{Deserialize, Serialize};

use crate::common::{ImageKind, NetworkKind};
use crate::hypervisor::DeviceBus;

/// Annotation of a placement pod: [`Requirements`] as JSON.
pub const REQUIREMENTS: &str = "kubevmm.io/requirements";

/// What a VM needs of a host. Empty fields need nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Requirements {
    /// The one host that it may run on: that of the domain that it was imported from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// The host that it was on last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_node: Option<String>,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory of the guest and of QEMU itself, in bytes.
    pub memory: u64,
    /// Storage pools of its disks, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<PoolNeed>,
    /// Disks whose volumes lie on one host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub local_disks: Vec<LocalDisk>,
    /// What one host alone has of the VM beside its disks: the variables of its UEFI, the state of its TPM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_node: Option<String>,
    /// Images that disks are to be made from. A host that has them is better than one that has not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImageNeed>,
    /// Networks of its NICs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkNeed>,
    /// Named CPU model of a guest whose CPU is not that of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// CPU features that it must have (`policy: require`; one that is forced is told to the guest in any case).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpu_features: Vec<String>,
    /// Machine type, such as `q35` or `pc-i440fx-10.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// Firmware in the words of [`crate::hypervisor::HostCapabilities::firmwares`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// Back end of its TPM: `emulator`, `passthrough`, `external`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm_backend: Option<String>,
    /// Its domain is one of KVM, which a host without KVM cannot run.
    #[serde(skip_serializing_if = "crate::common::is_default")]
    pub kvm: bool,
    /// Devices of the host that it is given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceNeed>,
}

/// A storage pool that a VM's disks lie in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolNeed {
    /// Name of the VirtualMachineStoragePool.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The pool is one for all its hosts: what is promised to it on one of them is gone on all.
    #[serde(skip_serializing_if = "crate::common::is_default")]
    pub shared: bool,
    /// Bytes of the volumes that are yet to be made in it.
    #[serde(skip_serializing_if = "crate::common::is_default")]
    pub bytes: u64,
}

/// A disk whose volume lies on one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalDisk {
    /// Name of the VirtualMachineDisk.
    pub name: String,
    /// The host.
    pub node: String,
}

/// An image that a disk is to be made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageNeed {
    /// VirtualMachineImage or ClusterVirtualMachineImage.
    pub kind: ImageKind,
    /// Namespace of a VirtualMachineImage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the object.
    pub name: String,
    /// VirtualMachineStoragePool of the disk.
    pub pool: String,
}

/// A network of a NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkNeed {
    /// VirtualMachineNetwork or ClusterVirtualMachineNetwork.
    pub kind: NetworkKind,
    /// Namespace of a VirtualMachineNetwork.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the object.
    pub name: String,
    /// UID of the object.
    pub uid: String,
    /// It is made on a host when the first VM there needs it: a host that does not tell of it can have it.
    #[serde(default, skip_serializing_if = "crate::common::is_default")]
    pub everywhere: bool,
}

/// A device of the host that a guest is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceNeed {
    /// PCI, USB or MDEV.
    pub bus: DeviceBus,
    /// Address, in the words of [`crate::hypervisor::HostDevice::address`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Vendor of a USB device that is named by what it is, as four hexadecimal digits.
    #[serde(rename = "vendorID", skip_serializing_if = "Option::is_none")]
    pub vendor_id: Option<String>,
    /// Product of such a device.
    #[serde(rename = "productID", skip_serializing_if = "Option::is_none")]
    pub product_id: Option<String>,
}

impl Requirements {
    /// Reads the annotation.
    ///
    /// # Errors
    /// When it is not JSON of this form.
    pub fn parse(annotation: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(annotation)
    }

    /// The only host that it can run on, where there is just one.
    pub fn only_host(&self) -> Option<&str> {
        let disks = self.local_disks.iter().map(|disk| disk.node.as_str());
        let mut hosts = self.home.as_deref().into_iter().chain(self.state_node.as_deref()).chain(disks);
        let first = hosts.next()?;
        hosts.all(|host| host == first).then_some(first)
    }

    /// The annotation. Deterministic: the same needs are the same text.
    pub fn to_annotation(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}
