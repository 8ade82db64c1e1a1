//! What is to be done about one disk on this host.

use kubevmm_analyser::read::VolumeInfo;
use kubevmm_api::condition::{HOST_RELEASED, PROVISIONED, is_true};
use kubevmm_api::disk::ReclaimPolicy;
use kubevmm_api::{VirtualMachineDisk, names};

use crate::host::NotYet;

/// Extension and format of the volumes of disks.
pub(super) const FORMAT: &str = "qcow2";

/// What to do before a VM can use a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Write the volume's name into the status: only then may it be created.
    Claim,
    /// A volume of the name is there that this disk has claimed, but the status does not say `Provisioned`: the report
    /// was cut short, or etcd was restored. See [`is_whole`].
    Settle,
    /// Create the volume, then write `Provisioned`.
    Create,
    /// The volume is there.
    Use,
    /// The volume was there once and is not any more. It is never created again.
    Missing,
    /// A volume of the name is there that this disk has never claimed.
    Taken,
    /// The disk is being deleted.
    Deleted,
}

/// The name of the disk's volume.
pub(super) fn volume_name(disk: &VirtualMachineDisk) -> String {
    if let Some(existing) = &disk.spec.source.existing {
        return existing.volume_name.clone();
    }
    let meta = &disk.metadata;
    names::disk_volume(
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default(),
        FORMAT,
    )
}

/// Whether the disk has its volume.
pub(super) fn is_provisioned(disk: &VirtualMachineDisk) -> bool {
    disk.status.as_ref().is_some_and(|status| is_true(&status.conditions, PROVISIONED))
}

/// Whether the disk is the VM's that wants to use it.
pub(super) fn check_holder(disk: &VirtualMachineDisk, vm_uid: &str) -> Result<(), NotYet> {
    let name = disk.metadata.name.as_deref().unwrap_or_default();
    match disk.status.as_ref().and_then(|status| status.used_by.as_ref()) {
        Some(holder) if holder.uid == vm_uid => Ok(()),
        Some(holder) => {
            let message = format!("the VirtualMachineDisk {name} is used by the VM {}", holder.name);
            Err(NotYet::on_change("DiskInUse", message))
        }
        None => Err(NotYet::on_change("DiskNotClaimed", format!("the VirtualMachineDisk {name} is not yet this VM's"))),
    }
}

/// The next step towards a disk that a VM can use.
pub(super) fn next(disk: &VirtualMachineDisk, volume_exists: bool) -> Step {
    let status = disk.status.as_ref();
    let provisioned = is_provisioned(disk);
    let claimed = status.and_then(|status| status.volume_name.as_ref()).is_some_and(|name| *name == volume_name(disk));
    match (disk.metadata.deletion_timestamp.is_some(), provisioned, volume_exists, claimed) {
        (true, ..) => Step::Deleted,
        (_, true, true, _) => Step::Use,
        (_, true, false, _) => Step::Missing,
        (_, false, true, false) => Step::Taken,
        (_, false, false, false) => Step::Claim,
        (_, false, true, true) => Step::Settle,
        (_, false, false, true) => Step::Create,
    }
}

/// Whether a volume is what would be created for the disk. Its creation is one step of libvirt's, and a guest cannot
/// change its format or size: so a volume that is not whole has never been used, and one that is may hold data.
pub(super) fn is_whole(disk: &VirtualMachineDisk, volume: &VolumeInfo) -> bool {
    let wanted = disk.spec.size.as_ref().and_then(|size| size.bytes().ok());
    volume.format.as_deref() == Some(FORMAT)
        && volume.backing.is_some() == disk.spec.source.image.is_some()
        && volume.capacity_bytes.is_some_and(|capacity| wanted.is_none_or(|wanted| capacity == wanted))
}

/// What to do about a disk on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// Not yet, or no more: it is not being deleted, a VM holds it, or it is done.
    Nothing,
    /// Leave the volume, and say that nothing holds the object.
    Release,
    /// Delete the volume, then say so.
    Delete,
}

/// What to do about a disk that may be on its way out.
pub(super) fn farewell(disk: &VirtualMachineDisk) -> Farewell {
    let Some(status) = disk.status.as_ref() else { return Farewell::Nothing };
    if disk.metadata.deletion_timestamp.is_none()
        || status.used_by.is_some()
        || is_true(&status.conditions, HOST_RELEASED)
    {
        return Farewell::Nothing;
    }
    // The name in the status is the claim; a volume that does not bear this object's name is not its own. One that was
    // there before is claimed by the spec, which only those may write who may read it.
    let claim = status.volume_name.as_ref().or(disk.spec.source.existing.as_ref().map(|volume| &volume.volume_name));
    let ours = claim.is_some_and(|name| *name == volume_name(disk));
    match disk.spec.reclaim_policy() {
        ReclaimPolicy::Delete if ours => Farewell::Delete,
        ReclaimPolicy::Delete | ReclaimPolicy::Retain => Farewell::Release,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(extra: &str) -> VirtualMachineDisk {
        let yaml = format!(
            "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineDisk,
               metadata: {{namespace: shop, name: web-root, uid: 01234567-89ab-4000-8000-000000000000{extra}"
        );
        serde_yaml_ng::from_str(&yaml).unwrap()
    }

    const SPEC: &str = "spec: {size: 1Gi, source: {blank: {}}}";
    const CLAIM: &str = "volumeName: shop.web-root.01234567.qcow2";

    fn with(status: &str) -> VirtualMachineDisk {
        disk(&format!("}}, {SPEC}, status: {{{status}}}}}"))
    }

    fn deleted(policy: &str, status: &str) -> VirtualMachineDisk {
        disk(&format!(
            ", deletionTimestamp: '2026-01-01T00:00:00Z'}}, spec: {{size: 1Gi, source: {{blank: {{}}}}, reclaimPolicy: {policy}}}, status: {{{status}}}}}"
        ))
    }

    fn condition(kind: &str) -> String {
        format!(
            "conditions: [{{type: {kind}, status: 'True', reason: R, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}}]"
        )
    }

    #[test]
    fn a_volume_is_claimed_then_created_then_used() {
        assert_eq!(next(&with(""), false), Step::Claim);
        assert_eq!(next(&with(CLAIM), false), Step::Create);
        assert_eq!(next(&with(&format!("{CLAIM}, {}", condition("Provisioned"))), true), Step::Use);
    }

    #[test]
    fn only_its_holder_uses_a_disk() {
        let reason = |status: &str| check_holder(&with(status), "u").map_err(|not_yet| not_yet.reason);
        assert_eq!(reason("usedBy: {name: web, uid: u}"), Ok(()));
        assert_eq!(reason("usedBy: {name: web, uid: earlier}"), Err("DiskInUse"), "a namesake");
        assert_eq!(reason(""), Err("DiskNotClaimed"));
    }

    #[test]
    fn a_volume_whose_report_was_cut_short_is_settled() {
        assert_eq!(next(&with(CLAIM), true), Step::Settle);
    }

    fn volume(format: &str, capacity: u64, backing: bool) -> VolumeInfo {
        let backing = if backing { "<backingStore><path>/b</path></backingStore>" } else { "" };
        let xml = format!(
            "<volume><name>v</name><capacity>{capacity}</capacity><target><path>/v</path><format type='{format}'/></target>{backing}</volume>"
        );
        kubevmm_analyser::read::read_volume(&xml).unwrap()
    }

    #[test]
    fn a_whole_volume_is_kept_for_it_may_hold_data() {
        assert!(is_whole(&with(CLAIM), &volume("qcow2", 1 << 30, false)));
        assert!(!is_whole(&with(CLAIM), &volume("raw", 0, false)), "cut short before its header");
        assert!(!is_whole(&with(CLAIM), &volume("qcow2", 1 << 20, false)), "not of its size");
        assert!(!is_whole(&with(CLAIM), &volume("qcow2", 1 << 30, true)), "based on what it is not made from");
    }

    #[test]
    fn a_provisioned_volume_is_never_created_again() {
        assert_eq!(next(&with(&format!("{CLAIM}, {}", condition("Provisioned"))), false), Step::Missing);
    }

    #[test]
    fn a_volume_that_was_never_claimed_is_not_touched() {
        assert_eq!(next(&with(""), true), Step::Taken);
        assert_eq!(next(&with("volumeName: other"), true), Step::Taken);
    }

    #[test]
    fn only_a_free_deleted_disk_of_ours_loses_its_volume() {
        assert_eq!(farewell(&with(CLAIM)), Farewell::Nothing);
        assert_eq!(farewell(&deleted("Delete", &format!("{CLAIM}, usedBy: {{name: a, uid: b}}"))), Farewell::Nothing);
        assert_eq!(farewell(&deleted("Delete", CLAIM)), Farewell::Delete);
        assert_eq!(farewell(&deleted("Retain", CLAIM)), Farewell::Release);
        assert_eq!(farewell(&deleted("Delete", "volumeName: other")), Farewell::Release);
        assert_eq!(farewell(&deleted("Delete", &format!("{CLAIM}, {}", condition("HostReleased")))), Farewell::Nothing);
    }

    #[test]
    fn a_volume_that_was_there_before_goes_only_when_its_owner_says_so() {
        let deleted = |policy: &str, status: &str| {
            disk(&format!(
                ", deletionTimestamp: '2026-01-01T00:00:00Z'}}, spec: {{poolName: fast, {policy} source: {{existing: \
                  {{nodeName: a, volumeName: web.img, format: raw}}}}}}, status: {{{status}}}}}"
            ))
        };
        let delete = "reclaimPolicy: Delete,";
        assert_eq!(volume_name(&deleted("", "")), "web.img");
        assert_eq!(farewell(&deleted("", "volumeName: web.img")), Farewell::Release);
        assert_eq!(farewell(&deleted(delete, "volumeName: web.img")), Farewell::Delete);
        assert_eq!(farewell(&deleted(delete, "poolName: fast")), Farewell::Delete, "no VM has ever used it");
        assert_eq!(farewell(&deleted(delete, "volumeName: other")), Farewell::Release);
        assert_eq!(farewell(&deleted(delete, "usedBy: {name: a, uid: b}")), Farewell::Nothing);
    }
}
