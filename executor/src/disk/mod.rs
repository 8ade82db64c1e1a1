//! The disks of the VMs on this host: volumes made, checked before each start, and deleted with their objects.

mod decide;
mod existing;
mod leave;
mod users;

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use kubevmm_analyser::lower::{Backing, DiskLocation, Format, VolumeInput, lower_volume};
use kubevmm_analyser::read::read_volume;
use kubevmm_api::condition::{HOST_RELEASED, PROVISIONED, Wanted};
use kubevmm_api::{MANAGER_EXECUTOR, Quantity, VirtualMachineDisk};

use self::decide::Step;
use self::users::Users;
use crate::host::{Context, DiskOnHost, NotYet, Storage};
use crate::image::Images;
use crate::libvirt::StorageVol;
use crate::pool::{Pools, UsablePool, find_volume};
use crate::turns::Turns;
use crate::vm::backoff::Backoff;

/// More steps than any disk needs.
const MOST_STEPS: usize = 6;
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The disks of this host. Clones share them.
#[derive(Clone)]
pub struct Disks {
    context: Context,
    pools: Pools,
    images: Images,
    /// One turn at a time for each disk; it hands on how its deletion has failed.
    turns: Turns<Option<Backoff>>,
}

impl Storage for Disks {
    fn ensure_disk<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        vm_uid: &'a str,
    ) -> BoxFuture<'a, Result<DiskOnHost, NotYet>> {
        async move {
            let _turn = self.turns.take(&key(namespace, name)).await;
            let disk = self.find(namespace, name).await?;
            decide::check_holder(&disk, vm_uid)?;
            self.ensure(disk).await
        }
        .boxed()
    }

    fn find_disk<'a>(&'a self, namespace: &'a str, name: &'a str) -> BoxFuture<'a, Result<DiskOnHost, NotYet>> {
        async move {
            let disk = self.find(namespace, name).await?;
            let pool_name = disk.status.as_ref().and_then(|status| status.pool_name.as_ref());
            let Some(pool_name) = pool_name.or(disk.spec.pool_name.as_ref()) else { return Err(pending(name)) };
            let pool = self.pools.usable(pool_name).await?;
            if let Some(volume) = &disk.spec.source.existing {
                return existing::look(volume, &pool).await;
            }
            let volume_name = decide::volume_name(&disk);
            let Some(volume) = find_volume(&pool.pool, &volume_name).await? else {
                let message = format!("there is no volume {volume_name} of disk {name} in pool {pool_name}");
                return Err(NotYet::backoff("VolumeMissing", message));
            };
            let location = DiskLocation::File(volume.path().await?);
            Ok(DiskOnHost { location, format: Format::Qcow2, read_only: false })
        }
        .boxed()
    }
}

fn pending(name: &str) -> NotYet {
    NotYet::on_change("DiskPending", format!("disk {name} has no pool yet: its condition says why"))
}

impl Disks {
    /// The disks of `context`'s host.
    pub fn new(context: Context, pools: Pools, images: Images) -> Self {
        Self { context, pools, images, turns: Turns::default() }
    }

    async fn ensure(&self, mut disk: VirtualMachineDisk) -> Result<DiskOnHost, NotYet> {
        let name = disk.name_any();
        let pool_name = disk.status.as_ref().and_then(|status| status.pool_name.clone());
        let pool_name = pool_name.ok_or_else(|| pending(&name))?;
        let pool = self.pools.usable(&pool_name).await?;
        let volume_name = decide::volume_name(&disk);
        if let Some(volume) = &disk.spec.source.existing {
            if disk.metadata.deletion_timestamp.is_some() {
                return Err(deleted(&name));
            }
            return self.adopt(&disk, volume, &pool).await;
        }
        for _ in 0..MOST_STEPS {
            let volume = find_volume(&pool.pool, &volume_name).await?;
            match (decide::next(&disk, volume.is_some()), volume) {
                (Step::Use, Some(volume)) => {
                    let location = DiskLocation::File(volume.path().await?);
                    return Ok(DiskOnHost { location, format: Format::Qcow2, read_only: false });
                }
                (Step::Claim, _) => {
                    let condition =
                        Wanted::no(PROVISIONED, "Creating", format!("volume {volume_name} in pool {pool_name}"));
                    disk = self.write(&disk, &volume_name, None, condition).await?;
                }
                (Step::Settle, Some(volume)) => disk = self.settle(&disk, &pool, volume).await?,
                (Step::Create, _) => disk = self.create(&disk, &pool, &volume_name).await?,
                (Step::Missing, _) => {
                    let message = format!(
                        "volume {volume_name} is no longer in pool {pool_name}: put it back, or delete disk {name} and its data with it"
                    );
                    return Err(NotYet::backoff("VolumeMissing", message));
                }
                (Step::Taken, _) => {
                    let message = format!("pool {pool_name} has a volume {volume_name} that is not ours: rename it");
                    return Err(NotYet::backoff("NameTaken", message));
                }
                (Step::Deleted, _) => return Err(deleted(&name)),
                // It vanished between two looks.
                (Step::Use | Step::Settle, None) => {}
            }
        }
        Err(NotYet::backoff("LibvirtError", format!("volume {volume_name} changes while it is set up")))
    }

    /// The disk as it is now. A watch that lags must not make a volume again: from it comes only a disk that has its
    /// volume.
    async fn find(&self, namespace: &str, name: &str) -> Result<VirtualMachineDisk, NotYet> {
        let watched = self.context.store.disks.get(namespace, name);
        if let Some(disk) = watched.filter(|disk| decide::is_provisioned(disk)) {
            return Ok(disk.as_ref().clone());
        }
        let read = crate::api::limited(WRITE_TIMEOUT, self.api(namespace).get_opt(name)).await;
        let read =
            read.map_err(|error| NotYet::backoff("ApiUnavailable", format!("cannot read disk {name}: {error}")))?;
        read.ok_or_else(|| {
            let message = format!("there is no VirtualMachineDisk {name}: create it, or correct spec.disks");
            NotYet::on_change("DiskNotFound", message)
        })
    }

    /// Keeps a volume that is whole, and deletes one whose creation was cut short.
    async fn settle(
        &self,
        disk: &VirtualMachineDisk,
        pool: &UsablePool,
        volume: StorageVol,
    ) -> Result<VirtualMachineDisk, NotYet> {
        let name = decide::volume_name(disk);
        let info = read_volume(&volume.xml().await?)
            .map_err(|error| NotYet::backoff("LibvirtError", format!("volume {name}: {error}")))?;
        if !decide::is_whole(disk, &info) {
            let users = Users::read(&self.context.libvirt.connection()?).await?;
            let found = users.volume(pool.pool.name(), &name, volume.path().await?);
            if let Some(user) = users.of(&found).next() {
                let message = format!(
                    "volume {name} in pool {} has not the size, format or base of disk {}, but the domain {} uses it, so it \
                     is not made anew: undefine that domain if the data is not needed, or use another disk",
                    pool.name,
                    disk.name_any(),
                    user.name
                );
                return Err(NotYet::backoff("InUse", message));
            }
            volume.delete().await?;
            return Ok(disk.clone());
        }
        let condition = Wanted::yes(PROVISIONED, "Created", format!("volume {name} in pool {}", pool.name));
        self.write(disk, &name, info.capacity_bytes.map(Quantity::from_bytes), condition).await
    }

    /// Makes the volume and says so; from then on it is never made again.
    async fn create(
        &self,
        disk: &VirtualMachineDisk,
        pool: &UsablePool,
        volume_name: &str,
    ) -> Result<VirtualMachineDisk, NotYet> {
        let wanted = disk.spec.size.as_ref().map(Quantity::bytes).transpose();
        let wanted = wanted.map_err(|error| NotYet::on_change("InvalidSize", format!("spec.size: {error}")))?;
        let namespace = disk.namespace().unwrap_or_default();
        let (capacity, backing) = match &disk.spec.source.image {
            None => (wanted.unwrap_or_default(), None),
            Some(reference) => {
                let image = match self.images.ensure(&namespace, reference, pool).await {
                    Ok(image) => image,
                    Err(not_yet) => {
                        let condition = Wanted::no(PROVISIONED, not_yet.reason, not_yet.message.clone());
                        self.write(disk, volume_name, None, condition).await?;
                        return Err(not_yet);
                    }
                };
                let capacity = wanted.unwrap_or(image.virtual_size);
                if capacity < image.virtual_size {
                    let message = format!(
                        "spec.size is {capacity} bytes, but image {} needs {}: make a larger disk",
                        reference.name, image.virtual_size
                    );
                    let condition = Wanted::no(PROVISIONED, "ImageLargerThanDisk", message.clone());
                    self.write(disk, volume_name, None, condition).await?;
                    return Err(NotYet::on_change("ImageLargerThanDisk", message));
                }
                (capacity, Some(Backing { path: image.path, format: image.format }))
            }
        };
        let input = VolumeInput {
            name: volume_name.to_owned(),
            capacity_bytes: capacity,
            format: Format::Qcow2,
            backing,
            permissions: None,
        };
        let volume: StorageVol = pool.pool.create_volume(volume_name, &lower_volume(&input).to_xml()).await?;
        tracing::info!(disk = disk.name_any(), namespace, volume = volume.name(), "volume created");
        let condition = Wanted::yes(PROVISIONED, "Created", format!("volume {volume_name} in pool {}", pool.name));
        self.write(disk, volume_name, Some(Quantity::from_bytes(capacity)), condition).await
    }

    /// Writes the executor's part of the status, if it says something new.
    async fn write(
        &self,
        disk: &VirtualMachineDisk,
        volume_name: &str,
        capacity: Option<Quantity>,
        condition: Wanted,
    ) -> Result<VirtualMachineDisk, NotYet> {
        let before = disk.status.clone().unwrap_or_default();
        let now = Time(Timestamp::now());
        // The other condition of ours stays as it is.
        let mut conditions: Vec<_> = before
            .conditions
            .iter()
            .filter(|old| [PROVISIONED, HOST_RELEASED].contains(&old.type_.as_str()) && old.type_ != condition.kind)
            .cloned()
            .collect();
        conditions.push(condition.over(&before.conditions, disk.meta().generation, &now));
        let mut after = before.clone();
        after.volume_name = Some(volume_name.to_owned()).filter(|name| !name.is_empty());
        after.capacity = capacity.or(before.capacity.clone());
        after.conditions = conditions.clone();
        if after == before {
            return Ok(disk.clone());
        }
        let name = disk.name_any();
        let patch = serde_json::json!({
            "apiVersion": VirtualMachineDisk::api_version(&()),
            "kind": VirtualMachineDisk::kind(&()),
            // Of this object and no other of its name.
            "metadata": { "name": name, "uid": disk.uid() },
            "status": { "volumeName": after.volume_name, "capacity": after.capacity, "conditions": conditions },
        });
        let api = self.api(&disk.namespace().unwrap_or_default());
        let params = PatchParams::apply(MANAGER_EXECUTOR).force();
        crate::api::limited(WRITE_TIMEOUT, api.patch_status(&name, &params, &Patch::Apply(&patch)))
            .await
            .map_err(|error| NotYet::backoff("ApiError", format!("cannot write the status of disk {name}: {error}")))
    }

    fn api(&self, namespace: &str) -> Api<VirtualMachineDisk> {
        Api::namespaced(self.context.client.clone(), namespace)
    }
}

fn deleted(name: &str) -> NotYet {
    NotYet::on_change("DiskDeleted", format!("disk {name} is being deleted"))
}

fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}
