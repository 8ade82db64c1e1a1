//! VirtualMachineDisk: one volume of a storage pool.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Holder, ImageRef, dns_label};
use crate::quantity::Quantity;

/// One volume: its size, where it lies, what it is made from and what becomes of it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubevmm.io",
    version = "v1beta1",
    kind = "VirtualMachineDisk",
    plural = "virtualmachinedisks",
    shortname = "vmd",
    category = "kubevmm",
    namespaced,
    status = "VirtualMachineDiskStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A disk: one volume of a storage pool, used by one VirtualMachine at a time. The volume is made on the host of the first VM that uses it.",
    selectable = ".status.nodeName",
    printcolumn(name = "Size", type_ = "string", json_path = ".status.capacity"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".status.poolName"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.nodeName"),
    printcolumn(name = "Used-By", type_ = "string", json_path = ".status.usedBy.name"),
    printcolumn(
        name = "Provisioned",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Provisioned")].status"#
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Provisioned")].reason"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "has(self.size) || has(self.source.image)",
        "message": "size is required for a blank disk (a disk from an image has the image's size by default)",
    },
    {
        "rule": "has(self.size) == has(oldSelf.size) && (!has(self.size) || quantity(string(self.size)).compareTo(quantity(string(oldSelf.size))) == 0)",
        "message": "size is immutable: create a larger disk and copy the data",
    },
    {
        "rule": "self.source == oldSelf.source",
        "message": "source is immutable: create another disk",
    },
    {
        "rule": "has(self.poolName) == has(oldSelf.poolName) && (!has(self.poolName) || self.poolName == oldSelf.poolName)",
        "message": "poolName is immutable: create another disk in the other pool",
    },
]))]
pub struct VirtualMachineDiskSpec {
    /// Size that the guest sees, for example 20Gi. Required for a blank disk; the size of the image, when left out.
    /// Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::common::optional_size")]
    pub size: Option<Quantity>,
    /// VirtualMachineStoragePool that holds the volume. The default pool, when left out. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "dns_label")]
    pub pool_name: Option<String>,
    /// What the disk is made from. Immutable.
    pub source: DiskSource,
    /// What becomes of the volume when this object is deleted: Delete (default) removes it, Retain leaves it in its
    /// pool.
    #[serde(default, skip_serializing_if = "crate::common::is_default")]
    pub reclaim_policy: ReclaimPolicy,
}

/// What a disk is made from: exactly one of its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.blank), has(self.image)].filter(x, x).size() == 1",
    "message": "source needs exactly one of blank and image",
}]))]
pub struct DiskSource {
    /// An empty disk. Write `blank: {}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blank: Option<Blank>,
    /// A copy-on-write copy of an image. The image cannot be deleted while the disk exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
}

/// An empty disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Blank {}

/// What becomes of a volume when its object is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReclaimPolicy {
    /// The volume is deleted.
    #[default]
    Delete,
    /// The volume is left in its pool.
    Retain,
}

/// What is known of a disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineDiskStatus {
    /// The VM that holds the disk; the first one keeps it until it is gone or names the disk no longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<Holder>,
    /// The pool that the disk lies in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_name: Option<String>,
    /// Node whose host holds the volume (of a shared pool: where it was last used).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Name of the volume in its pool; written before the volume is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_name: Option<String>,
    /// Size that the guest sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Quantity>,
    /// Provisioned, HostReleased.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::common::conditions")]
    pub conditions: Vec<Condition>,
}
