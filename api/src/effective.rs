//! The merged spec: class, then VM, then defaults.

mod difference;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Toleration, TopologySpreadConstraint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::class::VirtualMachineClassSpec;
use crate::common::{FirmwareType, MachineType, NetworkKind, NetworkRef};
use crate::names;
use crate::quantity::{Quantity, QuantityError};
use crate::vm::{CloudInit, Disk, DiskBus, NicModel, VirtualMachineSpec};

pub use difference::differences;

/// CPU that the scheduler reserves for a virtual CPU, in thousandths, where neither a VM nor the controller's settings say
/// otherwise.
pub const DEFAULT_MILLIS_PER_CPU: u64 = 100;
/// Digits of a digest that is compared, not trusted.
const DIGEST_CHARS: usize = 16;

/// What a domain is made from: nothing in it is left to a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveSpec {
    /// Number of virtual CPUs.
    pub cores: u32,
    /// Memory of the guest.
    pub memory: Quantity,
    /// Chipset.
    pub machine: MachineType,
    /// Firmware.
    pub firmware: FirmwareType,
    /// UUID of the domain.
    pub uuid: String,
    /// Disks, in the guest's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<EffectiveDisk>,
    /// Network interfaces, in the guest's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<EffectiveNetwork>,
    /// The cloud-init seed, if one is attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<EffectiveSeed>,
    /// What lies over all of this in libvirt's domain: spec.domain.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    #[schemars(schema_with = "crate::common::any_mapping")]
    pub domain: serde_json::Map<String, serde_json::Value>,
    /// What the placement pod was made from.
    #[serde(default, skip_serializing_if = "crate::common::is_default")]
    pub placement: EffectivePlacement,
}

/// The inline data of a cloud-init seed: enough to notice a change, and not the data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveSeed {
    /// First hexadecimal digits of the SHA-256 of cloudInit.userData.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data_digest: Option<String>,
    /// First hexadecimal digits of the SHA-256 of cloudInit.networkData.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_data_digest: Option<String>,
}

/// What the spec gives the placement pod: with another one, the VM is placed anew at its next start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EffectivePlacement {
    /// CPU request, where one is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_request: Option<Quantity>,
    /// Labels that the node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the VM tolerates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub tolerations: Vec<Toleration>,
    /// Affinity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::common::any_mapping")]
    pub affinity: Option<Affinity>,
    /// Topology spread constraints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// PriorityClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Secret of the user data, which the pod brings to the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data_secret_name: Option<String>,
}

/// A disk of the merged spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveDisk {
    /// Name within the VM.
    pub name: String,
    /// Name of the VirtualMachineDisk.
    pub disk_name: String,
    /// Bus.
    pub bus: DiskBus,
    /// Place in the boot order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_order: Option<u32>,
}

/// A network interface of the merged spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveNetwork {
    /// Name within the VM.
    pub name: String,
    /// Kind of the network object.
    pub kind: NetworkKind,
    /// Name of the network object.
    pub network_name: String,
    /// Model of the card.
    pub model: NicModel,
    /// MAC address, in lower case.
    pub mac_address: String,
}

/// Why class and VM cannot be merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// Neither class nor VM gives the memory.
    #[error("spec.memory.size is missing: give it in the VirtualMachine or in its class")]
    NoMemory,
    /// A NIC without a network, and no default network.
    #[error(
        "spec.networks[{0}].network is missing and there is no default network: name one, or annotate exactly one ClusterVirtualMachineNetwork with kubevmm.io/is-default: \"true\""
    )]
    NoDefaultNetwork(String),
    /// A quantity that the schema let through.
    #[error("{0}: {1}")]
    Quantity(&'static str, QuantityError),
}

/// Merges `class` and `vm`. `default_network` is the one cluster network that is annotated as the default.
pub fn merge(
    vm_name: &str,
    vm_uid: &str,
    vm: &VirtualMachineSpec,
    class: Option<&VirtualMachineClassSpec>,
    default_network: Option<&str>,
) -> Result<EffectiveSpec, MergeError> {
    let cores = vm.cpu.as_ref().and_then(|c| c.cores).or_else(|| class?.cpu.as_ref()?.cores).unwrap_or(1);
    let memory = vm.memory.as_ref().and_then(|m| m.size.clone()).or_else(|| class?.memory.as_ref()?.size.clone());
    let memory = memory.ok_or(MergeError::NoMemory)?;
    memory.bytes().map_err(|e| MergeError::Quantity("spec.memory.size", e))?;
    let machine = vm.machine.as_ref().and_then(|m| m.kind).or_else(|| class?.machine.as_ref()?.kind);
    let firmware = vm.firmware.as_ref().and_then(|f| f.kind).or_else(|| class?.firmware.as_ref()?.kind);
    let networks = vm
        .networks
        .iter()
        .map(|nic| {
            let network = match (&nic.network, default_network) {
                (Some(network), _) => network.clone(),
                (None, Some(name)) => {
                    NetworkRef { kind: NetworkKind::ClusterVirtualMachineNetwork, name: name.to_owned() }
                }
                (None, None) => return Err(MergeError::NoDefaultNetwork(nic.name.clone())),
            };
            let mac = nic.mac_address.as_ref().map(|m| m.to_ascii_lowercase());
            Ok(EffectiveNetwork {
                name: nic.name.clone(),
                kind: network.kind,
                network_name: network.name,
                model: nic.model,
                mac_address: mac.unwrap_or_else(|| names::mac_address(vm_uid, &nic.name)),
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(EffectiveSpec {
        cores,
        memory,
        machine: machine.unwrap_or(MachineType::Q35),
        firmware: firmware.unwrap_or(FirmwareType::Bios),
        uuid: vm.domain_uuid().unwrap_or(vm_uid).to_owned(),
        disks: vm.disks.iter().map(|disk| effective_disk(vm_name, disk)).collect(),
        networks,
        seed: vm.cloud_init.as_ref().map(seed),
        domain: vm.domain.clone().unwrap_or_default(),
        placement: placement(vm, class),
    })
}

fn seed(cloud_init: &CloudInit) -> EffectiveSeed {
    let digest = |text: &Option<String>| text.as_ref().map(|text| names::short_hash(text, DIGEST_CHARS));
    EffectiveSeed {
        user_data_digest: digest(&cloud_init.user_data),
        network_data_digest: digest(&cloud_init.network_data),
    }
}

fn placement(vm: &VirtualMachineSpec, class: Option<&VirtualMachineClassSpec>) -> EffectivePlacement {
    let wanted = vm.placement.clone().unwrap_or_default();
    EffectivePlacement {
        cpu_request: cpu_request(vm, class),
        node_selector: wanted.node_selector,
        tolerations: wanted.tolerations,
        affinity: wanted.affinity,
        topology_spread_constraints: wanted.topology_spread_constraints,
        priority_class_name: wanted.priority_class_name,
        user_data_secret_name: vm.cloud_init.as_ref().and_then(|init| init.user_data_secret_name.clone()),
    }
}

fn cpu_request(vm: &VirtualMachineSpec, class: Option<&VirtualMachineClassSpec>) -> Option<Quantity> {
    vm.cpu.as_ref().and_then(|c| c.request.clone()).or_else(|| class?.cpu.as_ref()?.request.clone())
}

/// CPU that the scheduler reserves for the VM, in thousandths: `millis_per_vcpu` for each virtual CPU, when neither the VM
/// nor its class says it.
pub fn cpu_request_millis(
    vm: &VirtualMachineSpec,
    class: Option<&VirtualMachineClassSpec>,
    millis_per_vcpu: u64,
) -> Result<u64, MergeError> {
    let cores = vm.cpu.as_ref().and_then(|c| c.cores).or_else(|| class?.cpu.as_ref()?.cores).unwrap_or(1);
    match cpu_request(vm, class) {
        Some(request) => request.millis().map_err(|e| MergeError::Quantity("spec.cpu.request", e)),
        None => Ok(u64::from(cores) * millis_per_vcpu),
    }
}

/// The name of the VirtualMachineDisk behind a disk of a VM.
pub fn disk_name(vm_name: &str, disk: &Disk) -> String {
    disk.disk_name.clone().unwrap_or_else(|| names::disk_of_template(vm_name, &disk.name))
}

fn effective_disk(vm_name: &str, disk: &Disk) -> EffectiveDisk {
    EffectiveDisk {
        name: disk.name.clone(),
        disk_name: disk_name(vm_name, disk),
        bus: disk.bus,
        boot_order: disk.boot_order,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::{Cpu, Memory, NetworkInterface};

    fn vm(yaml: &str) -> VirtualMachineSpec {
        serde_yaml_ng::from_str(yaml).unwrap()
    }

    fn class() -> VirtualMachineClassSpec {
        VirtualMachineClassSpec {
            cpu: Some(Cpu { cores: Some(4), request: Some(Quantity("2".into())) }),
            memory: Some(Memory { size: Some(Quantity("4Gi".into())) }),
            ..Default::default()
        }
    }

    #[test]
    fn the_vm_overrides_its_class_leaf_by_leaf() {
        let spec = vm("{className: c, cpu: {cores: 2}}");
        let merged = merge("web", "uid", &spec, Some(&class()), None).unwrap();
        assert_eq!((merged.cores, merged.memory.0.as_str()), (2, "4Gi"));
        assert_eq!(cpu_request_millis(&spec, Some(&class()), 100), Ok(2000), "the class's request stays");
        assert_eq!(cpu_request_millis(&vm("{cpu: {cores: 3}}"), None, 100), Ok(300));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(merge("web", "uid", &vm("{}"), None, None), Err(MergeError::NoMemory));
        let mut spec = vm("{memory: {size: 1Gi}}");
        spec.networks.push(NetworkInterface { name: "lan".into(), ..Default::default() });
        assert_eq!(merge("web", "uid", &spec, None, None), Err(MergeError::NoDefaultNetwork("lan".into())));
        let merged = merge("web", "uid", &spec, None, Some("default")).unwrap();
        assert_eq!(merged.networks[0].network_name, "default");
    }
}
