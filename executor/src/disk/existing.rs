//! A disk that is a volume which its host had already: looked up, never made, and deleted only on its owner's word.

use kube::api::{Api, ListParams};
use kubevmm_analyser::lower::{DiskLocation, Format};
use kubevmm_api::condition::{PROVISIONED, Wanted};
use kubevmm_api::disk::ExistingVolume;
use kubevmm_api::image::ImageFormat;
use kubevmm_api::{Quantity, VirtualMachineDisk, names, volume};

use super::decide::{self, Farewell};
use super::{Disks, WRITE_TIMEOUT};
use crate::host::{DiskOnHost, NotYet};
use crate::image::{Discarded, discard_volume};
use crate::libvirt::StorageVolType;
use crate::pool::{UsablePool, refresh};

/// What libvirt says of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    kind: StorageVolType,
    path: String,
    capacity_bytes: u64,
}

/// The disk that a volume is, or why it is none.
fn judge(volume: &ExistingVolume, pool_name: &str, found: Option<&Found>) -> Result<DiskOnHost, NotYet> {
    let name = &volume.volume_name;
    let Some(found) = found else {
        let message = format!(
            "there is no volume {name} in pool {pool_name}: put it there (virsh vol-list shows what is), or make another \
             VirtualMachineDisk with the right spec.source.existing"
        );
        return Err(NotYet::backoff("VolumeMissing", message));
    };
    let location = match found.kind {
        StorageVolType::File => DiskLocation::File(found.path.clone()),
        StorageVolType::Block => DiskLocation::Block(found.path.clone()),
        other => {
            let message = format!(
                "volume {name} of pool {pool_name} is neither a file nor a block device ({other:?}): copy it into a pool \
                 of files"
            );
            return Err(NotYet::backoff("UnsupportedVolume", message));
        }
    };
    let format = match volume.format {
        ImageFormat::Qcow2 => Format::Qcow2,
        ImageFormat::Raw => Format::Raw,
    };
    Ok(DiskOnHost { location, format, read_only: false })
}

impl Disks {
    /// Looks the volume up, writes what is found into the disk's status, and says where it is.
    pub(super) async fn adopt(
        &self,
        disk: &VirtualMachineDisk,
        volume: &ExistingVolume,
        pool: &UsablePool,
    ) -> Result<DiskOnHost, NotYet> {
        let found = find(pool, &volume.volume_name).await?;
        let judged = judge(volume, &pool.name, found.as_ref());
        let (condition, capacity) = match (&judged, &found) {
            (Ok(_), Some(found)) => {
                let message = format!("volume {} in pool {}", volume.volume_name, pool.name);
                let capacity = Quantity::from_bytes(found.capacity_bytes);
                (Wanted::yes(PROVISIONED, "Existing", message), Some(capacity))
            }
            (Err(not_yet), _) => (Wanted::no(PROVISIONED, not_yet.reason, not_yet.message.clone()), None),
            (Ok(_), None) => return judged,
        };
        self.write(disk, &volume.volume_name, capacity, condition).await?;
        judged
    }

    /// Why the volume of a deleted disk stays: another object has it.
    pub(super) async fn still_needed(&self, disk: &VirtualMachineDisk) -> Result<Option<String>, NotYet> {
        // The watch shows this host's disks only, and may lag: this is the last look at the data.
        let all: Api<VirtualMachineDisk> = Api::all(self.context.client.clone());
        let params = ListParams::default();
        let disks = crate::api::limited(WRITE_TIMEOUT, all.list(&params))
            .await
            .map_err(|error| NotYet::backoff("ApiUnavailable", format!("cannot read the other disks: {error}")))?;
        let now = disks.items.iter().find(|now| now.metadata.uid == disk.metadata.uid);
        if now.map(decide::farewell) != Some(Farewell::Delete) {
            let message = "the disk has changed meanwhile: it is looked at again";
            return Err(NotYet::backoff("InUse", message));
        }
        let rivals = volume::rivals(disk, &disks.items, |pool| self.context.store.pools.get_cluster(pool));
        Ok(rivals.first().map(|rival| {
            let meta = &rival.metadata;
            let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
            format!(
                "its volume stays in its pool: the VirtualMachineDisk {}/{} names it too",
                namespace.unwrap_or_default(),
                name.unwrap_or_default()
            )
        }))
    }

    /// Deletes the volume, unless something is based on it.
    pub(super) async fn delete_existing(&self, volume: &ExistingVolume, pool: &UsablePool) -> Result<String, NotYet> {
        let name = &volume.volume_name;
        if names::is_image_volume(name) {
            return Ok(format!("volume {name} stays: it is the copy of an image"));
        }
        match discard_volume(pool, name).await? {
            Discarded::Gone => Ok("its volume is deleted".into()),
            Discarded::IsBase => {
                let message = format!(
                    "another volume of pool {} is based on {name}: delete that one first, or leave this one there with \
                     spec.reclaimPolicy: Retain",
                    pool.name
                );
                Err(NotYet::backoff("InUse", message))
            }
        }
    }
}

/// The volume as it is now. What is done to a directory without libvirt it sees with a refresh only.
async fn find(pool: &UsablePool, name: &str) -> Result<Option<Found>, NotYet> {
    refresh(&pool.pool).await?;
    let Some(volume) = pool.pool.lookup_volume(name).await? else { return Ok(None) };
    let (info, path) = (volume.info().await?, volume.path().await?);
    Ok(Some(Found { kind: info.kind, path, capacity_bytes: info.capacity_bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(format: ImageFormat) -> ExistingVolume {
        ExistingVolume { node_name: "a".into(), volume_name: "web.img".into(), format }
    }

    fn found(kind: StorageVolType) -> Found {
        Found { kind, path: "/srv/web.img".into(), capacity_bytes: 1 << 20 }
    }

    #[test]
    fn a_volume_is_what_libvirt_says_and_of_the_format_that_its_owner_says() {
        let path = || "/srv/web.img".to_owned();
        for (kind, format, location, wanted) in [
            (StorageVolType::File, ImageFormat::Qcow2, DiskLocation::File(path()), Format::Qcow2),
            (StorageVolType::File, ImageFormat::Raw, DiskLocation::File(path()), Format::Raw),
            (StorageVolType::Block, ImageFormat::Raw, DiskLocation::Block(path()), Format::Raw),
        ] {
            let judged = judge(&volume(format), "fast", Some(&found(kind)));
            assert_eq!(judged, Ok(DiskOnHost { location, format: wanted, read_only: false }));
        }
    }

    #[test]
    fn what_is_no_disk_is_named_with_the_way_out() {
        let reason = |found: Option<&Found>| {
            let not_yet = judge(&volume(ImageFormat::Raw), "fast", found).unwrap_err();
            assert!(not_yet.message.contains("volume web.img") && not_yet.message.contains("fast"), "{not_yet:?}");
            not_yet.reason
        };
        assert_eq!(reason(None), "VolumeMissing");
        assert_eq!(reason(Some(&found(StorageVolType::Dir))), "UnsupportedVolume");
        assert_eq!(reason(Some(&found(StorageVolType::Network))), "UnsupportedVolume");
    }
}
