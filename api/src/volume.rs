//! Which VirtualMachineDisk has a volume. A volume that a host had already may be named by several of them.

use std::borrow::Borrow;
use std::sync::Arc;

use crate::names;
use crate::{VirtualMachineDisk, VirtualMachineStoragePool};

/// A volume, as hosts know it.
#[derive(Debug, PartialEq, Eq)]
struct Volume<'a> {
    /// Name of the libvirt pool: two objects may mean the same one.
    pool: String,
    /// Its host; `None` in a pool that several hosts see.
    node: Option<&'a str>,
    name: &'a str,
}

impl Volume<'_> {
    fn is_same(&self, other: &Self) -> bool {
        let there = self.node.is_none() || other.node.is_none() || self.node == other.node;
        there && self.pool == other.pool && self.name == other.name
    }
}

/// The volume of a disk, as far as it has one.
fn volume_of<'a>(
    disk: &'a VirtualMachineDisk,
    pools: &impl Fn(&str) -> Option<Arc<VirtualMachineStoragePool>>,
) -> Option<Volume<'a>> {
    let status = disk.status.as_ref();
    let existing = disk.spec.source.existing.as_ref();
    let name = match existing {
        Some(existing) => existing.volume_name.as_str(),
        None => status?.volume_name.as_deref()?,
    };
    let pool_name = status.and_then(|status| status.pool_name.as_deref()).or(disk.spec.pool_name.as_deref())?;
    let pool = pools(pool_name);
    let shared = pool.as_ref().is_some_and(|pool| pool.spec.shared);
    let node = match existing {
        Some(existing) => Some(existing.node_name.as_str()),
        None => status.and_then(|status| status.node_name.as_deref()),
    };
    Some(Volume {
        pool: pool.map_or_else(|| names::pool(pool_name), |pool| pool.libvirt_name()),
        node: node.filter(|_| !shared),
        name,
    })
}

/// The first of several disks of one volume has it: the one for which it was made; else one that a VM holds; else the
/// oldest.
fn rank(disk: &VirtualMachineDisk) -> impl Ord + use<'_> {
    let held = disk.status.as_ref().is_some_and(|status| status.used_by.is_some());
    let meta = &disk.metadata;
    (disk.spec.source.existing.is_some(), !held, meta.creation_timestamp.as_ref().map(|time| time.0), &meta.uid)
}

/// The other disks that name the volume of `disk`, the one that has it first. `pools` finds a pool by its name.
pub fn rivals<'a, D: Borrow<VirtualMachineDisk>>(
    disk: &VirtualMachineDisk,
    disks: &'a [D],
    pools: impl Fn(&str) -> Option<Arc<VirtualMachineStoragePool>>,
) -> Vec<&'a VirtualMachineDisk> {
    let Some(volume) = volume_of(disk, &pools) else { return vec![] };
    let others = disks.iter().map(Borrow::borrow).filter(|other| other.metadata.uid != disk.metadata.uid);
    let mut rivals: Vec<_> =
        others.filter(|other| volume_of(other, &pools).is_some_and(|theirs| theirs.is_same(&volume))).collect();
    rivals.sort_by(|a, b| rank(a).cmp(&rank(b)));
    rivals
}

/// The other disk that has the volume which `disk` names. Two disks never both have it.
pub fn holder<'a, D: Borrow<VirtualMachineDisk>>(
    disk: &VirtualMachineDisk,
    disks: &'a [D],
    pools: impl Fn(&str) -> Option<Arc<VirtualMachineStoragePool>>,
) -> Option<&'a VirtualMachineDisk> {
    rivals(disk, disks, pools).into_iter().next().filter(|first| rank(first) < rank(disk))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(name: &str) -> Option<Arc<VirtualMachineStoragePool>> {
        let spec = match name {
            "fast" => "{dir: {path: /x}}",
            "nfs" => "{dir: {path: /y}, shared: true}",
            "theirs" | "alias" => "{existing: {name: default}}",
            _ => return None,
        };
        let pool = format!(
            "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineStoragePool, metadata: {{name: {name}}}, spec: {spec}}}"
        );
        Some(Arc::new(serde_yaml_ng::from_str(&pool).unwrap()))
    }

    fn disk(uid: &str, created: u8, spec: &str, status: &str) -> Arc<VirtualMachineDisk> {
        let text = format!(
            "{{apiVersion: kubevmm.io/v1beta1, kind: VirtualMachineDisk, metadata: {{name: {uid}, uid: {uid}, \
              creationTimestamp: '2026-01-01T00:00:0{created}Z'}}, spec: {{{spec}}}, status: {{{status}}}}}"
        );
        Arc::new(serde_yaml_ng::from_str(&text).unwrap())
    }

    fn existing(uid: &str, created: u8, pool: &str, node: &str, status: &str) -> Arc<VirtualMachineDisk> {
        let spec = format!("poolName: {pool}, source: {{existing: {{nodeName: {node}, volumeName: v, format: raw}}}}");
        disk(uid, created, &spec, status)
    }

    /// Who has the volume: seen from the first, and from the second.
    fn holders(a: &Arc<VirtualMachineDisk>, b: &Arc<VirtualMachineDisk>) -> (Option<String>, Option<String>) {
        let all = [Arc::clone(a), Arc::clone(b)];
        let of = |disk: &VirtualMachineDisk| holder(disk, &all, pools).and_then(|holder| holder.metadata.uid.clone());
        (of(a), of(b))
    }

    #[test]
    fn one_of_several_disks_has_the_volume() {
        let (first, none) = ((None, Some("a".to_owned())), (None, None));
        let a = existing("a", 1, "fast", "h1", "");
        for (b, wanted, why) in [
            (existing("b", 2, "fast", "h1", ""), &first, "the older"),
            (existing("b", 1, "fast", "h1", ""), &first, "of the same second: the lower uid"),
            (existing("b", 2, "fast", "h2", ""), &none, "another host's pool of that name"),
            (existing("b", 2, "theirs", "h1", ""), &none, "another pool"),
            (disk("b", 2, "size: 1Gi, source: {blank: {}}", "poolName: fast"), &none, "it has no volume yet"),
        ] {
            assert_eq!(&holders(&a, &b), wanted, "{why}");
        }
        let shared = existing("a", 1, "nfs", "h1", "");
        assert_eq!(holders(&shared, &existing("b", 2, "nfs", "h2", "")), first, "every host sees it");
        let theirs = existing("a", 1, "theirs", "h1", "");
        assert_eq!(holders(&theirs, &existing("b", 2, "alias", "h1", "")), first, "two objects, one libvirt pool");
    }

    #[test]
    fn what_is_held_and_what_was_made_for_its_disk_come_first() {
        let older = existing("z", 1, "fast", "h1", "");
        let second = (Some("b".to_owned()), None);
        let held = existing("b", 2, "fast", "h1", "usedBy: {name: web, uid: u}");
        assert_eq!(holders(&older, &held), second);
        let made = disk("b", 2, "size: 1Gi, source: {blank: {}}", "poolName: fast, nodeName: h1, volumeName: v");
        assert_eq!(holders(&older, &made), second);
        let both = [held, made];
        let rivals: Vec<_> =
            rivals(&older, &both, pools).into_iter().map(|d| d.metadata.uid.clone().unwrap()).collect();
        assert_eq!(rivals.len(), 2);
    }
}
