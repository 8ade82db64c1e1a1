//! A domain that was there before its VM, in the words of a spec.

use kubevmm_analyser::lower::{DiskLocation, disk_alias};
use kubevmm_analyser::read::read_domain;
use kubevmm_analyser::spec::{SEED_DISK, lift_to_spec};
use kubevmm_analyser::{Element, Node, Tree};
use kubevmm_api::VirtualMachine;
use kubevmm_api::effective::EffectiveSpec;
use kubevmm_api::vm::{DiskStatus, HostLink, HostVolume};

use super::cluster::{Cluster, name_of};
use super::domains::Observed;
use super::prepare::{check_size, machine};
use crate::host::NotYet;

/// What a domain says, and what it is connected to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lifted {
    pub spec: EffectiveSpec,
    pub disks: Vec<DiskStatus>,
    pub links: Vec<(String, HostLink)>,
}

/// Lifts what is defined.
pub(super) fn lift(cluster: &dyn Cluster, vm: &VirtualMachine, observed: &Observed) -> Result<Lifted, NotYet> {
    let host = machine(cluster)?;
    let volume = |location: &DiskLocation| match location {
        DiskLocation::File(path) | DiskLocation::Block(path) => observed.volumes.get(path).cloned(),
        DiskLocation::Volume { pool, volume } => Some(HostVolume { libvirt_pool: pool.clone(), name: volume.clone() }),
    };
    let (_, name) = name_of(vm);
    let uid = vm.metadata.uid.as_deref().unwrap_or_default();
    let is_volume = |location: &DiskLocation| volume(location).is_some();
    let lifted = Tree::from_xml(&observed.definition)
        .map(without_seed)
        .and_then(|tree| lift_to_spec(&tree, &host, (name, uid), &is_volume));
    let lifted = lifted.map_err(|error| {
        let message = format!("the domain {} cannot be said in a VirtualMachine: {error}", observed.info.name);
        NotYet::on_change("NotLiftable", message)
    })?;
    check_size(&lifted.spec).map_err(|why| NotYet { reason: "NotLiftable", ..why })?;
    let disks = match read_domain(&observed.definition) {
        Ok(domain) => lifted.disks(&domain, &volume),
        Err(_) => lifted.disks(&observed.info, &volume),
    };
    let (_, links) = lifted.connections.to_status(&lifted.spec);
    Ok(Lifted { spec: lifted.spec, disks, links })
}

/// The seed of spec.cloudInit is made anew for each start: a domain that was managed before may have one.
fn without_seed(mut tree: Tree) -> Tree {
    let seed = disk_alias(SEED_DISK);
    let is_seed = |device: &Element| device.find("alias").and_then(|it| it.attribute("name")) == Some(seed.as_str());
    for devices in tree.root.elements_mut().filter(|element| element.name() == "devices") {
        devices.nodes_mut().retain(|node| !matches!(node, Node::Element(device) if is_seed(device)));
    }
    tree
}

/// Names disks and networks as the spec does that the VM has now: the domain is connected to them already.
pub(super) fn refer(lifted: &mut Lifted, wanted: &EffectiveSpec) {
    for disk in &mut lifted.spec.disks {
        if let Some(named) = wanted.disks.iter().find(|it| it.name == disk.name) {
            disk.disk_name.clone_from(&named.disk_name);
        }
    }
    for nic in &mut lifted.spec.networks {
        if let Some(named) = wanted.networks.iter().find(|it| it.name == nic.name) {
            (nic.kind, nic.network_name) = (named.kind, named.network_name.clone());
        }
    }
    lifted.spec.placement = wanted.placement.clone();
}
