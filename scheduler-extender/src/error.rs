//! What can go wrong.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use kubevmm_api::liveness::Rewound;

/// Why the extender cannot start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the certificate cannot be read or written.
    #[error("{path} cannot be {done}: {source}: give the directory of `kubevmm-scheduler-extender certificate`")]
    File {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        done: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The certificate or its key is none.
    #[error("{path} holds no {what}: make it anew with `kubevmm-scheduler-extender certificate`")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        what: &'static str,
    },
    /// The certificate cannot be made.
    #[error("a certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The certificate and the key do not fit together.
    #[error("TLS cannot be served with this certificate and key: {0}")]
    Tls(#[from] rustls::Error),
    /// The address cannot be listened on.
    #[error("{address} cannot be listened on: {source}: choose another one with --address or --health-address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// etcd was restored from a backup.
    #[error("{0}: the extender ends, to read everything anew")]
    Rewound(#[from] Rewound),
    /// A watch ended that is renewed for ever.
    #[error("the watch of {0} ended: the extender is started again by its Deployment")]
    WatchEnded(&'static str),
}

/// Why a request cannot be answered. kube-scheduler shows it of a pod as far as its protocol lets it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The body is no JSON of the protocol.
    #[error("the body is not what kube-scheduler sends ({0}): is the extender's configuration of this version?")]
    Malformed(String),
    /// The body names no nodes.
    #[error("the body has neither NodeNames nor Nodes")]
    NoNodes,
    /// The body has no pod.
    #[error("the body has no Pod")]
    NoPod,
    /// The annotation of the pod is not JSON of a VM's needs.
    #[error(
        "the annotation {annotation} of the pod {pod} cannot be read ({reason}): the controller writes it; delete the pod, \
         which makes it anew",
        annotation = kubevmm_api::requirements::REQUIREMENTS
    )]
    Annotation {
        /// The pod, as `namespace/name`.
        pod: String,
        /// What the parser says.
        reason: String,
    },
    /// The caches are not filled yet.
    #[error("kubevmm-scheduler-extender has just started and has yet to list the {0}: it is asked again")]
    NotReady(&'static str),
}
