//! The objects of KubeVMM as Rust types: what users write, what the controller and the executors report, and the
//! pure rules that both sides must agree on (names, merging of class and VM, whether a VM should run).
//!
//! This crate does no I/O. The custom resource definitions in `yamls/10-crds.yaml` are generated from it
//! ([`crd::manifest`]); a doc comment here is what `kubectl explain` shows.

// The columns of `kubectl get` repeat words.
#![allow(clippy::duplicated_attributes)]

pub mod class;
pub mod common;
pub mod condition;
pub mod crd;
pub mod disk;
pub mod effective;
pub mod fit;
pub mod hypervisor;
pub mod image;
pub mod liveness;
pub mod names;
pub mod network;
pub mod overhead;
pub mod pod;
pub mod pool;
pub mod power;
pub mod quantity;
pub mod requirements;
pub mod vm;
pub mod volume;

pub use class::{VirtualMachineClass, VirtualMachineClassSpec};
pub use disk::{VirtualMachineDisk, VirtualMachineDiskSpec, VirtualMachineDiskStatus};
pub use hypervisor::{Hypervisor, HypervisorSpec, HypervisorStatus};
pub use image::{
    ClusterVirtualMachineImage, ClusterVirtualMachineImageSpec, VirtualMachineImage, VirtualMachineImageSpec,
    VirtualMachineImageStatus,
};
pub use network::{
    ClusterVirtualMachineNetwork, ClusterVirtualMachineNetworkSpec, VirtualMachineNetwork, VirtualMachineNetworkSpec,
    VirtualMachineNetworkStatus,
};
pub use pool::{VirtualMachineStoragePool, VirtualMachineStoragePoolSpec, VirtualMachineStoragePoolStatus};
pub use quantity::Quantity;
pub use vm::{VirtualMachine, VirtualMachineSpec, VirtualMachineStatus};

/// The API group of every kind.
pub const GROUP: &str = "kubevmm.io";
/// The served and stored version.
pub const VERSION: &str = "v1beta1";
/// The one finalizer; put on and taken off by the controller only.
pub const FINALIZER: &str = "kubevmm.io/cleanup";
/// Annotation that makes one storage pool and one cluster network the default ones (`"true"`).
pub const IS_DEFAULT: &str = "kubevmm.io/is-default";
/// Label of a placement pod: the name of its VirtualMachine.
pub const LABEL_VM: &str = "kubevmm.io/vm";
/// Label of a placement pod: the UID of its VirtualMachine.
pub const LABEL_VM_UID: &str = "kubevmm.io/vm-uid";
/// Label of a placement pod: the epoch of the placement that it stands for.
pub const LABEL_EPOCH: &str = "kubevmm.io/epoch";
/// Name of the scheduler that places VMs: a kube-scheduler that asks the extender.
pub const SCHEDULER: &str = "kubevmm-scheduler";
/// Annotation of a placement pod that somebody wants off its node: why. The VM leaves, and the pod goes after it.
pub const EVICT: &str = "kubevmm.io/evict";
/// Label (`"true"`) and taint (NoSchedule) of a Node that is an external host: a libvirt host without a kubelet. The Lease
/// of its executor has the label, too.
pub const EXTERNAL: &str = "kubevmm.io/external";
/// Cause in the answer to an eviction (`status.details.causes`) of a VM that stays where it is until somebody changes
/// something.
pub const EVICTION_BLOCKED: &str = "EvictionBlocked";

/// Cause in the answer to the dry run of an eviction that would come about.
pub const EVICTION_POSSIBLE: &str = "EvictionPossible";
/// Namespace of the controller, the executors and their Leases.
pub const SYSTEM_NAMESPACE: &str = "kubevmm-system";
/// Namespace of the Leases of Nodes. An external host's is also that of its executor: a node credential may write no other.
pub const NODE_LEASE_NAMESPACE: &str = "kube-node-lease";
/// Field manager of the controller's server-side applies.
pub const MANAGER_CONTROLLER: &str = "kubevmm-controller";
/// Field manager of every executor's server-side applies: one name for all hosts, so that after a move the new
/// host's report replaces the old one's.
pub const MANAGER_EXECUTOR: &str = "kubevmm-executor";
