//! What is to be done about one pool on this host.

use uuid::Uuid;

use kubevmm_api::VirtualMachineStoragePool;

/// What libvirt and the host say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The libvirt pool that has the wanted name.
    pub(super) named: Option<Found>,
    /// Something is mounted exactly at the pool's path.
    pub(super) mount_point: bool,
}

/// A libvirt pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Its UUID.
    pub(super) uuid: Uuid,
    /// It is active.
    pub(super) active: bool,
    /// It has our volume [`marker`], which says that the shared storage is really there.
    pub(super) marker: bool,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Define the pool; look again.
    Define,
    /// Make the directory, start the pool; look again.
    BuildAndStart,
    /// Start the pool without making its directory; look again.
    Start,
    /// Write the marker volume; then it is usable.
    WriteMarker,
    /// The pool can be used.
    Use,
    /// Stop the pool: what it shows is not the shared storage. Then say so.
    StopAndRefuse(Refusal),
    /// It cannot be used.
    Refuse(Refusal),
}

/// Why a pool cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// A stable CamelCase word.
    pub(super) reason: &'static str,
    /// A sentence for people.
    pub(super) message: String,
}

/// Name of the volume that marks the target of a shared pool as the real one.
pub(super) fn marker(pool: &VirtualMachineStoragePool) -> String {
    format!("kubevmm-shared.{}", pool.metadata.uid.as_deref().unwrap_or_default())
}

/// One step towards a usable pool.
pub(super) fn next(pool: &VirtualMachineStoragePool, uid: Uuid, facts: &Facts) -> Step {
    let name = pool.libvirt_name();
    let Some(dir) = &pool.spec.dir else { return existing(&name, facts) };
    let mounted = |found: &Found| !pool.spec.shared || facts.mount_point || found.marker;
    match &facts.named {
        Some(found) if found.uuid != uid => Step::Refuse(Refusal {
            reason: "NameTaken",
            message: format!(
                "libvirt has a pool {name} that is not ours (UUID {}); rename it with virsh, or name this VirtualMachineStoragePool otherwise",
                found.uuid
            ),
        }),
        None if pool.spec.shared && !facts.mount_point => Step::Refuse(not_mounted(pool, &dir.path)),
        None => Step::Define,
        Some(found) if !found.active && pool.spec.shared => match facts.mount_point {
            true => Step::Start,
            // Only an active pool can show its marker, and an unmounted directory must not be filled.
            false => Step::Refuse(not_mounted(pool, &dir.path)),
        },
        Some(found) if !found.active => Step::BuildAndStart,
        Some(found) if !mounted(found) => Step::StopAndRefuse(not_mounted(pool, &dir.path)),
        Some(found) if pool.spec.shared && !found.marker => Step::WriteMarker,
        Some(_) => Step::Use,
    }
}

fn existing(name: &str, facts: &Facts) -> Step {
    match &facts.named {
        None => Step::Refuse(Refusal {
            reason: "PoolNotFound",
            message: format!(
                "libvirt has no pool {name}; define it with virsh pool-define, or select other nodes in spec.nodeSelector"
            ),
        }),
        Some(found) if !found.active => Step::Refuse(Refusal {
            reason: "PoolInactive",
            message: format!("the libvirt pool {name} is not active; start it with virsh pool-start {name}"),
        }),
        Some(_) => Step::Use,
    }
}

fn not_mounted(pool: &VirtualMachineStoragePool, path: &str) -> Refusal {
    Refusal {
        reason: "PoolNotMounted",
        message: format!(
            "{path} is not mounted on this host: mount the shared storage of pool {} there",
            pool.metadata.name.as_deref().unwrap_or_default()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "11111111-0000-4000-8000-000000000001";

    fn pool(yaml: &str) -> VirtualMachineStoragePool {
        let spec = serde_yaml_ng::from_str(yaml).unwrap();
        let mut pool = VirtualMachineStoragePool::new("fast", spec);
        pool.metadata.uid = Some(UID.into());
        pool
    }

    fn uid() -> Uuid {
        UID.parse().unwrap()
    }

    fn found(active: bool, marker: bool) -> Option<Found> {
        Some(Found { uuid: uid(), active, marker })
    }

    fn step(yaml: &str, named: Option<Found>, mount_point: bool) -> Step {
        next(&pool(yaml), uid(), &Facts { named, mount_point })
    }

    fn reason(step: Step) -> &'static str {
        match step {
            Step::Refuse(refusal) | Step::StopAndRefuse(refusal) => refusal.reason,
            other => panic!("{other:?}"),
        }
    }

    const DIR: &str = "{dir: {path: /srv/vm}}";
    const SHARED: &str = "{dir: {path: /srv/vm}, shared: true}";
    const EXISTING: &str = "{existing: {name: images}}";

    #[test]
    fn a_local_directory_is_made_and_started() {
        assert_eq!(step(DIR, None, false), Step::Define);
        assert_eq!(step(DIR, found(false, false), false), Step::BuildAndStart);
        assert_eq!(step(DIR, found(true, false), false), Step::Use);
    }

    #[test]
    fn a_foreign_pool_of_the_name_is_left_alone() {
        let foreign = Some(Found { uuid: Uuid::nil(), active: true, marker: false });
        assert_eq!(reason(step(DIR, foreign, false)), "NameTaken");
    }

    #[test]
    fn a_shared_pool_is_never_made_in_an_empty_mount_point() {
        assert_eq!(reason(step(SHARED, None, false)), "PoolNotMounted");
        assert_eq!(reason(step(SHARED, found(false, false), false)), "PoolNotMounted");
        assert!(matches!(step(SHARED, found(true, false), false), Step::StopAndRefuse(_)));
        assert_eq!(step(SHARED, None, true), Step::Define);
        assert_eq!(step(SHARED, found(false, false), true), Step::Start);
        assert_eq!(step(SHARED, found(true, false), true), Step::WriteMarker);
        assert_eq!(step(SHARED, found(true, true), true), Step::Use);
        assert_eq!(step(SHARED, found(true, true), false), Step::Use, "the marker stands for a mount further up");
    }

    #[test]
    fn an_existing_pool_is_used_and_never_changed() {
        assert_eq!(reason(step(EXISTING, None, false)), "PoolNotFound");
        let foreign = |active| Some(Found { uuid: Uuid::nil(), active, marker: false });
        assert_eq!(reason(step(EXISTING, foreign(false), false)), "PoolInactive");
        assert_eq!(step(EXISTING, foreign(true), false), Step::Use);
    }
}
