//! A disk that is a volume which its host had already: looked up, never made.

use kubevmm_analyser::lower::{DiskLocation, Format};
use kubevmm_api::condition::{PROVISIONED, Wanted};
use kubevmm_api::disk::ExistingVolume;
use kubevmm_api::image::ImageFormat;
use kubevmm_api::{Quantity, VirtualMachineDisk};

use super::Disks;
use crate::host::{DiskOnHost, NotYet};
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
}

/// Where the volume is.
pub(super) async fn look(volume: &ExistingVolume, pool: &UsablePool) -> Result<DiskOnHost, NotYet> {
    judge(volume, &pool.name, find(pool, &volume.volume_name).await?.as_ref())
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
