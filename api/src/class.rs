//! VirtualMachineClass: a machine type that VMs refer to.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{FirmwareType, Machine};
use crate::vm::{Cpu, Memory};

/// Hardware that VMs of this class have unless they say otherwise. Immutable.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubevmm.io",
    version = "v1beta1",
    kind = "VirtualMachineClass",
    plural = "virtualmachineclasses",
    shortname = "vmclass",
    category = "kubevmm",
    derive = "PartialEq",
    doc = "A machine type: hardware that the VMs of this class have unless they say otherwise. It is not deleted while a VM uses it.",
    printcolumn(name = "Cores", type_ = "integer", json_path = ".spec.cpu.cores"),
    printcolumn(name = "Memory", type_ = "string", json_path = ".spec.memory.size"),
    printcolumn(name = "Machine", type_ = "string", json_path = ".spec.machine.type", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self == oldSelf",
    "message": "the hardware of a VirtualMachineClass is immutable: create a new class and let the VMs name it",
}]))]
pub struct VirtualMachineClassSpec {
    /// Virtual CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Memory of the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Chipset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
    /// Firmware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<ClassFirmware>,
}

/// Firmware of a class: no identity, which is each VM's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClassFirmware {
    /// Firmware: bios (SeaBIOS).
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<FirmwareType>,
}
