//! What can go wrong, and what to do about it.

use std::time::Duration;

use thiserror::Error;

/// Why the executor could not do something.
#[derive(Debug, Error)]
pub enum Error {
    /// A call of libvirt.
    #[error("libvirt: {0}")]
    Libvirt(#[from] crate::libvirt::Error),
    /// A request to the API server.
    #[error("API server: {0}")]
    Api(#[from] kube::Error),
    /// A request to the API server that was given up.
    #[error("API server: no answer within {} s", .0.as_secs())]
    ApiTimeout(Duration),
    /// The controller has not made this host's Hypervisor object yet.
    #[error(
        "there is no Hypervisor {node} yet: check that the Deployment kubevmm-controller in namespace kubevmm-system runs"
    )]
    NoHypervisor {
        /// Name of the Node.
        node: String,
    },
    /// The Lease has changed hands, or is not as this executor wrote it.
    #[error(
        "the Lease {name} is not as this executor wrote it (etcd was restored, or somebody else writes it): beginning anew, guests keep running"
    )]
    LeaseLost {
        /// Name of the Lease.
        name: String,
    },
    /// A second executor on this host.
    #[error(
        "another executor holds {path}: stop it first, or check that only one DaemonSet of KubeVMM runs on this host"
    )]
    HostLocked {
        /// The lock file.
        path: String,
    },
    /// The lock file cannot be used.
    #[error("cannot lock {path}: {source}; check that its directory is mounted and writable")]
    LockFile {
        /// The lock file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The cluster cannot be told apart from others.
    #[error("the namespace kube-system has no uid: this API server is no Kubernetes cluster")]
    NoClusterId,
}
