//! VirtualMachineDisk: one volume of a storage pool.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Holder, ImageRef, dns_label};
use crate::image::ImageFormat;
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
        "rule": "has(self.size) || has(self.source.image) || has(self.source.existing)",
        "message": "size is required for a blank disk (a disk from an image has the image's size by default)",
    },
    {
        "rule": "!has(self.size) || !has(self.source.existing)",
        "message": "size does not go with source.existing: leave it out, for the volume has its size",
    },
    {
        "rule": "has(self.poolName) || !has(self.source.existing)",
        "message": "poolName is required with source.existing: name the VirtualMachineStoragePool in which the volume lies",
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
    /// Size that the guest sees, for example 20Gi. Required for a blank disk; the size of the image, when left out. An
    /// existing volume has its size: leave it out. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::common::optional_size")]
    pub size: Option<Quantity>,
    /// VirtualMachineStoragePool that holds the volume. The default pool, when left out; required for an existing
    /// volume. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "dns_label")]
    pub pool_name: Option<String>,
    /// What the disk is made from. Immutable.
    pub source: DiskSource,
    /// What becomes of the volume when this object is deleted: Delete removes it, Retain leaves it in its pool. When left
    /// out: Retain for source.existing, Delete for all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::common::inline::<ReclaimPolicy>")]
    pub reclaim_policy: Option<ReclaimPolicy>,
}

impl VirtualMachineDiskSpec {
    /// What becomes of the volume when the object is deleted: what was there before the object stays, unless its owner
    /// says otherwise.
    pub fn reclaim_policy(&self) -> ReclaimPolicy {
        let default = if self.source.existing.is_some() { ReclaimPolicy::Retain } else { ReclaimPolicy::Delete };
        self.reclaim_policy.unwrap_or(default)
    }
}

/// What a disk is made from: exactly one of its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.blank), has(self.image), has(self.existing)].filter(x, x).size() == 1",
    "message": "source needs exactly one of blank, image and existing",
}]))]
pub struct DiskSource {
    /// An empty disk. Write `blank: {}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blank: Option<Blank>,
    /// A copy-on-write copy of an image. The image cannot be deleted while the disk exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
    /// A volume that a host has already: used as it is, never made, and left where it is when this object is deleted,
    /// unless reclaimPolicy is Delete. Naming it takes the right to import from that host: the ClusterRole
    /// kubevmm-import. Not in the template of a VirtualMachine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing: Option<ExistingVolume>,
}

/// A volume that a host has already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExistingVolume {
    /// Node whose host has the volume. VMs run there, unless the pool is shared.
    #[schemars(schema_with = "crate::common::node_name")]
    pub node_name: String,
    /// libvirt's name of the volume in the pool: `virsh vol-list POOL` on the host. One VirtualMachineDisk at a time has
    /// it.
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[^/\x00-\x1f\x7f]+$"))]
    pub volume_name: String,
    /// Format of the volume: raw or qcow2. It is never taken from what the volume holds, for the guest of a raw disk can
    /// write there what looks like a qcow2 that is based on any file of the host.
    #[schemars(schema_with = "crate::common::inline::<ImageFormat>")]
    pub format: ImageFormat,
}

/// An empty disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Blank {}

/// What becomes of a volume when its object is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReclaimPolicy {
    /// The volume is deleted.
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
    /// Name of the volume in its pool; written before the volume is created, or an existing one used.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_before_stays_unless_its_owner_says_otherwise() {
        let policy = |text: &str| {
            let spec: VirtualMachineDiskSpec = serde_yaml_ng::from_str(text).unwrap();
            spec.reclaim_policy()
        };
        let existing = "poolName: fast, source: {existing: {nodeName: a, volumeName: v, format: raw}}";
        assert_eq!(policy("{size: 1Gi, source: {blank: {}}}"), ReclaimPolicy::Delete);
        assert_eq!(policy("{size: 1Gi, source: {blank: {}}, reclaimPolicy: Retain}"), ReclaimPolicy::Retain);
        assert_eq!(policy(&format!("{{{existing}}}")), ReclaimPolicy::Retain);
        assert_eq!(policy(&format!("{{{existing}, reclaimPolicy: Delete}}")), ReclaimPolicy::Delete);
    }
}
