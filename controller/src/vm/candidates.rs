//! The hosts that can take a VM, and why the others cannot: pure.

use std::sync::Arc;

use kubevmm_api::VirtualMachineDisk;
use kubevmm_api::common::NetworkKind;

use crate::disk::decide::pool_of;
use crate::hosts::Host;
use crate::object::{enumerate, name, uid};
use crate::vm::disks::pinned_to;
use crate::vm::view::View;

/// Why a VM cannot be placed: a reason for programs, a message for people.
pub type Refusal = (&'static str, String);

/// Why a host cannot take a VM, the nearest miss last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    NotReady,
    NoPool,
    NoNetwork,
    DataElsewhere,
}

/// Names of the hosts that can take the VM.
pub fn candidates(view: &View, disks: &[Arc<VirtualMachineDisk>]) -> Result<Vec<String>, Refusal> {
    check_networks(view)?;
    let mut able = Vec::new();
    let mut refused = Vec::new();
    let home = view.home();
    let may_be = |host: &Host| home.is_none_or(|home| host.name == home);
    for host in view.hosts.0.values().filter(|host| host.hypervisor.is_some() && may_be(host)) {
        match check(view, disks, host) {
            Ok(()) => able.push(host.name.clone()),
            Err((why, message)) => refused.push((why, format!("{}: {message}", host.name))),
        }
    }
    if !able.is_empty() {
        return Ok(able);
    }
    let pinned = || disks.iter().filter_map(|disk| Some((name(disk.as_ref()), pinned_to(view, disk)?)));
    if let Some((disk, node)) = pinned().find(|(_, node)| view.hosts.get(node).is_none()) {
        return Err((
            "HostNotFound",
            format!(
                "the volume of the VirtualMachineDisk {disk} lies on the host {node}, and there is no Hypervisor of that \
                 name (kubectl get hv): make another disk, with the right spec.source.existing.nodeName"
            ),
        ));
    }
    if let Some((disk, node)) = pinned().find(|(_, node)| !view.hosts.is_live(node)) {
        return Err((
            "DataOnLostHost",
            format!(
                "the volume of the VirtualMachineDisk {disk} lies on the host {node}, which does not answer: bring the host back"
            ),
        ));
    }
    let reason = match refused.iter().map(|(why, _)| *why).max() {
        None => return Err(("NoHypervisor", "there is no Hypervisor: no executor runs on any node".into())),
        Some(Why::NotReady) => "NoHypervisor",
        Some(Why::NoPool) => "NoHostWithPool",
        Some(Why::NoNetwork) => "NoHostWithNetwork",
        Some(Why::DataElsewhere) if home.is_some() => "DataElsewhere",
        Some(Why::DataElsewhere) => "HostOfDataNotReady",
    };
    let messages: Vec<String> = refused.into_iter().map(|(_, message)| message).collect();
    let whose =
        if home.is_some() { "the VM is an imported one, which stays on its host" } else { "no host can take the VM" };
    Err((reason, format!("{whose}: {}", enumerate(&messages))))
}

fn check(view: &View, disks: &[Arc<VirtualMachineDisk>], host: &Host) -> Result<(), (Why, String)> {
    host.readiness().map_err(|why| (Why::NotReady, why))?;
    let status = host.status();
    for disk in disks {
        let pool_name = pool_of(disk, &view.default_pools()).unwrap_or_default();
        let pool_uid = view.pools.get(&pool_name).map(|pool| uid(pool.as_ref())).unwrap_or_default();
        let pools = status.map(|status| status.pools.as_slice()).unwrap_or_default();
        match pools.iter().find(|pool| pool.name == pool_name && pool.uid == pool_uid) {
            Some(pool) if pool.ready => {}
            Some(pool) => {
                let why = pool.message.as_deref().or(pool.reason.as_deref()).unwrap_or("not ready");
                return Err((Why::NoPool, format!("pool {pool_name}: {why}")));
            }
            None => return Err((Why::NoPool, format!("it does not have the pool {pool_name}"))),
        }
    }
    for (_, kind, network) in view.nics() {
        let network = network.unwrap_or_default();
        let (network_uid, namespace, everywhere) = match kind {
            NetworkKind::VirtualMachineNetwork => {
                (view.networks.get(network).map(|n| uid(n.as_ref())), Some(view.namespace()), true)
            }
            NetworkKind::ClusterVirtualMachineNetwork => {
                let object = view.cluster_networks.get(network);
                (object.map(|n| uid(n.as_ref())), None, object.is_some_and(|n| n.spec.existing.is_none()))
            }
        };
        let known = status.map(|status| status.networks.as_slice()).unwrap_or_default();
        let entry = known.iter().find(|entry| {
            entry.kind == kind
                && entry.name == network
                && entry.namespace.as_deref() == namespace
                && Some(entry.uid.as_str()) == network_uid
        });
        match entry {
            Some(entry) if entry.ready => {}
            // A nat network is made on a host when the first VM there needs it.
            None if everywhere => {}
            Some(entry) => {
                let why = entry.message.as_deref().or(entry.reason.as_deref()).unwrap_or("not ready");
                return Err((Why::NoNetwork, format!("network {network}: {why}")));
            }
            None => return Err((Why::NoNetwork, format!("it does not have the network {network}"))),
        }
    }
    for disk in disks {
        if let Some(node) = pinned_to(view, disk).filter(|node| *node != host.name) {
            let message = format!("the volume of the disk {} lies on {node}", name(disk.as_ref()));
            return Err((Why::DataElsewhere, message));
        }
    }
    Ok(())
}

/// The networks exist and the namespace may use them.
fn check_networks(view: &View) -> Result<(), Refusal> {
    for (nic, kind, network) in view.nics() {
        let at = format!("spec.networks[{nic}].network");
        let Some(network) = network else {
            let defaults = view.default_networks();
            return Err(if defaults.is_empty() {
                (
                    "NoDefaultNetwork",
                    format!(
                        "{at} is missing and there is no default network: name one, or annotate one \
                         ClusterVirtualMachineNetwork with kubevmm.io/is-default: \"true\""
                    ),
                )
            } else {
                (
                    "SeveralDefaultNetworks",
                    format!(
                        "{at} is missing and {} are all annotated with kubevmm.io/is-default: name a network, or \
                         leave the annotation on one of them",
                        defaults.join(", ")
                    ),
                )
            });
        };
        let found = match kind {
            NetworkKind::VirtualMachineNetwork => view.networks.contains_key(network),
            NetworkKind::ClusterVirtualMachineNetwork => view.cluster_networks.contains_key(network),
        };
        if !found {
            return Err(("NetworkNotFound", format!("{at}: there is no {kind:?} {network}: create it")));
        }
        let forbidden = kind == NetworkKind::ClusterVirtualMachineNetwork
            && view.cluster_networks.get(network).is_some_and(|object| !object.spec.allows(view.namespace()));
        if forbidden {
            return Err((
                "NetworkNotAllowed",
                format!(
                    "{at}: the ClusterVirtualMachineNetwork {network} does not allow the namespace {}: an administrator \
                     can add it to its spec.allowedNamespaces",
                    view.namespace()
                ),
            ));
        }
    }
    Ok(())
}
