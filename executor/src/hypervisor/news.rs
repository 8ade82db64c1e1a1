//! The Events of a host: what a person wants to know of the step from one status of its Hypervisor to the next. Pure.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use kubevmm_api::common::{ImageKind, NetworkKind};
use kubevmm_api::condition::{self, READY};
use kubevmm_api::hypervisor::{HostImage, HostNetwork, HostPool, ImageState};
use kubevmm_api::{
    ClusterVirtualMachineImage, ClusterVirtualMachineNetwork, Hypervisor, HypervisorStatus, VirtualMachineImage,
    VirtualMachineNetwork, VirtualMachineStoragePool,
};

/// An Event to be sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct News {
    /// The object that it is about.
    pub about: ObjectReference,
    /// Somebody may have to act on it.
    pub warning: bool,
    /// What was tried.
    pub action: &'static str,
    /// What became of it.
    pub reason: String,
    /// The same in words.
    pub note: String,
}

/// What is new in `after`, the status of `host` that was `before`. What is as it should be from the start is no news.
pub(super) fn news(host: &Hypervisor, before: &HypervisorStatus, after: &HypervisorStatus) -> Vec<News> {
    let node = host.metadata.name.as_deref().unwrap_or_default();
    let pools = after.pools.iter().filter_map(|pool| {
        let was = before.pools.iter().find(|was| was.uid == pool.uid);
        usability(pool_reference(pool), node, was.map(Usability::of_pool), &Usability::of_pool(pool))
    });
    let networks = after.networks.iter().filter_map(|network| {
        let was = before.networks.iter().find(|was| was.uid == network.uid);
        usability(network_reference(network), node, was.map(Usability::of_network), &Usability::of_network(network))
    });
    let images = after.images.iter().filter_map(|image| {
        let was = before.images.iter().find(|was| was.uid == image.uid && was.pool_name == image.pool_name);
        download(image, node, was)
    });
    connection(host, before, after).into_iter().chain(pools).chain(networks).chain(images).collect()
}

/// Whether the host reaches its libvirt.
fn connection(host: &Hypervisor, before: &HypervisorStatus, after: &HypervisorStatus) -> Option<News> {
    let ready = condition::find(&after.conditions, READY)?;
    let was = condition::find(&before.conditions, READY);
    if was.is_some_and(|was| (&was.status, &was.reason) == (&ready.status, &ready.reason)) {
        return None;
    }
    Some(News {
        about: host.object_ref(&()),
        warning: ready.status != "True",
        action: "Connect",
        reason: ready.reason.clone(),
        note: ready.message.clone(),
    })
}

/// Whether a pool or a network can be used on a host.
struct Usability<'a> {
    ready: bool,
    reason: Option<&'a str>,
    message: Option<&'a str>,
}

impl<'a> Usability<'a> {
    fn of_pool(pool: &'a HostPool) -> Self {
        Self { ready: pool.ready, reason: pool.reason.as_deref(), message: pool.message.as_deref() }
    }

    fn of_network(network: &'a HostNetwork) -> Self {
        Self { ready: network.ready, reason: network.reason.as_deref(), message: network.message.as_deref() }
    }
}

fn usability(about: ObjectReference, node: &str, was: Option<Usability<'_>>, is: &Usability<'_>) -> Option<News> {
    // What was never told of is expected to be usable.
    let was = was.unwrap_or(Usability { ready: true, reason: None, message: None });
    if (was.ready, was.reason) == (is.ready, is.reason) {
        return None;
    }
    let why = is.message.unwrap_or_default();
    Some(match is.ready {
        true => News {
            about,
            warning: false,
            action: "Prepare",
            reason: READY.to_owned(),
            note: format!("on {node}: it can be used again"),
        },
        false => News {
            about,
            warning: true,
            action: "Prepare",
            reason: is.reason.unwrap_or("NotReady").to_owned(),
            note: format!("on {node}: {why}"),
        },
    })
}

/// How a download stands. The attempts after a failure are no news before their end.
fn download(image: &HostImage, node: &str, was: Option<&HostImage>) -> Option<News> {
    if was.is_some_and(|was| was.state == image.state) {
        return None;
    }
    let about = image_reference(image);
    let news =
        |warning, reason: &str, note| News { about, warning, action: "Download", reason: reason.to_owned(), note };
    match image.state {
        ImageState::Downloading if was.is_some() => None,
        ImageState::Downloading => Some(news(false, "Downloading", format!("to the host {node}"))),
        ImageState::Downloaded => Some(news(false, "Downloaded", format!("to the host {node}"))),
        ImageState::Failed => {
            let why = image.message.as_deref().unwrap_or_default();
            let reason = image.reason.as_deref().unwrap_or("DownloadFailed");
            Some(news(true, reason, format!("to the host {node}: {why}")))
        }
    }
}

fn pool_reference(pool: &HostPool) -> ObjectReference {
    reference::<VirtualMachineStoragePool>(None, &pool.name, &pool.uid)
}

fn network_reference(network: &HostNetwork) -> ObjectReference {
    let of = match network.kind {
        NetworkKind::VirtualMachineNetwork => reference::<VirtualMachineNetwork>,
        NetworkKind::ClusterVirtualMachineNetwork => reference::<ClusterVirtualMachineNetwork>,
    };
    of(network.namespace.as_deref(), &network.name, &network.uid)
}

fn image_reference(image: &HostImage) -> ObjectReference {
    let of = match image.kind {
        ImageKind::VirtualMachineImage => reference::<VirtualMachineImage>,
        ImageKind::ClusterVirtualMachineImage => reference::<ClusterVirtualMachineImage>,
    };
    of(image.namespace.as_deref(), &image.name, &image.uid)
}

fn reference<K: Resource<DynamicType = ()>>(namespace: Option<&str>, name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: namespace.map(ToOwned::to_owned),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(yaml: &str) -> HypervisorStatus {
        serde_yaml_ng::from_str(yaml).unwrap()
    }

    /// The Events as `warning about: reason, note`.
    fn told(before: &str, after: &str) -> Vec<String> {
        let host = Hypervisor::new("n1", Default::default());
        let line = |news: News| {
            let about = format!("{} {}", news.about.kind.unwrap(), news.about.name.unwrap());
            format!("{}{about}: {}, {}", if news.warning { "! " } else { "" }, news.reason, news.note)
        };
        news(&host, &status(before), &status(after)).into_iter().map(line).collect()
    }

    #[test]
    fn nothing_new_is_no_news() {
        let same = "{pools: [{name: fast, uid: p, ready: false, reason: PoolNotMounted, message: a}]}";
        assert_eq!(told(same, same), Vec::<String>::new());
        let other_sizes = "{pools: [{name: fast, uid: p, ready: true, available: 1Gi}]}";
        assert_eq!(told("{pools: [{name: fast, uid: p, ready: true}]}", other_sizes), Vec::<String>::new());
        assert_eq!(told("{}", other_sizes), Vec::<String>::new(), "a pool that is as it should be");
        assert_eq!(told(same, "{}"), Vec::<String>::new(), "a pool that is gone");
    }

    #[test]
    fn a_pool_that_fails_and_comes_back() {
        let (up, down) = (
            "{pools: [{name: fast, uid: p, ready: true}]}",
            "{pools: [{name: fast, uid: p, ready: false, reason: PoolNotMounted, message: mount it}]}",
        );
        let failed = "! VirtualMachineStoragePool fast: PoolNotMounted, on n1: mount it";
        assert_eq!(told(up, down), [failed]);
        assert_eq!(told("{}", down), [failed]);
        assert_eq!(told(down, up), ["VirtualMachineStoragePool fast: Ready, on n1: it can be used again"]);
    }

    #[test]
    fn a_network_of_a_namespace() {
        let network = |rest: &str| {
            format!("{{networks: [{{kind: VirtualMachineNetwork, namespace: shop, name: lan, uid: u, {rest}}}]}}")
        };
        let down = network("ready: false, reason: NameTaken, message: rename it");
        assert_eq!(told(&network("ready: true"), &down), ["! VirtualMachineNetwork lan: NameTaken, on n1: rename it"]);
        let about = network_reference(&status(&down).networks[0]);
        assert_eq!(
            (about.namespace.as_deref(), about.api_version.as_deref()),
            (Some("shop"), Some("kubevmm.io/v1beta1"))
        );
    }

    #[test]
    fn a_download() {
        let image = |rest: &str| {
            format!(
                "{{images: [{{kind: ClusterVirtualMachineImage, name: debian, uid: i, poolName: p, volumeName: v, {rest}}}]}}"
            )
        };
        let (start, half) = (image("state: Downloading"), image("state: Downloading, percent: 50"));
        let failed = image("state: Failed, reason: ChecksumMismatch, message: correct it");
        let name = "ClusterVirtualMachineImage debian";
        assert_eq!(told("{}", &start), [format!("{name}: Downloading, to the host n1")]);
        assert_eq!(told(&start, &half), Vec::<String>::new());
        assert_eq!(told(&half, &image("state: Downloaded")), [format!("{name}: Downloaded, to the host n1")]);
        assert_eq!(told(&half, &failed), [format!("! {name}: ChecksumMismatch, to the host n1: correct it")]);
        assert_eq!(told(&failed, &start), Vec::<String>::new(), "another attempt");
    }

    #[test]
    fn a_host_whose_libvirt_goes() {
        let ready = |status: &str, reason: &str| {
            format!(
                "{{conditions: [{{type: Ready, status: '{status}', reason: {reason}, message: m, lastTransitionTime: '2026-01-01T00:00:00Z'}}]}}"
            )
        };
        let (up, down) = (ready("True", "Connected"), ready("False", "LibvirtUnavailable"));
        assert_eq!(told("{}", &up), ["Hypervisor n1: Connected, m"]);
        assert_eq!(told(&up, &down), ["! Hypervisor n1: LibvirtUnavailable, m"]);
        assert_eq!(told(&down, &up), ["Hypervisor n1: Connected, m"]);
        assert_eq!(told(&ready("Unknown", "HostLost"), &up), ["Hypervisor n1: Connected, m"]);
        assert_eq!(told(&up, &up), Vec::<String>::new());
    }
}
