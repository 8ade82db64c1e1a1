//! VirtualMachineStoragePool: where volumes lie.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::common::host_name;
use crate::names;

/// A libvirt storage pool on each node that it selects.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubevmm.io",
    version = "v1beta1",
    kind = "VirtualMachineStoragePool",
    plural = "virtualmachinestoragepools",
    shortname = "vmpool",
    category = "kubevmm",
    status = "VirtualMachineStoragePoolStatus",
    derive = "PartialEq",
    doc = "A libvirt storage pool on each node that it selects. Capacity and state on each host are in the Hypervisor's status.",
    printcolumn(name = "Shared", type_ = "boolean", json_path = ".spec.shared"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Hosts", type_ = "integer", json_path = ".status.readyHosts"),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "has(self.dir) != has(self.existing)",
        "message": "a pool needs exactly one of dir (a directory that becomes a libvirt pool) and existing (a pool that the hosts have already)",
    },
    {
        "rule": "has(self.dir) == has(oldSelf.dir) && (!has(self.dir) || self.dir == oldSelf.dir) && (!has(self.existing) || self.existing == oldSelf.existing)",
        "message": "dir and existing are immutable: create another pool",
    },
    {
        "rule": "self.?shared.orValue(false) == oldSelf.?shared.orValue(false)",
        "message": "shared is immutable: create another pool",
    },
]))]
pub struct VirtualMachineStoragePoolSpec {
    /// A directory of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<DirPool>,
    /// A libvirt pool that the hosts have already: used, never changed or deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing: Option<ExistingPool>,
    /// Every selected node sees the same files (NFS, a cluster file system): a VM can move between them. The target
    /// must be mounted on each of them.
    #[serde(default, skip_serializing_if = "crate::common::is_default")]
    pub shared: bool,
    /// Labels of the nodes that have the pool. All nodes, when left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
}

impl VirtualMachineStoragePool {
    /// Name of the libvirt pool behind the object.
    pub fn libvirt_name(&self) -> String {
        match &self.spec.existing {
            Some(existing) => existing.name.clone(),
            None => names::pool(self.metadata.name.as_deref().unwrap_or_default()),
        }
    }
}

/// A directory of the host that becomes a libvirt pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DirPool {
    /// Absolute path. It is created where it is missing (but never for a shared pool).
    #[schemars(length(min = 2, max = 1024), regex(pattern = r"^(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+$"))]
    pub path: String,
}

/// A libvirt pool that the hosts have already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExistingPool {
    /// Its libvirt name.
    #[schemars(schema_with = "host_name")]
    pub name: String,
}

/// What is known of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineStoragePoolStatus {
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Number of hosts on which the pool can be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_hosts: Option<i32>,
    /// Ready: True when at least one host can use it; the message names those that cannot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::common::conditions")]
    pub conditions: Vec<Condition>,
}
