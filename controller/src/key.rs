//! Names of what is reconciled.

use kubevmm_api::common::{ImageKind, NetworkKind};

/// An object that a reconciler looks at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// A VirtualMachine: namespace, name.
    Vm(String, String),
    /// A VirtualMachineDisk: namespace, name.
    Disk(String, String),
    /// A VirtualMachineImage, or a ClusterVirtualMachineImage without a namespace.
    Image(Option<String>, String),
    /// A VirtualMachineStoragePool.
    Pool(String),
    /// A VirtualMachineNetwork, or a ClusterVirtualMachineNetwork without a namespace.
    Network(Option<String>, String),
    /// A VirtualMachineClass.
    Class(String),
    /// A Hypervisor and its Node.
    Hypervisor(String),
    /// The PodDisruptionBudget of a namespace.
    Budget(String),
}

impl Key {
    /// The image that a reference from `namespace` means.
    pub fn image(kind: ImageKind, namespace: &str, name: &str) -> Self {
        let namespace = (kind == ImageKind::VirtualMachineImage).then(|| namespace.to_owned());
        Self::Image(namespace, name.to_owned())
    }

    /// The network that a reference from `namespace` means.
    pub fn network(kind: NetworkKind, namespace: &str, name: &str) -> Self {
        let namespace = (kind == NetworkKind::VirtualMachineNetwork).then(|| namespace.to_owned());
        Self::Network(namespace, name.to_owned())
    }
}
