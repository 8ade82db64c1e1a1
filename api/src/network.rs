//! VirtualMachineNetwork and its cluster-wide twin: what NICs connect to.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::host_name;

/// A network of a namespace.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubevmm.io",
    version = "v1beta1",
    kind = "VirtualMachineNetwork",
    plural = "virtualmachinenetworks",
    shortname = "vmnet",
    category = "kubevmm",
    namespaced,
    status = "VirtualMachineNetworkStatus",
    derive = "PartialEq",
    doc = "A network for the VMs of a namespace. A nat network is a separate segment on each host: VMs on different hosts do not see each other.",
    printcolumn(name = "Subnet", type_ = "string", json_path = ".spec.nat.subnet"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Hosts", type_ = "integer", json_path = ".status.readyHosts"),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self == oldSelf",
    "message": "a network is immutable: create another one",
}]))]
pub struct VirtualMachineNetworkSpec {
    /// A private segment on each host, with DHCP, behind the host's address.
    pub nat: NatNetwork,
}

/// A network of the cluster.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubevmm.io",
    version = "v1beta1",
    kind = "ClusterVirtualMachineNetwork",
    plural = "clustervirtualmachinenetworks",
    shortname = "cvmnet",
    category = "kubevmm",
    status = "VirtualMachineNetworkStatus",
    derive = "PartialEq",
    doc = "A network for the VMs of the namespaces that it allows: nat, or a libvirt network or bridge that the hosts have already.",
    printcolumn(name = "Subnet", type_ = "string", json_path = ".spec.nat.subnet"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Hosts", type_ = "integer", json_path = ".status.readyHosts"),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "has(self.nat) != has(self.existing)",
        "message": "a cluster network needs exactly one of nat and existing",
    },
    {
        "rule": "has(self.nat) == has(oldSelf.nat) && (!has(self.nat) || self.nat == oldSelf.nat) && (!has(self.existing) || self.existing == oldSelf.existing)",
        "message": "nat and existing are immutable: create another network",
    },
]))]
pub struct ClusterVirtualMachineNetworkSpec {
    /// A private segment on each host, with DHCP, behind the host's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<NatNetwork>,
    /// A libvirt network or a bridge that the hosts have already: used, never changed or deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing: Option<ExistingNetwork>,
    /// Namespaces whose VMs may use the network; `*` is all of them. None, when left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63), regex(pattern = r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$")), extend("x-kubernetes-list-type" = "set"))]
    pub allowed_namespaces: Vec<String>,
}

impl ClusterVirtualMachineNetworkSpec {
    /// Whether VMs of `namespace` may use the network.
    pub fn allows(&self, namespace: &str) -> bool {
        self.allowed_namespaces.iter().any(|allowed| allowed == "*" || allowed == namespace)
    }
}

/// A private segment on each host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NatNetwork {
    /// IPv4 subnet, for example 192.168.150.0/24 (/16 to /29). The first address is the host's; the others are given
    /// out by DHCP. It must overlap no other network of the hosts.
    #[schemars(length(max = 18), regex(pattern = r"^[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}/(1[6-9]|2[0-9])$"), extend("x-kubernetes-validations" = [{
        "rule": "isCIDR(self) && cidr(self) == cidr(self).masked()",
        "message": "must be the first address of an IPv4 subnet and its length, for example 192.168.150.0/24",
    }]))]
    pub subnet: String,
}

/// What the hosts have already: exactly one of its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.libvirtNetwork) != has(self.bridge)",
    "message": "existing needs exactly one of libvirtNetwork and bridge",
}]))]
pub struct ExistingNetwork {
    /// Name of a libvirt network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "host_name")]
    pub libvirt_network: Option<String>,
    /// Name of a bridge of the host, for example br0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15), regex(pattern = r"^[A-Za-z0-9_.-]+$"))]
    pub bridge: Option<String>,
}

/// What is known of a network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineNetworkStatus {
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Number of hosts on which the network is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_hosts: Option<i32>,
    /// Ready: for a nat network, True unless a host could not make it; for an existing one, True when a host has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::common::conditions")]
    pub conditions: Vec<Condition>,
}
