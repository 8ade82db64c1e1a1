//! The storage pools of this host.
//!
//! One loop keeps the libvirt pool of each VirtualMachineStoragePool that selects this node, and reports them in the
//! Hypervisor's status. The same steps run before a disk is used ([`Pools::usable`]): what was true a minute ago may
//! not be now.

mod decide;
mod mounts;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use kube::ResourceExt;
use kubevmm_analyser::lower::{Format, PoolInput, VolumeInput, lower_pool, lower_volume};
use kubevmm_api::hypervisor::HostPool;
use kubevmm_api::{Quantity, VirtualMachineStoragePool};
use uuid::Uuid;

use self::decide::{Facts, Found, Refusal, Step};
use crate::host::{Context, NotYet};
use crate::libvirt::{self, StoragePool};
use crate::turns::Turns;

/// How often sizes are read: libvirt has no event for them.
const SIZES_EVERY: Duration = Duration::from_secs(60);
/// How often the mount table is read while a shared pool waits for its mount: the kernel tells no other process.
const MOUNTS_EVERY: Duration = Duration::from_secs(5);
/// More steps than any pool needs.
const MOST_STEPS: usize = 6;

/// A pool that can be used.
#[derive(Clone, Debug)]
pub struct UsablePool {
    /// Name of the VirtualMachineStoragePool.
    pub name: String,
    /// The libvirt pool.
    pub pool: StoragePool,
}

/// The storage pools of this host. Clones share them.
#[derive(Clone)]
pub struct Pools {
    context: Context,
    /// One turn at a time for each pool: its loop and the disks' starts take the same steps.
    turns: Turns,
    /// Sizes as they were reported last.
    sizes: Arc<Mutex<HashMap<String, (u64, u64)>>>,
    reported: Arc<Mutex<Option<Vec<HostPool>>>>,
}

/// The cached images, as far as a pool that goes away must know them.
pub trait PoolGuests: Send + Sync {
    /// Deletes what this project cached in the pool, but nothing that a volume is based on.
    fn leave(&self, pool: &UsablePool) -> impl Future<Output = Result<(), NotYet>> + Send;
}

impl Pools {
    /// The pools of `context`'s host.
    pub fn new(context: Context) -> Self {
        Self { context, turns: Turns::default(), sizes: Arc::default(), reported: Arc::default() }
    }

    /// The pool of this VirtualMachineStoragePool, made real and checked.
    pub async fn usable(&self, name: &str) -> Result<UsablePool, NotYet> {
        let Some(object) = self.context.store.pools.get_cluster(name) else {
            return Err(NotYet::on_change("PoolNotFound", format!("there is no VirtualMachineStoragePool {name}")));
        };
        if object.metadata.deletion_timestamp.is_some() {
            return Err(NotYet::on_change("PoolDeleted", format!("VirtualMachineStoragePool {name} is being deleted")));
        }
        let _turn = self.turns.take(name).await;
        self.ensure(&object).await
    }

    /// The libvirt pool as it stands, for clean-up; `None` when there is none or it is not ours or not active.
    pub async fn present(&self, name: &str) -> Result<Option<UsablePool>, NotYet> {
        let Some(object) = self.context.store.pools.get_cluster(name) else { return Ok(None) };
        let connection = self.context.libvirt.connection()?;
        let Some(pool) = connection.lookup_storage_pool_by_name(&object.libvirt_name()).await? else {
            return Ok(None);
        };
        let ours = object.spec.existing.is_some() || pool.uuid() == uid(&object)?;
        if !ours || !pool.is_active().await? {
            return Ok(None);
        }
        let facts = self.facts(&object, uid(&object)?, Some(&pool)).await?;
        // What an unmounted directory shows is not what is on the shared storage.
        let shown = !object.spec.shared || facts.mount_point || facts.named.is_some_and(|found| found.marker);
        Ok((shown || object.spec.existing.is_some()).then(|| UsablePool { name: name.to_owned(), pool }))
    }

    /// Keeps the pools for ever.
    pub async fn run(self, guests: impl PoolGuests) {
        let mut objects = self.context.store.pools.changes();
        let mut nodes = self.context.store.nodes.changes();
        let mut disks = self.context.store.disks.changes();
        let mut libvirt_events = self.context.libvirt_events.subscribe();
        let mut due = true;
        loop {
            let waits_for_mount = self.reconcile(&guests, due).await;
            due = false;
            let pause = if waits_for_mount { MOUNTS_EVERY } else { SIZES_EVERY };
            let deadline = tokio::time::sleep(pause);
            tokio::pin!(deadline);
            loop {
                tokio::select! {
                    () = &mut deadline => {
                        due = !waits_for_mount;
                        break;
                    }
                    Ok(()) = objects.changed() => break,
                    Ok(()) = nodes.changed() => break,
                    // A disk that goes may be what a deleted pool waits for.
                    Ok(()) = disks.changed(), if self.any_deleted() => break,
                    event = libvirt_events.recv() => match event.as_deref() {
                        Ok(libvirt::Event::Connected { .. } | libvirt::Event::Lost)
                        | Ok(libvirt::Event::StoragePool { event: libvirt::StoragePoolEvent::Lifecycle(_), .. })
                        | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => break,
                        Ok(_) => {}
                        // The manager of the connection is gone: the process is about to end.
                        Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                    },
                }
            }
        }
    }

    /// One pass over all objects; whether a pool waits for its mount.
    async fn reconcile(&self, guests: &impl PoolGuests, sizes_due: bool) -> bool {
        if self.context.libvirt.connection().is_err() {
            return false;
        }
        let labels = self.node_labels();
        let objects = self.context.store.pools.list();
        let reports =
            join_all(objects.iter().map(|object| self.reconcile_one(object, &labels, guests, sizes_due))).await;
        let mut reports: Vec<HostPool> = reports.into_iter().flatten().collect();
        reports.sort_by(|a, b| a.name.cmp(&b.name));
        let waits_for_mount = reports.iter().any(|pool| pool.reason.as_deref() == Some("PoolNotMounted"));
        let mut last = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref() != Some(&reports) {
            *last = Some(reports.clone());
            self.context.report.pools(reports);
            self.context.changes.notify();
        }
        waits_for_mount
    }

    async fn reconcile_one(
        &self,
        object: &VirtualMachineStoragePool,
        labels: &BTreeMap<String, String>,
        guests: &impl PoolGuests,
        sizes_due: bool,
    ) -> Option<HostPool> {
        let name = object.name_any();
        let _turn = self.turns.take(&name).await;
        let selected = object.spec.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        let deleted = object.metadata.deletion_timestamp.is_some();
        // A pool that no longer selects this node stays while a disk here needs it.
        if deleted || (!selected && !self.has_disks(&name)) {
            return match self.remove(object, guests).await {
                Ok(()) => None,
                Err(not_yet) => Some(self.report(object, Err(not_yet))),
            };
        }
        let usable = self.ensure(object).await;
        if let Ok(usable) = &usable
            && let Err(error) = self.read_sizes(usable, sizes_due).await
        {
            tracing::warn!(pool = name, %error, "cannot read the pool's size");
        }
        Some(self.report(object, usable))
    }

    /// Takes steps until the pool can be used or cannot.
    async fn ensure(&self, object: &VirtualMachineStoragePool) -> Result<UsablePool, NotYet> {
        let connection = self.context.libvirt.connection()?;
        let (uid, name) = (uid(object)?, object.libvirt_name());
        for _ in 0..MOST_STEPS {
            let pool = connection.lookup_storage_pool_by_name(&name).await?;
            let facts = self.facts(object, uid, pool.as_ref()).await?;
            match (decide::next(object, uid, &facts), pool) {
                (Step::Define, _) => {
                    let target_path = object.spec.dir.as_ref().map(|dir| dir.path.clone()).unwrap_or_default();
                    let xml = lower_pool(&PoolInput { name: name.clone(), uuid: uid, target_path, permissions: None });
                    connection.define_storage_pool(&name, &xml.to_xml()).await?;
                }
                (Step::BuildAndStart, Some(pool)) => {
                    pool.build().await?;
                    pool.create().await?;
                }
                (Step::Start, Some(pool)) => pool.create().await?,
                (Step::WriteMarker, Some(pool)) => write_marker(object, &pool).await?,
                (Step::Use, Some(pool)) => return Ok(UsablePool { name: object.name_any(), pool }),
                (Step::StopAndRefuse(refusal), Some(pool)) => {
                    pool.destroy().await?;
                    return Err(refuse(refusal));
                }
                (Step::Refuse(refusal), _) | (Step::StopAndRefuse(refusal), None) => return Err(refuse(refusal)),
                // It vanished between two looks.
                (Step::BuildAndStart | Step::Start | Step::WriteMarker | Step::Use, None) => {}
            }
        }
        Err(NotYet::backoff("LibvirtError", format!("the libvirt pool {name} changes while it is set up")))
    }

    async fn facts(
        &self,
        object: &VirtualMachineStoragePool,
        uid: Uuid,
        pool: Option<&StoragePool>,
    ) -> Result<Facts, NotYet> {
        let shared_dir = object.spec.dir.as_ref().filter(|_| object.spec.shared);
        let mount_point = match shared_dir {
            Some(dir) => mounts::is_mount_point(&dir.path).map_err(|error| {
                NotYet::backoff("PoolNotMounted", format!("cannot read the host's mounts: {error}"))
            })?,
            None => false,
        };
        let named = match pool {
            None => None,
            Some(pool) => {
                let active = pool.is_active().await?;
                let look = active && shared_dir.is_some() && pool.uuid() == uid;
                let marker = look && find_volume(pool, &decide::marker(object)).await?.is_some();
                Some(Found { uuid: pool.uuid(), active, marker })
            }
        };
        Ok(Facts { named, mount_point })
    }

    /// Takes a pool of ours away, once nothing of ours is in it. What users left there stays.
    async fn remove(&self, object: &VirtualMachineStoragePool, guests: &impl PoolGuests) -> Result<(), NotYet> {
        let name = object.name_any();
        if self.has_disks(&name) {
            return Err(NotYet::on_change("InUse", format!("disks of this host lie in pool {name}")));
        }
        let Some(usable) = self.present(&name).await? else { return self.undefine_inactive(object).await };
        guests.leave(&usable).await?;
        if object.spec.existing.is_some() {
            return Ok(());
        }
        // The marker is every host's: it goes with the object, not with one host's pool.
        if object.metadata.deletion_timestamp.is_some()
            && let Some(marker) = usable.pool.lookup_volume(&decide::marker(object)).await?
        {
            marker.delete().await?;
        }
        usable.pool.destroy().await?;
        usable.pool.undefine().await?;
        tracing::info!(pool = name, "removed the libvirt pool; its directory stays");
        Ok(())
    }

    async fn undefine_inactive(&self, object: &VirtualMachineStoragePool) -> Result<(), NotYet> {
        if object.spec.existing.is_some() {
            return Ok(());
        }
        let connection = self.context.libvirt.connection()?;
        if let Some(pool) = connection.lookup_storage_pool(uid(object)?).await?
            && pool.name() == object.libvirt_name()
        {
            pool.undefine().await?;
        }
        Ok(())
    }

    /// Reads the sizes; keeps those that were reported unless one changed by a hundredth of the capacity.
    async fn read_sizes(&self, usable: &UsablePool, due: bool) -> Result<(), libvirt::Error> {
        if due {
            // libvirt counts its own changes only.
            refresh(&usable.pool).await?;
        }
        let info = usable.pool.info().await?;
        let now = (info.capacity_bytes, info.available_bytes);
        let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = |before: u64, now: u64| before.abs_diff(now) >= (info.capacity_bytes / 100).max(1);
        match sizes.get(&usable.name) {
            Some(before) if !moved(before.0, now.0) && !moved(before.1, now.1) => {}
            _ => drop(sizes.insert(usable.name.clone(), now)),
        }
        Ok(())
    }

    fn report(&self, object: &VirtualMachineStoragePool, usable: Result<UsablePool, NotYet>) -> HostPool {
        let name = object.name_any();
        let sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner).get(&name).copied();
        let refusal = usable.err();
        let ready = refusal.is_none();
        let size = |pick: fn((u64, u64)) -> u64| sizes.filter(|_| ready).map(|s| Quantity::from_bytes(pick(s)));
        HostPool {
            uid: object.uid().unwrap_or_default(),
            name,
            ready,
            capacity: size(|s| s.0),
            available: size(|s| s.1),
            reason: refusal.as_ref().map(|r| r.reason.to_owned()),
            message: refusal.map(|r| r.message),
        }
    }

    fn has_disks(&self, pool: &str) -> bool {
        let disks = self.context.store.disks.list();
        disks.iter().any(|disk| disk.status.as_ref().and_then(|s| s.pool_name.as_deref()) == Some(pool))
    }

    fn any_deleted(&self) -> bool {
        self.context.store.pools.list().iter().any(|pool| pool.metadata.deletion_timestamp.is_some())
    }

    fn node_labels(&self) -> BTreeMap<String, String> {
        let node = self.context.store.nodes.get_cluster(&self.context.node);
        node.and_then(|node| node.metadata.labels.clone()).unwrap_or_default()
    }
}

/// A volume by name; the list is read anew when libvirt does not know it, for another host may have made it.
pub async fn find_volume(pool: &StoragePool, name: &str) -> Result<Option<libvirt::StorageVol>, libvirt::Error> {
    if let Some(volume) = pool.lookup_volume(name).await? {
        // The list may be older than the file.
        match volume.info().await {
            Ok(_) => return Ok(Some(volume)),
            Err(error) if error.is_connection_lost() => return Err(error),
            Err(_) => {}
        }
    }
    refresh(pool).await?;
    pool.lookup_volume(name).await
}

/// Lets libvirt read the pool's directory anew. It refuses while a volume of the pool is being written (a download);
/// then its list is as new as its own changes.
pub async fn refresh(pool: &StoragePool) -> Result<(), libvirt::Error> {
    match pool.refresh().await {
        Err(error) if error.is_connection_lost() => Err(error),
        Err(error) => {
            tracing::debug!(pool = pool.name(), %error, "cannot refresh the pool now");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

async fn write_marker(object: &VirtualMachineStoragePool, pool: &StoragePool) -> Result<(), libvirt::Error> {
    let name = decide::marker(object);
    let input =
        VolumeInput { name: name.clone(), capacity_bytes: 0, format: Format::Raw, backing: None, permissions: None };
    match pool.create_volume(&name, &lower_volume(&input).to_xml()).await {
        // Another host was faster.
        Err(error) if error.code == libvirt::ErrorCode::StorageVolExists => Ok(()),
        other => other.map(drop),
    }
}

fn uid(object: &VirtualMachineStoragePool) -> Result<Uuid, NotYet> {
    let text = object.uid().unwrap_or_default();
    text.parse().map_err(|_| NotYet::on_change("NameTaken", format!("the object's uid {text:?} is no UUID")))
}

fn refuse(refusal: Refusal) -> NotYet {
    NotYet::backoff(refusal.reason, refusal.message)
}
