//! What is known of a VirtualMachine.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PowerAction;

/// What is known of a VM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineStatus {
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The state in one word, for people: Pending, Scheduling, Provisioning, Starting, Running, Paused, Stopping,
    /// Stopped, Terminating, Missing, Unknown. Programs read the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub printable_status: Option<String>,
    /// Node on whose host the VM is defined; its executor drives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The controller's decision where the VM runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<PlacementStatus>,
    /// Epoch whose domain the executor has given up on request: with placement.release Stop, the VM is on no host; with
    /// Halt, it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_epoch: Option<i64>,
    /// The libvirt domain, while one is defined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<DomainStatus>,
    /// Network interfaces with their addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub interfaces: Vec<InterfaceStatus>,
    /// Disks as the domain has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub disks: Vec<DiskStatus>,
    /// The spec, merged from class, VM and defaults, with which the running domain was started. What differs from
    /// the merged spec of now is the condition RestartRequired. Of an observed VM: what its domain is in the words of a
    /// spec; its networks are libvirt's, and its disks have the names that an import gives them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective: Option<crate::effective::EffectiveSpec>,
    /// The last time the domain stopped, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_stop: Option<LastStop>,
    /// The last spec.powerRequest that was carried out or refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_power_request: Option<LastPowerRequest>,
    /// Scheduled, DisksReady, Ready, RestartRequired, Synced, AgentConnected, AddressesKnown, HostReleased.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::common::conditions")]
    pub conditions: Vec<Condition>,
}

impl VirtualMachineStatus {
    /// Whether the domain runs, as far as the status tells: a QEMU process exists.
    pub fn is_active(&self) -> bool {
        self.domain.as_ref().is_some_and(|domain| domain.state.is_active())
    }
}

/// The controller's decision where a VM runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlacementStatus {
    /// Number of the placement: grows by one with each; a domain with a higher one is never overruled.
    pub epoch: i64,
    /// The placement pod, while the VM should run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// UID of the placement pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "podUID")]
    pub pod_uid: Option<String>,
    /// Session of the executor (holder of its Lease) that may start the domain at this epoch. A session that began
    /// later asks anew: so a restored etcd starts nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<String>,
    /// What the executor shall give up: None (default), Stop (stop the domain, undefine it, report releasedEpoch) or Halt
    /// (stop the domain, report releasedEpoch; it stays defined, for the next placement is on the same host).
    #[serde(default, skip_serializing_if = "crate::common::is_default")]
    pub release: Release,
}

/// What an executor shall give up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Release {
    /// Nothing: the VM is this host's.
    #[default]
    None,
    /// Stop and undefine the domain: the VM moves to another host.
    Stop,
    /// Stop the domain, which stays defined: the VM waits until its host takes it again.
    Halt,
}

/// State of a domain, in libvirt's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DomainState {
    /// VIR_DOMAIN_RUNNING, or blocked on a resource.
    Running,
    /// VIR_DOMAIN_PAUSED.
    Paused,
    /// VIR_DOMAIN_SHUTDOWN: the guest is shutting down.
    ShuttingDown,
    /// VIR_DOMAIN_SHUTOFF.
    Shutoff,
    /// VIR_DOMAIN_CRASHED.
    Crashed,
    /// VIR_DOMAIN_PMSUSPENDED.
    Suspended,
}

impl DomainState {
    /// Whether a QEMU process exists.
    pub fn is_active(self) -> bool {
        !matches!(self, Self::Shutoff | Self::Crashed)
    }
}

/// The libvirt domain of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DomainStatus {
    /// Name of the domain: `<namespace>.<name>`, or what an observed one is called.
    pub name: String,
    /// UUID of the domain.
    pub uuid: String,
    /// Epoch that is written in the domain's metadata; 0 of an observed one.
    pub epoch: i64,
    /// State, in libvirt's words.
    pub state: DomainState,
    /// Generation of the spec that the domain was defined from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// When the domain was last started by this project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// libvirt starts an observed domain with the host.
    #[serde(default, skip_serializing_if = "crate::common::is_default")]
    pub autostart: bool,
    /// An observed domain is not defined: it is gone when it stops.
    #[serde(default, skip_serializing_if = "crate::common::is_default")]
    pub transient: bool,
}

/// A network interface as the domain has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceStatus {
    /// Name of the interface in spec.networks; of an observed VM, libvirt's alias or `net` and its number.
    pub name: String,
    /// MAC address.
    pub mac_address: String,
    /// Addresses, first those that others can reach: from the guest agent, else DHCP leases, else ARP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Where the addresses come from: Agent, Lease or ARP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<AddressSource>,
    /// What the interface is connected to on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected_to: Option<HostLink>,
}

/// What a network interface is connected to on the host: one of its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostLink {
    /// Name of a libvirt network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libvirt_network: Option<String>,
    /// Name of a bridge of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
}

/// Where an address is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AddressSource {
    /// The guest agent.
    Agent,
    /// A lease of libvirt's DHCP server.
    Lease,
    /// The host's ARP table.
    ARP,
}

/// A disk as the domain has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskStatus {
    /// Name of the disk in spec.disks; `cloud_init` is the seed of spec.cloudInit. What an observed VM's domain has
    /// besides has the name of its target.
    pub name: String,
    /// Name of its VirtualMachineDisk. An observed VM has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_name: Option<String>,
    /// Device that libvirt calls it by, for example vda.
    pub target: String,
    /// Where its bytes lie: a path of the host, or `pool/volume`. Nothing for an empty drive, and for what has no such
    /// place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// libvirt's type of that place: file, block, volume, network, ….
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Format in which the domain reads them, for example qcow2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// The volume of an observed VM's disk, where it is one that a VirtualMachineDisk can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<HostVolume>,
}

/// A volume of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostVolume {
    /// libvirt's name of its pool.
    pub libvirt_pool: String,
    /// Its name there.
    pub name: String,
}

/// Why a domain stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StopReason {
    /// The guest shut itself down.
    GuestShutdown,
    /// Asked for by spec.runStrategy, spec.powerRequest or the object's deletion.
    Requested,
    /// Asked for to leave the host: it is to run again, there or elsewhere.
    Evicted,
    /// The guest or QEMU crashed.
    Crashed,
    /// The host asked QEMU to end (SIGTERM), as at the host's own shutdown.
    HostRequest,
    /// Somebody else destroyed the domain.
    Destroyed,
    /// It stopped while nobody watched: the host restarted, or the executor was away.
    Unknown,
}

/// The last stop of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastStop {
    /// Why it stopped.
    pub reason: StopReason,
    /// When it stopped.
    pub time: Time,
    /// The last power request that was answered when the domain stopped: a Manual VM stays off until the next one. A
    /// stop for a move to another host keeps the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "requestID")]
    pub request_id: Option<String>,
}

/// What became of a power request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PowerResult {
    /// Carried out.
    Completed,
    /// There was nothing to do: the VM was in the asked state.
    AlreadyDone,
    /// Could not be carried out; the condition Ready says why.
    Failed,
}

/// The last answered power request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastPowerRequest {
    /// Its id.
    pub id: String,
    /// What was asked for.
    pub action: PowerAction,
    /// What became of it.
    pub result: PowerResult,
}
