//! What several kinds share.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

/// Accelerator that runs a guest's CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Accelerator {
    /// Hardware virtualisation (`<domain type='kvm'>`).
    KVM,
    /// QEMU's own translator (`<domain type='qemu'>`): works everywhere, many times slower.
    TCG,
}

/// Chipset of the virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MachineType {
    /// PCI Express; the default.
    Q35,
    /// The older i440FX with plain PCI.
    Pc,
}

/// Firmware of the virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FirmwareType {
    /// SeaBIOS; the default.
    Bios,
}

/// The machine's chipset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Machine {
    /// Chipset: q35 (default) or pc. The running version of it is the host's newest.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<MachineType>,
}

/// Which of a pair of kinds (namespaced and cluster-wide) an image reference means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ImageKind {
    /// An image of the same namespace; the default.
    #[default]
    VirtualMachineImage,
    /// An image of the cluster.
    ClusterVirtualMachineImage,
}

/// Which of a pair of kinds (namespaced and cluster-wide) a network reference means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum NetworkKind {
    /// A network of the same namespace; the default.
    #[default]
    VirtualMachineNetwork,
    /// A network of the cluster.
    ClusterVirtualMachineNetwork,
}

/// Reference to an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageRef {
    /// VirtualMachineImage (default; in the same namespace) or ClusterVirtualMachineImage.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kind: ImageKind,
    /// Name of the image.
    #[schemars(schema_with = "dns_label")]
    pub name: String,
}

/// Reference to a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkRef {
    /// VirtualMachineNetwork (default; in the same namespace) or ClusterVirtualMachineNetwork.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kind: NetworkKind,
    /// Name of the network.
    #[schemars(schema_with = "dns_label")]
    pub name: String,
}

/// Identity of the holder of a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Holder {
    /// Name of the VirtualMachine, in the same namespace.
    pub name: String,
    /// UID of the VirtualMachine.
    pub uid: String,
}

/// Whether a value is its type's default: for `skip_serializing_if`.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Schema of a mapping with any content. It changes hands as a whole: fields of a part of it would be as many as its
/// values, and a `null` in it counts.
pub fn any_mapping(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "x-kubernetes-map-type": "atomic",
    })
}

/// Schema of a name that a user gives: a DNS label.
pub fn dns_label(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 63,
        "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
    })
}

/// Schema of the name of something that a libvirt host has already: libvirt forbids `/` and control characters.
pub fn host_name(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 200,
        "pattern": r"^[^/\x00-\x1f\x7f]+$",
    })
}

/// Schema of a type in the place of its field, so that the field's own description is shown.
pub fn inline<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    T::json_schema(generator)
}

/// Schema of the name of a Node.
pub fn node_name(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 253,
        "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
    })
}

/// Schema of a size of at least one mebibyte.
pub fn size(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = <crate::Quantity as JsonSchema>::json_schema(generator);
    schema.insert(
        "x-kubernetes-validations".into(),
        serde_json::json!([
            {
                "rule": "isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('1Mi')) >= 0",
                "message": "must be at least 1Mi: write a size such as 512Mi or 20Gi",
            },
            {
                "rule": "!isQuantity(string(self)) || quantity(string(self)).compareTo(quantity('1Pi')) <= 0",
                "message": "must be at most 1Pi",
            },
        ]),
    );
    schema
}

/// Schema of an optional size: see [`size`].
pub fn optional_size(generator: &mut SchemaGenerator) -> Schema {
    size(generator)
}

/// Schema of a list of conditions: merged by type, so that controller and executor each write their own.
pub fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let item = generator.subschema_for::<Condition>();
    schemars::json_schema!({
        "type": "array",
        "items": item,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}
