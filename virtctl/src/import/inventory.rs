//! The objects that stand for the pools, volumes and networks of a host: those that are there, and those that an import
//! makes of them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kube::api::DynamicObject;
use kube::{Resource, ResourceExt as _};
use kubevmm_api::common::{NetworkKind, NetworkRef};
use kubevmm_api::disk::{DiskSource, ExistingVolume, VirtualMachineDiskSpec};
use kubevmm_api::image::ImageFormat;
use kubevmm_api::network::{ClusterVirtualMachineNetworkSpec, ExistingNetwork};
use kubevmm_api::pool::{ExistingPool, VirtualMachineStoragePoolSpec};
use kubevmm_api::vm::{HostLink, HostVolume};
use kubevmm_api::{
    ClusterVirtualMachineNetwork, VirtualMachineDisk, VirtualMachineNetwork, VirtualMachineStoragePool, names,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{label, label_or};
use crate::error::Error;
use crate::output;

/// Label of a Node that a pool of one host selects it by.
pub(crate) const HOSTNAME: &str = "kubernetes.io/hostname";

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Its kind.
    pub(crate) kind: Kind,
    /// Its namespace, if its kind has one.
    pub(crate) namespace: Option<String>,
    /// Its name.
    pub(crate) name: String,
}

/// Kind of an object that an import makes beside the VirtualMachine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Pool,
    Network,
    Disk,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Pool => "virtualmachinestoragepool",
            Kind::Network => "clustervirtualmachinenetwork",
            Kind::Disk => "virtualmachinedisk",
        };
        write!(f, "{kind}.kubevmm.io/{}", self.name)
    }
}

/// What is to be done to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is created.
    Create,
    /// A network: VMs of these namespaces too may use it.
    Allow(Vec<String>),
}

/// An object to write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Write {
    /// Which one.
    pub(crate) key: Key,
    /// What is done to it.
    pub(crate) change: Change,
    /// The object as it shall be.
    pub(crate) object: Value,
}

#[derive(Clone)]
struct Entry<K> {
    object: K,
    change: Option<Change>,
}

impl<K> Entry<K> {
    fn there(object: K) -> Self {
        Self { object, change: None }
    }

    fn new(object: K) -> Self {
        Self { object, change: Some(Change::Create) }
    }
}

/// The objects of the cluster, seen from one host.
#[derive(Clone)]
pub(crate) struct Inventory {
    node: String,
    /// The label by which a pool selects it.
    hostname: String,
    /// Names of the pool objects that select the host's node, as far as its executor tells.
    selected: BTreeSet<String>,
    pools: Vec<Entry<VirtualMachineStoragePool>>,
    networks: Vec<Entry<ClusterVirtualMachineNetwork>>,
    own_networks: Vec<VirtualMachineNetwork>,
    disks: Vec<Entry<VirtualMachineDisk>>,
    /// The VirtualMachine to which each disk object is given here.
    given: BTreeMap<(String, String), String>,
}

/// A disk of a domain that is to have an object.
pub(crate) struct WantedDisk<'a> {
    /// Namespace of the VirtualMachine.
    pub(crate) namespace: &'a str,
    /// The VirtualMachine.
    pub(crate) vm: &'a str,
    /// Its uid; empty of one that is not there yet.
    pub(crate) vm_uid: &'a str,
    /// Name that the object is given, if it is free.
    pub(crate) name: &'a str,
    /// The volume.
    pub(crate) volume: &'a HostVolume,
    /// Its format.
    pub(crate) format: ImageFormat,
}

impl Inventory {
    /// What is there. `hostname` is the value of the node's label [`HOSTNAME`], `selected` are the names of the pools that
    /// select the node.
    pub(crate) fn new(
        (node, hostname): (&str, &str),
        selected: impl IntoIterator<Item = String>,
        pools: Vec<VirtualMachineStoragePool>,
        networks: Vec<ClusterVirtualMachineNetwork>,
        own_networks: Vec<VirtualMachineNetwork>,
        disks: Vec<VirtualMachineDisk>,
    ) -> Self {
        Self {
            node: node.to_owned(),
            hostname: hostname.to_owned(),
            selected: selected.into_iter().collect(),
            pools: pools.into_iter().map(Entry::there).collect(),
            networks: networks.into_iter().map(Entry::there).collect(),
            own_networks,
            disks: disks.into_iter().map(Entry::there).collect(),
            given: BTreeMap::new(),
        }
    }

    /// The object of a libvirt pool.
    pub(crate) fn pool(&mut self, libvirt_pool: &str) -> Key {
        let found = self.pools.iter().map(|entry| &entry.object).find(|pool| {
            pool.libvirt_name() == libvirt_pool && self.selects(pool) && pool.metadata.deletion_timestamp.is_none()
        });
        if let Some(pool) = found {
            return key(Kind::Pool, pool);
        }
        let is_taken = |name: &str| self.pools.iter().any(|entry| entry.object.name_any() == name);
        let name = free_name(&label_or(libvirt_pool, "pool"), &self.node, libvirt_pool, is_taken);
        let pool = VirtualMachineStoragePool::new(
            &name,
            VirtualMachineStoragePoolSpec {
                existing: Some(ExistingPool { name: libvirt_pool.to_owned() }),
                // Another host may have another pool of that name.
                node_selector: [(HOSTNAME.to_owned(), self.hostname.clone())].into(),
                ..Default::default()
            },
        );
        let key = key(Kind::Pool, &pool);
        self.pools.push(Entry::new(pool));
        key
    }

    fn selects(&self, pool: &VirtualMachineStoragePool) -> bool {
        let selector = &pool.spec.node_selector;
        let by_name = selector.len() == 1 && selector.get(HOSTNAME) == Some(&self.hostname);
        selector.is_empty() || by_name || self.selected.contains(&pool.name_any())
    }

    /// The directories of the pools that this project has made on the host, with libvirt's names of the pools.
    pub(crate) fn directories(&self) -> impl Iterator<Item = (&str, String)> {
        let pools = self.pools.iter().map(|entry| &entry.object).filter(|pool| self.selects(pool));
        pools.filter_map(|pool| Some((pool.spec.dir.as_ref()?.path.as_str(), pool.libvirt_name())))
    }

    /// The object of a volume, and that of its pool.
    ///
    /// # Errors
    /// When another VirtualMachine has it, or what is there says otherwise.
    pub(crate) fn disk(&mut self, wanted: &WantedDisk<'_>) -> Result<[Key; 2], Error> {
        let pool = self.pool(&wanted.volume.libvirt_pool);
        let disk = match self.disk_of(wanted) {
            Some(disk) => {
                self.check(disk, wanted)?;
                key(Kind::Disk, disk)
            }
            None => self.new_disk(wanted, &pool),
        };
        let place = (wanted.namespace.to_owned(), disk.name.clone());
        match self.given.get(&place) {
            Some(other) if other != wanted.vm => Err(Error::Refused(format!(
                "the volume {} of pool {} is a disk of the virtual machine {other} too: a disk belongs to one; shut one of \
                 the domains down and take it from its definition, or say <shareable/> there",
                wanted.volume.name, wanted.volume.libvirt_pool
            ))),
            _ => {
                self.given.insert(place, wanted.vm.to_owned());
                Ok([disk, pool])
            }
        }
    }

    fn disk_of(&self, wanted: &WantedDisk<'_>) -> Option<&VirtualMachineDisk> {
        let disks = self.disks.iter().map(|entry| &entry.object);
        let mut found: Vec<_> = disks
            .filter(|disk| disk.namespace().as_deref() == Some(wanted.namespace) && self.is(disk, wanted.volume))
            .filter(|disk| !leaves_its_volume(disk, wanted))
            .collect();
        found.sort_by_key(|disk| disk.name_any() != wanted.name);
        found.into_iter().next()
    }

    /// Whether an object is this volume of the host.
    fn is(&self, disk: &VirtualMachineDisk, volume: &HostVolume) -> bool {
        let status = disk.status.as_ref();
        let pool = status.and_then(|status| status.pool_name.as_ref()).or(disk.spec.pool_name.as_ref());
        let Some(pool) = pool.and_then(|name| self.pools.iter().find(|entry| entry.object.name_any() == *name)) else {
            return false;
        };
        let existing = disk.spec.source.existing.as_ref();
        let (node, name) = match existing {
            Some(existing) => (Some(&existing.node_name), Some(&existing.volume_name)),
            None => (status.and_then(|it| it.node_name.as_ref()), status.and_then(|it| it.volume_name.as_ref())),
        };
        let is_here = pool.object.spec.shared || node == Some(&self.node);
        is_here && name == Some(&volume.name) && pool.object.libvirt_name() == volume.libvirt_pool
    }

    fn check(&self, disk: &VirtualMachineDisk, wanted: &WantedDisk<'_>) -> Result<(), Error> {
        let name = disk.name_any();
        if disk.metadata.deletion_timestamp.is_some() {
            return Err(Error::Refused(format!("the disk {name} is being deleted: try again when it is gone")));
        }
        let holder = disk.status.as_ref().and_then(|status| status.used_by.as_ref());
        if let Some(holder) = holder.filter(|holder| holder.name != wanted.vm) {
            return Err(Error::Refused(format!(
                "the disk {name} is in use by the virtual machine {}: take it from that one first",
                holder.name
            )));
        }
        match &disk.spec.source.existing {
            Some(existing) if existing.format != wanted.format => Err(Error::Refused(format!(
                "the disk {name} says that its volume is {}, the domain reads it as {}: delete the object (the volume stays, \
                 unless its reclaimPolicy is Delete), and import again",
                existing.format.as_str(),
                wanted.format.as_str()
            ))),
            _ => Ok(()),
        }
    }

    fn new_disk(&mut self, wanted: &WantedDisk<'_>, pool: &Key) -> Key {
        let is_taken = |name: &str| {
            let mut disks = self.disks.iter().map(|entry| &entry.object);
            disks.any(|disk| disk.name_any() == name && disk.namespace().as_deref() == Some(wanted.namespace))
        };
        let volume = wanted.volume;
        let told_apart = format!("{}/{}", volume.libvirt_pool, volume.name);
        let name = free_name(wanted.name, &self.node, &told_apart, is_taken);
        let source = DiskSource {
            existing: Some(ExistingVolume {
                node_name: self.node.clone(),
                volume_name: volume.name.clone(),
                format: wanted.format,
            }),
            ..Default::default()
        };
        let spec = VirtualMachineDiskSpec { pool_name: Some(pool.name.clone()), source, ..Default::default() };
        let mut disk = VirtualMachineDisk::new(&name, spec);
        disk.metadata.namespace = Some(wanted.namespace.to_owned());
        let key = key(Kind::Disk, &disk);
        self.disks.push(Entry::new(disk));
        key
    }

    /// The network that VMs of a namespace reach a libvirt network or bridge by. The key is that of a cluster network.
    pub(crate) fn network(&mut self, link: &HostLink, namespace: &str) -> (NetworkRef, Option<Key>) {
        let own = self.own_networks.iter().find(|own| {
            let name = names::network(Some(namespace), &own.name_any());
            own.namespace().as_deref() == Some(namespace) && link.libvirt_network.as_ref() == Some(&name)
        });
        if let Some(own) = own {
            return (NetworkRef { kind: NetworkKind::VirtualMachineNetwork, name: own.name_any() }, None);
        }
        let existing = ExistingNetwork { libvirt_network: link.libvirt_network.clone(), bridge: link.bridge.clone() };
        let is_it = |network: &ClusterVirtualMachineNetwork| match &network.spec.existing {
            Some(theirs) => *theirs == existing,
            None => existing.libvirt_network.as_ref() == Some(&names::network(None, &network.name_any())),
        };
        let mut found: Vec<_> = self.networks.iter_mut().filter(|entry| is_it(&entry.object)).collect();
        found.sort_by_key(|entry| !entry.object.spec.allows(namespace));
        let key = match found.into_iter().next() {
            Some(entry) => {
                allow(entry, namespace);
                key(Kind::Network, &entry.object)
            }
            None => self.new_network(existing, namespace),
        };
        let reference = NetworkRef { kind: NetworkKind::ClusterVirtualMachineNetwork, name: key.name.clone() };
        (reference, Some(key))
    }

    fn new_network(&mut self, existing: ExistingNetwork, namespace: &str) -> Key {
        let is_taken = |name: &str| self.networks.iter().any(|entry| entry.object.name_any() == name);
        let of_host = existing.libvirt_network.as_ref().or(existing.bridge.as_ref()).cloned().unwrap_or_default();
        let name = free_name(&label_or(&of_host, "network"), &self.node, &of_host, is_taken);
        let spec = ClusterVirtualMachineNetworkSpec {
            nat: None,
            existing: Some(existing),
            allowed_namespaces: vec![namespace.to_owned()],
        };
        let network = ClusterVirtualMachineNetwork::new(&name, spec);
        let key = key(Kind::Network, &network);
        self.networks.push(Entry::new(network));
        key
    }

    /// What is to be done to an object; nothing, when it is as it should be.
    pub(crate) fn write(&self, key: &Key) -> Result<Option<Write>, Error> {
        match key.kind {
            Kind::Pool => write(&self.pools, key),
            Kind::Network => write(&self.networks, key),
            Kind::Disk => write(&self.disks, key),
        }
    }
}

/// A disk on its way out that waits for its VM, or for the domain that was left of it: it goes after another object has
/// the volume, and so without it. The disks of an earlier VM of this name are about to be deleted, for it is gone.
fn leaves_its_volume(disk: &VirtualMachineDisk, wanted: &WantedDisk<'_>) -> bool {
    let Some(holder) = disk.status.as_ref().and_then(|status| status.used_by.as_ref()) else { return false };
    let owners = disk.metadata.owner_references.as_deref().unwrap_or_default();
    let is_of_an_earlier_vm = holder.name == wanted.vm
        && holder.uid != wanted.vm_uid
        && owners.iter().any(|owner| owner.controller == Some(true) && owner.uid == holder.uid);
    disk.metadata.deletion_timestamp.is_some() || is_of_an_earlier_vm
}

fn allow(entry: &mut Entry<ClusterVirtualMachineNetwork>, namespace: &str) {
    if entry.object.spec.allows(namespace) {
        return;
    }
    entry.object.spec.allowed_namespaces.push(namespace.to_owned());
    match &mut entry.change {
        Some(Change::Create) => {}
        Some(Change::Allow(namespaces)) => namespaces.push(namespace.to_owned()),
        None => entry.change = Some(Change::Allow(vec![namespace.to_owned()])),
    }
}

fn write<K>(entries: &[Entry<K>], wanted: &Key) -> Result<Option<Write>, Error>
where
    K: Resource<DynamicType = ()> + Serialize,
{
    let entry = entries.iter().find(|entry| key(wanted.kind, &entry.object) == *wanted);
    let Some((entry, change)) = entry.and_then(|entry| Some((entry, entry.change.clone()?))) else { return Ok(None) };
    Ok(Some(Write { key: wanted.clone(), change, object: output::printable(&entry.object)? }))
}

/// The change of the network that is `there`, so that it also allows what `wanted` does: on condition that nobody else
/// has changed it.
pub(crate) fn allowing(there: &DynamicObject, wanted: &Value) -> Value {
    let allowed = |spec: Option<&Value>| -> Vec<Value> {
        spec.and_then(|spec| spec.get("allowedNamespaces")?.as_array()).cloned().unwrap_or_default()
    };
    let mut namespaces = allowed(there.data.get("spec"));
    for namespace in allowed(wanted.get("spec")) {
        if !namespaces.contains(&namespace) {
            namespaces.push(namespace);
        }
    }
    json!({
        "metadata": {"resourceVersion": there.metadata.resource_version},
        "spec": {"allowedNamespaces": namespaces},
    })
}

/// Whether two networks stand for the same of a host.
pub(crate) fn is_same_network(one: &Value, other: &Value) -> bool {
    one.pointer("/spec/existing") == other.pointer("/spec/existing")
        && one.pointer("/spec/nat") == other.pointer("/spec/nat")
}

fn key<K: Resource<DynamicType = ()>>(kind: Kind, object: &K) -> Key {
    Key { kind, namespace: object.meta().namespace.clone(), name: object.name_any() }
}

/// `base`, or with the name of the host, or with a hash as well.
fn free_name(base: &str, node: &str, of_host: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let of_node = format!("{base}-{}", label(node));
    let hashed = |round: u32| format!("{of_node}-{}", names::short_hash(&format!("{node}/{of_host}/{round}"), 8));
    let candidates = [base.to_owned(), of_node.clone()].into_iter().chain((0..).map(hashed));
    candidates.map(|name| names::fit(&name)).find(|name| !is_taken(name)).unwrap_or_else(|| base.to_owned())
}

#[cfg(test)]
mod tests;
