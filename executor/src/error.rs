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
    /// An external host that has no name.
    #[error(
        "node name {name:?}: a DNS name of small letters, digits, dashes and dots is needed; give it with --node-name"
    )]
    NodeName {
        /// What was given, or the host's name.
        name: String,
    },
    /// A kubelet's Node has the name of this external host.
    #[error(
        "there is a Node {name} already, and it is not an external host's (it lacks the label kubevmm.io/external): choose another --node-name, or delete that Node first if its kubelet is gone for good"
    )]
    NodeTaken {
        /// Name of the Node.
        name: String,
    },
    /// There is no way to the API server.
    #[error(
        "cannot tell by which address this host is reached: no way to {server}: {source}; name it with --node-address"
    )]
    NoAddress {
        /// URL of the API server.
        server: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file of the node credential.
    #[error("{path}: {source}")]
    CredentialFile {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A kubeconfig file that cannot be used.
    #[error("{path}: {reason}; correct the file, or take it away to begin with the bootstrap kubeconfig")]
    Kubeconfig {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// There is no credential, and no way to get one.
    #[error(
        "{kubeconfig}: {reason}, and there is no bootstrap kubeconfig {bootstrap}: put one with a bootstrap token there (docs/external-hosts.md)"
    )]
    NotBootstrapped {
        /// The kubeconfig of the node credential.
        kubeconfig: String,
        /// Why it will not do.
        reason: &'static str,
        /// The bootstrap kubeconfig.
        bootstrap: String,
    },
    /// A key or certificate.
    #[error("{what}: {reason}")]
    Certificate {
        /// What it is.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Somebody has refused the certificate.
    #[error(
        "the CertificateSigningRequest {name} was refused ({reason}): delete it and begin anew when this host may be the node {node}"
    )]
    RequestRefused {
        /// Name of the request.
        name: String,
        /// Name of the Node.
        node: String,
        /// What its condition says.
        reason: String,
    },
}
