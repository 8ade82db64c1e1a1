//! What a host can give to guests, in libvirt's words.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::Quantity;

/// What guests can be given on a host: libvirt's domain capabilities, for the accelerator of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostCapabilities {
    /// The CPU.
    #[serde(default)]
    pub cpu: HostCpu,
    /// Machine types and their aliases, such as `pc-q35-10.0` and `q35`, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub machines: Vec<String>,
    /// Firmware: `bios`, `uefi`, and `uefi-secure-boot` (UEFI that enforces secure boot), sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub firmwares: Vec<String>,
    /// Back ends of a TPM: `emulator`, `passthrough`, `external`, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub tpm_backends: Vec<String>,
    /// Whether a guest can leave for another host while it runs, and by which transports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationCapabilities>,
}

/// The CPU of a host, and those that guests can be given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostCpu {
    /// The model that libvirt takes the host's CPU for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its vendor, such as Intel or AMD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// The named models that a guest can be given here, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub models: Vec<String>,
    /// Features that a guest's CPU can have here: all of those of `host-model`, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub features: Vec<String>,
}

/// How guests can leave a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct MigrationCapabilities {
    /// While they run.
    pub live: bool,
    /// Transports, such as tcp and rdma, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub transports: Vec<String>,
}

/// A NUMA cell of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NumaCell {
    /// Its number.
    pub id: i32,
    /// Its CPUs, such as `0-3,8`.
    pub cpus: String,
    /// Its memory.
    pub memory: Quantity,
    /// Its huge pages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["size"]))]
    pub huge_pages: Vec<HugePages>,
}

/// Huge pages of one size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HugePages {
    /// Size of a page, such as 2Mi.
    pub size: Quantity,
    /// Number of pages that are set aside.
    pub total: i64,
}

/// The bus of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum DeviceBus {
    /// PCI.
    #[default]
    PCI,
    /// USB.
    USB,
    /// A mediated device.
    MDEV,
}

/// A device of a host that a guest can be given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostDevice {
    /// libvirt's name of the node device, such as `pci_0000_03_00_0`.
    pub name: String,
    /// PCI, USB or MDEV.
    pub bus: DeviceBus,
    /// Address: `0000:03:00.0` of PCI, `1:4` (bus and device) of USB, the UUID of a mediated device.
    pub address: String,
    /// Vendor as four hexadecimal digits, such as 8086.
    #[serde(rename = "vendorID", default, skip_serializing_if = "Option::is_none")]
    pub vendor_id: Option<String>,
    /// Product as four hexadecimal digits.
    #[serde(rename = "productID", default, skip_serializing_if = "Option::is_none")]
    pub product_id: Option<String>,
    /// What it is, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Group of PCI devices that can only be given away together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iommu_group: Option<i32>,
    /// Most virtual functions of an SR-IOV device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_virtual_functions: Option<i32>,
    /// The SR-IOV device that it is a virtual function of, or the parent of a mediated device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Types of mediated devices that it can make, or the type that it is of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub mdev_types: Vec<String>,
    /// Name of the running domain that has it, where that is one without a placement pod: a foreign one, an orphan, or that
    /// of a VM that is only observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
}

/// What VMs can be promised on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostResources {
    /// Virtual CPUs of running domains: the host's CPUs, less what is reserved, times spec.overcommit.cpu. Without an
    /// overcommit nothing limits them but the CPU requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<i64>,
    /// CPU for requests.
    pub cpu: Quantity,
    /// Memory.
    pub memory: Quantity,
}

/// What running domains have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostUsage {
    /// Number of running domains.
    pub domains: i32,
    /// Their virtual CPUs.
    pub vcpus: i64,
    /// Their memory, with what QEMU itself needs.
    pub memory: Quantity,
}

/// How full a host is, in words for people. Programs read the numbers beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UsageInWords {
    /// Virtual CPUs of running domains, of the most that there may be where an overcommit limits them, else beside the
    /// host's CPUs: `12/80`.
    pub cpu: String,
    /// Memory of running domains, of what is allocatable: `9.5Gi/62Gi (15%)`.
    pub memory: String,
}
