//! A libvirt host without a kubelet as a Node: what the kubelet does elsewhere, of which a placement pod needs little.
//!
//! | module | what it does |
//! |---|---|
//! | [`credential`] | the certificate `system:node:NAME`: bootstrap, as a kubelet's, and renewal |
//! | [`machine`] | what the host says of itself |
//! | [`status`] | the Node, as a function of the host's Hypervisor object |
//! | [`pods`] | answers for the placement pods, and for no others |
//!
//! The Lease in `kube-node-lease` is that of the executor's session: see [`crate::lease`].

pub mod credential;
pub mod machine;
pub mod pods;
pub mod status;

mod request;

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kubevmm_api::EXTERNAL;
use tokio::net::{UdpSocket, lookup_host};

use crate::Error;
use crate::api::{is_conflict, limited};
use crate::host::Context;
use crate::lease::Session;
use status::Host;

/// The pause after a request that failed.
const RETRY: Duration = Duration::from_secs(2);
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// The Node of this host, made if there is none; waits for the API server.
///
/// # Errors
/// [`Error::NodeTaken`] when a kubelet's Node has this name.
pub async fn register(client: &Client, host: &Host) -> Result<Node, Error> {
    let api = Api::<Node>::all(client.clone());
    loop {
        let there = match limited(API_TIMEOUT, api.get_opt(&host.name)).await {
            Ok(None) => {
                let made = limited(API_TIMEOUT, api.create(&PostParams::default(), &status::node(host, &now()))).await;
                made.inspect(|_| tracing::info!(node = host.name, "the Node is registered")).map(Some)
            }
            there => there,
        };
        match there {
            Ok(Some(node)) if is_external(&node) => return Ok(node),
            Ok(Some(_)) => return Err(Error::NodeTaken { name: host.name.clone() }),
            Ok(None) => {}
            Err(error) if is_conflict(&error) => {}
            Err(error) => tracing::warn!(node = host.name, %error, "cannot register the Node; trying again"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// `name`, when a Node can have it.
///
/// # Errors
/// [`Error::NodeName`].
pub fn named(name: String) -> Result<String, Error> {
    let label = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        (1..=63).contains(&label.len()) && inner && !label.starts_with('-') && !label.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(label) { Ok(name) } else { Err(Error::NodeName { name }) }
}

/// Whether an executor has made this Node, and no kubelet has taken it over since: labels stay, the version is the last
/// one's.
fn is_external(node: &Node) -> bool {
    let labelled = node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXTERNAL));
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    let version = info.map(|info| info.kubelet_version.as_str()).unwrap_or_default();
    labelled && (version.is_empty() || version.contains(machine::VERSION_MARK))
}

/// What goes with the Node.
pub fn owner(node: &Node) -> OwnerReference {
    OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        controller: None,
        block_owner_deletion: None,
    }
}

/// Keeps the Node's status at what is, for as long as the process lives. It ends only when the Node becomes another's.
///
/// # Errors
/// [`Error::NodeTaken`].
pub async fn run(context: Context, host: Host, session: Session) -> Result<(), Error> {
    let mut sessions = session.subscribe();
    let (mut nodes, mut hypervisors) = (context.store.nodes.changes(), context.store.hypervisors.changes());
    let api = Api::<Node>::all(context.client.clone());
    loop {
        let written = match context.store.nodes.get_cluster(&host.name) {
            Some(node) if is_external(&node) => {
                // Without a Lease, Kubernetes says of the Node that nothing is known: two voices would never end.
                let speaks = session.current().is_some();
                write(&api, &context, &host, &node, speaks).await
            }
            Some(_) => return Err(Error::NodeTaken { name: host.name }),
            // Deleted, while this host goes on.
            None => register(&context.client, &host).await.map(drop),
        };
        if let Err(error) = &written {
            tracing::warn!(node = host.name, %error, "cannot write the Node's status; trying again");
        }
        tokio::select! {
            _ = nodes.changed() => {}
            _ = hypervisors.changed() => {}
            _ = sessions.changed() => {}
            () = tokio::time::sleep(RETRY), if written.is_err() => {}
        }
    }
}

async fn write(api: &Api<Node>, context: &Context, host: &Host, node: &Node, speaks: bool) -> Result<(), Error> {
    let hypervisor = context.store.hypervisors.get_cluster(&host.name);
    let before = node.status.clone().unwrap_or_default();
    let Some(patch) = status::patch(host, hypervisor.as_deref(), &before, &now(), speaks) else { return Ok(()) };
    let params = PatchParams::default();
    limited(API_TIMEOUT, api.patch_status(&host.name, &params, &Patch::Strategic(&patch))).await.map(drop)
}

fn now() -> Time {
    // The API server keeps whole seconds.
    Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default())
}

/// The address by which this host reaches the API server.
///
/// # Errors
/// [`Error::NoAddress`] when it has no way there.
pub async fn own_address(server: &http::Uri) -> Result<IpAddr, Error> {
    let unreachable = |source| Error::NoAddress { server: server.to_string(), source };
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = server.port_u16().unwrap_or(443);
    let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
    for there in lookup_host((host, port)).await.map_err(unreachable)? {
        let here: (IpAddr, u16) = if there.is_ipv4() { ([0; 4].into(), 0) } else { ([0_u16; 8].into(), 0) };
        // Nothing is sent: the kernel only looks up the way.
        match UdpSocket::bind(here).await {
            Ok(socket) => match socket.connect(there).await.and_then(|()| socket.local_addr()) {
                Ok(address) => return Ok(address.ip()),
                Err(error) => last = error,
            },
            Err(error) => last = error,
        }
    }
    Err(unreachable(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_a_kubelet_has_taken_over_is_the_kubelets() {
        let node = |label: &str, version: &str| -> Node {
            serde_yaml_ng::from_str(&format!(
                "{{metadata: {{name: n, labels: {{{label}: 'true'}}}}, status: {{nodeInfo: {{architecture: a, bootID: b, \
                 containerRuntimeVersion: c, kernelVersion: k, kubeProxyVersion: p, kubeletVersion: '{version}', \
                 machineID: m, operatingSystem: o, osImage: i, systemUUID: s}}}}}}"
            ))
            .unwrap()
        };
        assert!(is_external(&node(EXTERNAL, "")) && is_external(&node(EXTERNAL, "v1.36.3+kubevmm-0.1.0")));
        assert!(!is_external(&node(EXTERNAL, "v1.36.3")) && !is_external(&node("x", "v1.36.3+kubevmm-0.1.0")));
    }

    #[test]
    fn a_node_has_a_dns_name() {
        for good in ["kvm1", "kvm-1.example.org"] {
            assert_eq!(named(good.to_owned()).unwrap(), good);
        }
        for bad in ["", "KVM1", "kvm_1", "-a", "a..b", &"a".repeat(64)] {
            assert!(named(bad.to_owned()).unwrap_err().to_string().contains("--node-name"), "{bad}");
        }
    }

    #[tokio::test]
    async fn the_own_address_is_that_of_the_way_to_the_api_server() {
        let address = own_address(&"https://127.0.0.1:6443".parse().unwrap()).await.unwrap();
        assert!(address.is_loopback(), "{address}");
        let error = own_address(&"https://no.such.host.invalid:6443".parse().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("no.such.host.invalid"), "{error}");
    }
}
