//! Hypervisor: one per host; everything that is a fact of a node.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Accelerator, ImageKind, NetworkKind};
use crate::quantity::Quantity;
use crate::vm::DomainState;

mod inventory;

pub use inventory::*;

/// What an administrator says of a host.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubevmm.io",
    version = "v1beta1",
    kind = "Hypervisor",
    plural = "hypervisors",
    shortname = "hv",
    category = "kubevmm",
    status = "HypervisorStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A libvirt host: what the administrator says of it and what its executor finds there. It has the name of its Node and is made by the controller.",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Maintenance", type_ = "boolean", json_path = ".spec.maintenance"),
    printcolumn(name = "VMs", type_ = "integer", json_path = ".status.domainCount"),
    printcolumn(name = "vCPUs", type_ = "string", json_path = ".status.usage.cpu"),
    printcolumn(name = "Memory", type_ = "string", json_path = ".status.usage.memory"),
    printcolumn(name = "Accelerator", type_ = "string", json_path = ".status.accelerator.type"),
    printcolumn(name = "Orphans", type_ = "integer", json_path = ".status.orphanCount"),
    printcolumn(name = "Foreign", type_ = "integer", json_path = ".status.foreignCount"),
    printcolumn(name = "CPU Model", type_ = "string", json_path = ".status.capabilities.cpu.model", priority = "1"),
    printcolumn(name = "Libvirt", type_ = "string", json_path = ".status.libvirtVersion", priority = "1"),
    printcolumn(name = "QEMU", type_ = "string", json_path = ".status.hypervisorVersion", priority = "1"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = "1"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct HypervisorSpec {
    /// How guests' CPUs run here. Auto (default): KVM where a probe shows that it works, TCG otherwise. KVM and TCG
    /// overrule the probe for the VMs that are started from then on.
    #[serde(default, skip_serializing_if = "crate::common::is_default")]
    pub accelerator: AcceleratorPolicy,
    /// No VM is placed or started here while this is true. What runs goes on; `virtctl node drain` moves it away.
    #[serde(default, skip_serializing_if = "crate::common::is_default")]
    pub maintenance: bool,
    /// How much more VMs may be promised than the host has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overcommit: Option<Overcommit>,
    /// What is kept for the host itself, beside what its kubelet keeps: it is not in status.allocatable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_reserved: Option<SystemReserved>,
}

/// How much more VMs may be promised than a host has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Overcommit {
    /// Most virtual CPUs of running domains for each CPU of the host. Without it, only the VMs' CPU requests count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub cpu: Option<u32>,
}

/// What is kept of a host for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SystemReserved {
    /// CPU, for example 500m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Quantity>,
    /// Memory, for example 2Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
}

/// How guests' CPUs run on a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AcceleratorPolicy {
    /// KVM where a probe shows that it works, TCG otherwise.
    #[default]
    Auto,
    /// Hardware virtualisation.
    KVM,
    /// QEMU's own translator.
    TCG,
}

/// What the executor finds on its host. Lists are sorted by their keys; long ones are written as a whole, for the API
/// server keeps who owns each entry of those that are not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HypervisorStatus {
    /// Session of the executor that wrote this: the holder of its Lease when it last read the host's domains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// libvirt URI that the executor is connected to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Driver of libvirt, for example QEMU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Version of libvirt, for example 11.3.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libvirt_version: Option<String>,
    /// Version of QEMU, for example 10.0.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervisor_version: Option<String>,
    /// Architecture of the host, for example x86_64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// CPUs of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<i64>,
    /// Memory of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// How guests' CPUs run here, and by which evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<AcceleratorStatus>,
    /// What guests can be given here, as libvirt says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<HostCapabilities>,
    /// NUMA cells of the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id"]))]
    pub numa: Vec<NumaCell>,
    /// Devices that a guest can be given: PCI, USB and mediated ones. At most 512; what is left out is counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub devices: Vec<HostDevice>,
    /// Number of devices that `devices` leaves out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlisted_device_count: Option<i32>,
    /// What VMs can be promised: the host without huge pages and spec.systemReserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocatable: Option<HostResources>,
    /// What running domains have, whoever made them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<HostUsage>,
    /// Of it, what has no placement pod: foreign and observed domains, and orphans. The node keeps it for them by the pod
    /// `kubevmm-reservation-<node>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmanaged: Option<HostUsage>,
    /// How full the host is, in words for people: `used` beside what there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageInWords>,
    /// Storage pools of VirtualMachineStoragePool objects that select this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub pools: Vec<HostPool>,
    /// Networks of ours that are up here, and `existing` ones with their state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub networks: Vec<HostNetwork>,
    /// Images that are cached here or on their way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub images: Vec<HostImage>,
    /// The host's domains: each that bears this project's mark, and the first 500 by UUID of those that do not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub domains: Vec<HostDomain>,
    /// Number of domains that bear this project's mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain_count: Option<i32>,
    /// Number of them that have no VirtualMachine here. They are never touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orphan_count: Option<i32>,
    /// Number of domains without this project's mark. They are never touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign_count: Option<i32>,
    /// Number of domains that `domains` leaves out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlisted_count: Option<i32>,
    /// Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::common::conditions")]
    pub conditions: Vec<Condition>,
}

/// How guests' CPUs run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AcceleratorStatus {
    /// KVM or TCG.
    #[serde(rename = "type")]
    pub kind: Accelerator,
    /// What shows it: the result of the probe, or the administrator's word.
    pub evidence: String,
}

/// A storage pool on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostPool {
    /// Name of the VirtualMachineStoragePool.
    pub name: String,
    /// Its UID: a report of an object that is gone is told apart.
    pub uid: String,
    /// The pool is active and can be used.
    pub ready: bool,
    /// Why it is not: NameTaken, PoolNotMounted, PoolNotFound, PoolInactive, LibvirtError.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Size of the pool. Written when it changes by 1% or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Quantity>,
    /// Space that is left. Written when it changes by 1% of the capacity or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<Quantity>,
}

/// A network on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostNetwork {
    /// VirtualMachineNetwork or ClusterVirtualMachineNetwork.
    pub kind: NetworkKind,
    /// Namespace of a VirtualMachineNetwork.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the object.
    pub name: String,
    /// UID of the object.
    pub uid: String,
    /// The network is up.
    pub ready: bool,
    /// Why it is not: NameTaken, NetworkNotFound, NetworkInactive, LibvirtError.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// State of an image on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImageState {
    /// On its way.
    Downloading,
    /// Whole and read by this host; it is used once its digest is that of the image's status.
    Downloaded,
    /// Could not be had; tried again with growing pauses.
    Failed,
}

/// An image on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostImage {
    /// VirtualMachineImage or ClusterVirtualMachineImage.
    pub kind: ImageKind,
    /// Namespace of a VirtualMachineImage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the object.
    pub name: String,
    /// UID of the object.
    pub uid: String,
    /// VirtualMachineStoragePool that the copy lies in.
    pub pool_name: String,
    /// Name of the volume.
    pub volume_name: String,
    /// Downloading, Downloaded or Failed.
    pub state: ImageState,
    /// Per cent of the download, in steps of 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<i32>,
    /// `sha256:` digest of what was downloaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Format of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<crate::image::ImageFormat>,
    /// Size of the disk that the image holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_size: Option<Quantity>,
    /// Why it failed: DownloadFailed, ChecksumMismatch, DigestChanged, FormatMismatch, BackingFileRefused,
    /// NotAnImage, ImageInDoubt, LibvirtError.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A domain of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostDomain {
    /// UUID of the domain.
    pub uuid: String,
    /// Name of the domain.
    pub name: String,
    /// State, in libvirt's words.
    pub state: DomainState,
    /// The mark of this project in the domain's metadata. Without one, the domain is foreign: it is never changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<DomainMark>,
    /// It has a mark, but no VirtualMachine with this UID is placed on this host. It is never touched.
    #[serde(default, skip_serializing_if = "crate::common::is_default")]
    pub orphan: bool,
    /// It has no mark, and a VirtualMachine with spec.management Observe watches it. It is never changed.
    #[serde(default, skip_serializing_if = "crate::common::is_default")]
    pub observed: bool,
}

/// What a domain's mark says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DomainMark {
    /// UID of the namespace kube-system of the cluster that made the domain.
    #[serde(rename = "clusterID")]
    pub cluster_id: String,
    /// Namespace of its VirtualMachine.
    pub namespace: String,
    /// Name of its VirtualMachine.
    pub name: String,
    /// UID of its VirtualMachine.
    pub uid: String,
    /// Epoch of the placement that it was made for.
    pub epoch: i64,
}

impl HostDomain {
    /// The mark, if it is one of this VirtualMachine of this cluster.
    pub fn mark_of(&self, cluster_id: &str, uid: &str) -> Option<&DomainMark> {
        self.mark.as_ref().filter(|mark| mark.cluster_id == cluster_id && mark.uid == uid)
    }
}
