//! VirtualMachine: one libvirt domain, and the strategy by which it runs.

mod status;

use k8s_openapi::api::core::v1::{Affinity, Toleration, TopologySpreadConstraint};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::common::{FirmwareType, Machine, NetworkRef, dns_label};
use crate::disk::VirtualMachineDiskSpec;
use crate::quantity::Quantity;

pub use status::*;

/// A virtual machine on a libvirt host: its hardware, its disks and networks, and when it runs.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubevmm.io",
    version = "v1beta1",
    kind = "VirtualMachine",
    plural = "virtualmachines",
    shortname = "vm",
    category = "kubevmm",
    namespaced,
    status = "VirtualMachineStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A virtual machine: one libvirt domain on one host. It keeps running whatever happens to Kubernetes or to this project.",
    selectable = ".status.nodeName",
    printcolumn(name = "Status", type_ = "string", json_path = ".status.printableStatus"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.nodeName"),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.interfaces[0].addresses[0]"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Started", type_ = "date", json_path = ".status.domain.startTime"),
    printcolumn(name = "Strategy", type_ = "string", json_path = ".spec.runStrategy", priority = "1"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = "1"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "self.management == 'Observe' || has(self.className) || (has(self.memory) && has(self.memory.size))",
        "message": "spec.memory.size is required when no spec.className gives it",
    },
    {
        "rule": "self.management != 'Observe' || has(self.existingDomain)",
        "message": "spec.management Observe needs spec.existingDomain: an observed VM is a domain that a host has already",
    },
    {
        "rule": "has(self.existingDomain) == has(oldSelf.existingDomain)",
        "message": "spec.existingDomain is immutable: create another VirtualMachine for another domain",
    },
    {
        "rule": "!has(self.existingDomain) || !has(self.firmware) || !has(self.firmware.uuid)",
        "message": "spec.firmware.uuid is not accepted beside spec.existingDomain: the domain keeps the UUID that it has",
    },
    {
        "rule": "self.management != 'Observe' || !has(self.powerRequest) || (oldSelf.hasValue() && has(oldSelf.value().powerRequest) && oldSelf.value().powerRequest.id == self.powerRequest.id)",
        "message": "spec.powerRequest is not accepted while spec.management is Observe: an observed domain is never changed",
        "optionalOldSelf": true,
    },
    {
        "rule": "!has(self.powerRequest) || (oldSelf.hasValue() && has(oldSelf.value().powerRequest) && oldSelf.value().powerRequest.id == self.powerRequest.id) || self.runStrategy != 'Halted'",
        "message": "spec.powerRequest is not accepted while spec.runStrategy is Halted: set spec.runStrategy to Always or Manual to start the VM",
        "optionalOldSelf": true,
    },
    {
        "rule": "!has(self.powerRequest) || (oldSelf.hasValue() && has(oldSelf.value().powerRequest) && oldSelf.value().powerRequest.id == self.powerRequest.id) || self.runStrategy != 'Always' || self.powerRequest.action == 'Restart'",
        "message": "with spec.runStrategy Always, spec.powerRequest accepts only Restart: set spec.runStrategy to Halted to stop the VM, or to Manual to start and stop it by request",
        "optionalOldSelf": true,
    },
    {
        "rule": "(has(self.firmware) && has(self.firmware.uuid)) == (has(oldSelf.firmware) && has(oldSelf.firmware.uuid)) && (!has(self.firmware) || !has(self.firmware.uuid) || self.firmware.uuid == oldSelf.firmware.uuid)",
        "message": "spec.firmware.uuid is immutable: guests key licences and cloud-init on it; create a new VirtualMachine instead",
    },
]))]
pub struct VirtualMachineSpec {
    /// When the VM runs. Always (default): it is started, and started again after every stop. Manual: only
    /// spec.powerRequest starts and stops it. Halted: it is off.
    #[serde(default)]
    pub run_strategy: RunStrategy,
    /// VirtualMachineClass that gives what this spec leaves out; what this spec says overrides it, leaf by leaf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "dns_label")]
    pub class_name: Option<String>,
    /// Virtual CPUs. One, when neither this nor the class says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Memory of the guest. Required here or in the class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Chipset. q35, when neither this nor the class says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
    /// Firmware and the identity that the guest sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// Disks, in the order in which the guest sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub disks: Vec<Disk>,
    /// Network interfaces, in the order in which the guest sees them. None is added by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"], "x-kubernetes-validations" = [{
        "rule": "self.all(n, !has(n.macAddress) || self.exists_one(m, has(m.macAddress) && m.macAddress.lowerAscii() == n.macAddress.lowerAscii()))",
        "message": "two networks have the same macAddress: each NIC needs its own, or none to get one by itself",
    }]))]
    pub networks: Vec<NetworkInterface>,
    /// First-boot configuration for cloud-init in the guest (NoCloud data source, on a small read-only disk).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_init: Option<CloudInit>,
    /// On which nodes the VM may run, in the vocabulary of pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// What an eviction does, such as that of `kubectl drain`. When left out, the VM is shut down and started on another
    /// host where its storage allows; with data on this host alone, it stays. Shutdown: that one is shut down too, and
    /// started when its host takes VMs again. Block: it stays in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eviction_strategy: Option<EvictionStrategy>,
    /// Seconds that the guest has for its own shutdown before the domain is destroyed. Default 60.
    #[serde(default = "default_grace", skip_serializing_if = "is_default_grace")]
    #[schemars(range(min = 0, max = 3600))]
    pub termination_grace_period_seconds: i64,
    /// One request to change the power state; a new `id` is a new request. It is answered in
    /// status.lastPowerRequest. `virtctl start|stop|restart` write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_request: Option<PowerRequest>,
    /// Manage (default): the domain is made and driven from this spec. Observe: the existingDomain is watched and never
    /// changed; nothing else of this spec counts. A change takes over a domain, or gives it back, without touching what
    /// runs; `virtctl import --manage` writes the spec that the domain has already.
    #[serde(default, skip_serializing_if = "crate::common::is_default")]
    #[schemars(extend("default" = "Manage"))]
    pub management: Management,
    /// A domain that a host has already. `virtctl domains` lists what the hosts have. The VM stays on that host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing_domain: Option<ExistingDomain>,
    /// What is done about a domain that somebody has changed on its host, while spec.management is Manage. Report
    /// (default): the condition Synced says where it differs; the next start makes it as the spec says. Revert: its
    /// definition is made so at once, and what runs is changed by the next start.
    #[serde(default, skip_serializing_if = "crate::common::is_default")]
    #[schemars(extend("default" = "Report"))]
    pub drift_policy: DriftPolicy,
    /// Anything else that libvirt knows of the domain: its XML, written as YAML and laid over what the other fields make,
    /// for example `devices: {watchdogs: [{model: itco, action: poweroff}]}`. Keys merge, and null removes. In lists of
    /// devices, the alias `ua-disk-NAME` or `ua-nic-NAME` means a disk or network of this VM; other items are added. Name,
    /// UUID, and what disks and networks are connected to cannot be said here. It is as good as root on the host, so
    /// setting it takes the ClusterRole kubevmm-domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::common::any_mapping")]
    pub domain: Option<serde_json::Map<String, serde_json::Value>>,
}

/// What the API server makes of an empty spec.
impl Default for VirtualMachineSpec {
    fn default() -> Self {
        Self {
            run_strategy: RunStrategy::default(),
            class_name: None,
            cpu: None,
            memory: None,
            machine: None,
            firmware: None,
            disks: Vec::new(),
            networks: Vec::new(),
            cloud_init: None,
            placement: None,
            eviction_strategy: None,
            termination_grace_period_seconds: DEFAULT_GRACE_SECONDS,
            power_request: None,
            management: Management::default(),
            existing_domain: None,
            drift_policy: DriftPolicy::default(),
            domain: None,
        }
    }
}

impl VirtualMachineSpec {
    /// The UUID of the domain, where it is not the object's own.
    pub fn domain_uuid(&self) -> Option<&str> {
        let chosen = self.firmware.as_ref().and_then(|firmware| firmware.uuid.as_deref());
        self.existing_domain.as_ref().map(|existing| existing.uuid.as_str()).or(chosen)
    }

    /// The domain that is watched and never changed, if the VM is one.
    pub fn observed(&self) -> Option<&ExistingDomain> {
        self.existing_domain.as_ref().filter(|_| self.management == Management::Observe)
    }
}

/// Default of `terminationGracePeriodSeconds`.
pub const DEFAULT_GRACE_SECONDS: i64 = 60;

fn default_grace() -> i64 {
    DEFAULT_GRACE_SECONDS
}

fn is_default_grace(seconds: &i64) -> bool {
    *seconds == DEFAULT_GRACE_SECONDS
}

/// When a VM runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunStrategy {
    /// Started, and started again after every stop: the guest's own shutdown, a crash, a restart of the host.
    #[default]
    Always,
    /// Started and stopped only by spec.powerRequest.
    Manual,
    /// Off.
    Halted,
}

/// What an eviction does with a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EvictionStrategy {
    /// It is shut down, and started again where its storage allows: on another host, or later on the same.
    Shutdown,
    /// It stays.
    Block,
}

/// Who decides about a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Management {
    /// The spec does.
    #[default]
    Manage,
    /// Somebody else does: it is only watched.
    Observe,
}

/// What is done about a domain that somebody has changed on its host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DriftPolicy {
    /// It is told.
    #[default]
    Report,
    /// It is told, and the definition is made anew from the spec.
    Revert,
}

/// A domain that a host has already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.nodeName == oldSelf.nodeName && self.uuid == oldSelf.uuid",
    "message": "existingDomain is immutable: create another VirtualMachine for another domain",
}]))]
pub struct ExistingDomain {
    /// Node on whose host the domain is. Immutable.
    #[schemars(schema_with = "crate::common::node_name")]
    pub node_name: String,
    /// libvirt's UUID of the domain. Immutable.
    #[schemars(length(max = 36), regex(pattern = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"))]
    pub uuid: String,
    /// Takes libvirt's autostart from the domain while it is managed, for a host that comes back must first learn where
    /// the VM runs now; it is given back when the domain is observed again. Without it, a domain with autostart is not
    /// taken over.
    #[serde(default, skip_serializing_if = "crate::common::is_default")]
    pub disable_autostart: bool,
}

/// Virtual CPUs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    /// Number of virtual CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 512))]
    pub cores: Option<u32>,
    /// CPU that the scheduler reserves on the node. 100m for each virtual CPU, when neither this nor the class says
    /// otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "cpu_request")]
    pub request: Option<Quantity>,
}

fn cpu_request(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut schema = <Quantity as JsonSchema>::json_schema(generator);
    schema.insert(
        "x-kubernetes-validations".into(),
        serde_json::json!([{
            "rule": "isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('1m')) >= 0 && quantity(string(self)).compareTo(quantity('1024')) <= 0",
            "message": "must be between 1m and 1024: write CPU such as 500m or 2",
        }]),
    );
    schema
}

/// Memory of the guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Memory that the guest sees at its start, for example 2Gi. At least 1Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::common::size")]
    pub size: Option<Quantity>,
}

/// Firmware and identity of the guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Firmware {
    /// Firmware: bios (SeaBIOS).
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<FirmwareType>,
    /// UUID of the libvirt domain, which the guest sees as its SMBIOS system UUID. The object's UID, when left out.
    /// Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 36), regex(pattern = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"))]
    pub uuid: Option<String>,
}

/// Bus on which the guest sees a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskBus {
    /// virtio-blk: `/dev/vda`; the default.
    #[default]
    Virtio,
    /// virtio-scsi: `/dev/sda`.
    Scsi,
    /// AHCI: `/dev/sda`, for guests without virtio drivers.
    Sata,
}

/// A disk of the VM: exactly one of `template` and `diskName`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.template) != has(self.diskName)",
    "message": "a disk needs exactly one of template (a new disk of this VM) and diskName (an existing VirtualMachineDisk)",
}, {
    "rule": "!has(self.template) || !has(self.template.source.existing)",
    "message": "template.source.existing: a volume that a host has already is no new disk of this VM: create a VirtualMachineDisk with it, and name that in diskName",
}]))]
pub struct Disk {
    /// Name of the disk within the VM; the guest sees it as the disk's serial.
    #[schemars(schema_with = "dns_label")]
    pub name: String,
    /// Place in the boot order; 1 is first. Without any, the guest boots from its first disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub boot_order: Option<u32>,
    /// Bus: virtio (default), scsi or sata.
    #[serde(default, skip_serializing_if = "crate::common::is_default")]
    pub bus: DiskBus,
    /// A VirtualMachineDisk that is created with the VM, named `<vm>-<disk>`, and deleted with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<VirtualMachineDiskSpec>,
    /// An existing VirtualMachineDisk of the same namespace. It outlives the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "dns_label")]
    pub disk_name: Option<String>,
}

/// Model of a network card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NicModel {
    /// virtio-net; the default.
    #[default]
    Virtio,
    /// Intel 82574L, for guests without virtio drivers.
    E1000e,
}

/// A network interface of the VM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkInterface {
    /// Name of the interface within the VM.
    #[schemars(schema_with = "dns_label")]
    pub name: String,
    /// The network that it is connected to. The default cluster network, when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkRef>,
    /// Model: virtio (default) or e1000e.
    #[serde(default, skip_serializing_if = "crate::common::is_default")]
    pub model: NicModel,
    /// MAC address, unicast. When left out, a locally administered one that never changes, shown in
    /// status.interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 17), regex(pattern = "^[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}$"))]
    pub mac_address: Option<String>,
}

/// First-boot configuration: NoCloud.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(has(self.userData) && has(self.userDataSecretName))",
    "message": "only one of cloudInit.userData and cloudInit.userDataSecretName can be given",
}]))]
pub struct CloudInit {
    /// User data as it is: `#cloud-config` or a script. For what is secret use userDataSecretName.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub user_data: Option<String>,
    /// Network configuration (version 1 or 2) as it is. DHCP on every interface, when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub network_data: Option<String>,
    /// Secret of the same namespace whose key `userData` holds the user data (and key `networkData`, if there, the
    /// network configuration). It reaches the host through the placement pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub user_data_secret_name: Option<String>,
}

/// Where the VM may run: copied to its placement pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Labels that the node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the VM tolerates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub tolerations: Vec<Toleration>,
    /// Nodes, and other VMs, that it is to be near to or away from. The labels of a VM are those of its placement pod: a
    /// `podAffinity` or `podAntiAffinity` selects VMs by them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How VMs with the same labels are spread over nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// PriorityClass of the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

/// A change of power state that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PowerAction {
    /// Start the VM.
    Start,
    /// Shut the guest down; after the grace period, destroy the domain.
    Stop,
    /// Stop, then start: the guest gets new virtual hardware, with what changed in the spec.
    Restart,
}

/// One request to change the power state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PowerRequest {
    /// Identity of the request, chosen by who asks: a new value is a new request.
    #[schemars(length(min = 1, max = 63))]
    pub id: String,
    /// Start, Stop or Restart.
    pub action: PowerAction,
    /// Do not wait for the guest: destroy the domain at once. Data that the guest has not written is lost.
    #[serde(default, skip_serializing_if = "crate::common::is_default")]
    pub force: bool,
}
