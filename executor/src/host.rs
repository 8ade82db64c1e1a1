//! What the parts of the executor need of each other: the VMs' tasks of storage, networks and seeds, and those of the
//! host as it stands.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use kubevmm_analyser::lower::NicSource;
pub use kubevmm_analyser::spec::DiskOnHost;
use kubevmm_api::common::NetworkKind;
use tokio::sync::{broadcast, watch};

use crate::events::EventRecorder;
use crate::hypervisor::HostReport;
use crate::libvirt;
use crate::store::Store;

/// What every part of the executor holds. Clones share it.
#[derive(Clone)]
pub struct Context {
    /// Name of this Node, and of the Hypervisor object.
    pub node: Arc<str>,
    /// Identity of the cluster in marks: the uid of the namespace `kube-system`.
    pub cluster: Arc<str>,
    /// Client of the API server.
    pub client: kube::Client,
    /// The connection to libvirt.
    pub libvirt: libvirt::Hypervisor,
    /// libvirt's events. A reader that is told that it lagged reads everything anew, as after
    /// [`libvirt::Event::Lost`].
    pub libvirt_events: broadcast::Sender<Arc<libvirt::Event>>,
    /// The objects of the API server that concern this host.
    pub store: Store,
    /// The status of this host's Hypervisor object.
    pub report: HostReport,
    /// Kubernetes Events.
    pub events: EventRecorder,
    /// Told when something on the host has changed that a [`NotYet`] may wait for.
    pub changes: Changes,
}

/// Something that a VM needs is not there (yet). It becomes the VM's condition `Ready=False`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotYet {
    /// A stable CamelCase word, such as `ImageDownloading`.
    pub reason: &'static str,
    /// A sentence for people: the object, what is wrong, the way out.
    pub message: String,
    /// When to ask again.
    pub retry: Retry,
}

/// When to ask again for something that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// After this time, or earlier when something changes.
    After(Duration),
    /// When an object in the [`Store`] changes, or [`Changes::notify`] is called.
    OnChange,
    /// With the VM's backoff: 1 s, doubling up to 30 s.
    Backoff,
}

impl NotYet {
    /// Waits for a change.
    pub fn on_change(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), retry: Retry::OnChange }
    }

    /// Is tried again with growing pauses.
    pub fn backoff(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), retry: Retry::Backoff }
    }
}

impl From<libvirt::Error> for NotYet {
    fn from(error: libvirt::Error) -> Self {
        Self::backoff("LibvirtError", error.to_string())
    }
}

/// Tells waiting VM tasks that something on the host has changed: an image has arrived, a pool is active, ….
#[derive(Clone)]
pub struct Changes(Arc<watch::Sender<u64>>);

impl Default for Changes {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Changes {
    /// Something has changed.
    pub fn notify(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Learns of the changes from now on.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

/// The disks of VMs.
///
/// Deleting the volume of a deleted VirtualMachineDisk is the storage's own work, driven by [`Store`].
pub trait Storage: Send + Sync + 'static {
    /// Makes a disk of the VM `vm_uid` real and says where it is. It returns soon: long work (the download of an image, a copy) runs as a
    /// job of its own, and [`NotYet`] with [`Retry::OnChange`] is returned while it does; its end is told by
    /// [`Changes::notify`]. Called again before each start of the VM; nothing is done for a disk that is there.
    fn ensure_disk<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        vm_uid: &'a str,
    ) -> BoxFuture<'a, Result<DiskOnHost, NotYet>>;

    /// Says where a disk is that has its volume, whosever it is. Nothing is made or written.
    fn find_disk<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<DiskOnHost, NotYet>>;
}

/// The networks of VMs.
///
/// Deleting the libvirt network of a deleted object is the networks' own work, driven by [`Store`].
pub trait Networks: Send + Sync + 'static {
    /// Makes the network real and says how a NIC of a VM in `namespace` is connected to it.
    fn ensure<'a>(
        &'a self,
        kind: NetworkKind,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<NicSource, NotYet>>;
}

/// What a NoCloud seed is made from. No `Debug`: user data may be secret.
#[derive(Clone, PartialEq, Eq)]
pub struct SeedInput {
    /// Namespace of the VM.
    pub namespace: String,
    /// Name of the VM: the guest's host name.
    pub name: String,
    /// Uid of the VM: the instance id.
    pub uid: String,
    /// `user-data`; an empty `#cloud-config` when there is none.
    pub user_data: Option<Vec<u8>>,
    /// `network-config`; left out when there is none.
    pub network_data: Option<Vec<u8>>,
}

/// The cloud-init seeds of VMs, in the pool `kubevmm-system`.
pub trait Seeds: Send + Sync + 'static {
    /// Writes the seed of a VM, over an older one of it, and returns its path. The volume is
    /// [`kubevmm_api::names::seed_volume`], raw. Not called while the VM's domain runs.
    fn put<'a>(&'a self, seed: &'a SeedInput) -> BoxFuture<'a, Result<String, NotYet>>;

    /// Removes the seed of the VM with this uid; fine when there is none (or no pool).
    fn remove<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), NotYet>>;
}
