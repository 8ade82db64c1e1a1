//! The disks of a VM: made from its templates, taken for it, and given back: pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::api::ObjectMeta;
use kubevmm_api::common::Holder;
use kubevmm_api::condition::{DISKS_READY, Wanted};
use kubevmm_api::vm::Disk;
use kubevmm_api::{VirtualMachineDisk, effective, names, volume};

use crate::disk::decide::pool_of;
use crate::disk::status::Owned;
use crate::object::{controlled_by, describe, has_finalizer, is_controlled_by, is_deleting, name};
use crate::vm::decide::Action;
use crate::vm::view::View;

/// The state of a VM's disks.
#[derive(Debug)]
pub struct Disks {
    /// What brings them nearer.
    pub actions: Vec<Action>,
    /// The condition DisksReady.
    pub condition: Wanted,
    /// The disks, when each of them is the VM's.
    pub held: Option<Vec<Arc<VirtualMachineDisk>>>,
}

/// What one disk needs.
enum Step {
    Held(Arc<VirtualMachineDisk>),
    Act(Action),
    Wait,
    Blocked(&'static str, String),
}

/// The steps for the disks of the VM.
pub fn decide(view: &View) -> Disks {
    let mut seen = BTreeSet::new();
    let mut actions = Vec::new();
    let mut held = Vec::new();
    let mut blocked: Option<(&'static str, String)> = None;
    let mut waiting = false;
    for disk in &view.vm.spec.disks {
        let disk_name = effective::disk_name(view.name(), disk);
        let step = if seen.insert(disk_name.clone()) {
            step(view, disk, &disk_name)
        } else {
            Step::Blocked(
                "DuplicateDisk",
                format!("spec.disks[{}] names the disk {disk_name} once more: name each disk once", disk.name),
            )
        };
        match step {
            Step::Held(object) => held.push(object),
            Step::Act(action) => {
                actions.push(action);
                waiting = true;
            }
            Step::Wait => waiting = true,
            Step::Blocked(reason, message) => {
                blocked.get_or_insert((reason, message));
            }
        }
    }
    let condition = match &blocked {
        Some((reason, message)) => Wanted::no(DISKS_READY, reason, message),
        None if waiting => Wanted::no(DISKS_READY, "Preparing", "the VirtualMachineDisk objects are being made"),
        None => Wanted::yes(DISKS_READY, "DisksReady", ""),
    };
    let held = (blocked.is_none() && !waiting).then_some(held);
    Disks { actions, condition, held }
}

fn step(view: &View, disk: &Disk, disk_name: &str) -> Step {
    let at = format!("spec.disks[{}]", disk.name);
    let Some(object) = view.disks.get(disk_name) else {
        return match &disk.template {
            Some(_) => create(view, disk, disk_name, &at),
            None => Step::Blocked(
                "DiskNotFound",
                format!("{at}.diskName: there is no VirtualMachineDisk {disk_name} in this namespace: create it"),
            ),
        };
    };
    if disk.template.is_some() && !is_controlled_by(object.as_ref(), view.uid()) {
        return Step::Blocked(
            "NameTaken",
            format!(
                "{at}.template: the VirtualMachineDisk {disk_name} exists and is not this VM's: rename this disk, or \
                 use that one with diskName"
            ),
        );
    }
    let holder = object.status.as_ref().and_then(|status| status.used_by.as_ref());
    if let Some(other) = holder.filter(|holder| holder.uid != view.uid()) {
        return Step::Blocked(
            "DiskInUse",
            format!(
                "{at}: the VirtualMachineDisk {disk_name} belongs to the VirtualMachine {}: delete that one, or remove \
                 the disk from it and stop it",
                other.name
            ),
        );
    }
    if holder.is_none() && is_deleting(object.as_ref()) {
        return Step::Blocked("DiskDeleting", format!("{at}: the VirtualMachineDisk {disk_name} is being deleted"));
    }
    let pool = match check_source(view, object, &at) {
        Ok(pool) => pool,
        Err((reason, message)) => return Step::Blocked(reason, message),
    };
    if let Some(message) = volume_in_use(view, object, &at) {
        return Step::Blocked("VolumeInUse", message);
    }
    match holder {
        Some(_) => Step::Held(Arc::clone(object)),
        // Its own finalizer first: a disk that is held must not vanish.
        None if !has_finalizer(object.as_ref()) => Step::Wait,
        None => {
            let owned = Owned { used_by: Some(holder_of(view)), pool_name: Some(pool), ..Owned::of(object) };
            Step::Act(Action::WriteDisk { disk: Arc::clone(object), owned })
        }
    }
}

fn create(view: &View, disk: &Disk, disk_name: &str, at: &str) -> Step {
    let Some(spec) = disk.template.clone() else { return Step::Wait };
    let mut object = VirtualMachineDisk::new(disk_name, spec);
    object.metadata = ObjectMeta {
        name: Some(disk_name.to_owned()),
        namespace: Some(view.namespace().to_owned()),
        owner_references: Some(vec![controlled_by(view.vm.as_ref(), true)]),
        finalizers: Some(vec![kubevmm_api::FINALIZER.into()]),
        ..ObjectMeta::default()
    };
    let pool_name = match check_source(view, &object, &format!("{at}.template")) {
        Ok(pool) => pool,
        Err((reason, message)) => return Step::Blocked(reason, message),
    };
    if let Some(message) = &view.disk_refused {
        return Step::Blocked("DiskRefused", format!("{at}.template: {message}"));
    }
    let owned = Owned { used_by: Some(holder_of(view)), pool_name: Some(pool_name), ..Owned::default() };
    Step::Act(Action::CreateDisk { disk: Box::new(object), owned })
}

/// The pool of the disk, when pool and image exist.
fn check_source(view: &View, disk: &VirtualMachineDisk, at: &str) -> Result<String, (&'static str, String)> {
    let defaults = view.default_pools();
    let Some(pool) = pool_of(disk, &defaults) else {
        return Err(if defaults.is_empty() {
            (
                "NoDefaultPool",
                format!(
                    "{at}.poolName is missing and there is no default pool: name a pool, or annotate one \
                     VirtualMachineStoragePool with kubevmm.io/is-default: \"true\""
                ),
            )
        } else {
            (
                "SeveralDefaultPools",
                format!(
                    "{at}.poolName is missing and {} are all annotated with kubevmm.io/is-default: name a pool, or \
                     leave the annotation on one of them",
                    defaults.join(", ")
                ),
            )
        });
    };
    if !view.pools.contains_key(&pool) {
        let message = format!("{at}.poolName: there is no VirtualMachineStoragePool {pool}: create it");
        return Err(("PoolNotFound", message));
    }
    // A volume that exists holds what it needs of its image.
    let provisioned = disk.status.as_ref().is_some_and(|status| status.volume_name.is_some());
    let stored = disk.metadata.uid.is_some();
    match &disk.spec.source.image {
        // A stored disk keeps its image from going; a new one comes too late.
        Some(image) if !stored && view.image(image).is_some_and(|image| image.leaving) => Err((
            "ImageNotFound",
            format!("{at}.source.image: the {:?} {} is being deleted: name another one", image.kind, image.name),
        )),
        Some(image) if !provisioned && view.image(image).is_none() => {
            Err(("ImageNotFound", format!("{at}.source.image: there is no {:?} {}: create it", image.kind, image.name)))
        }
        _ => Ok(pool),
    }
}

/// Why a volume that a host has already is not this disk's.
fn volume_in_use(view: &View, disk: &VirtualMachineDisk, at: &str) -> Option<String> {
    let existing = &disk.spec.source.existing.as_ref()?.volume_name;
    let disk_name = name(disk);
    if names::is_image_volume(existing) {
        return Some(format!(
            "{at}: the volume {existing} of the VirtualMachineDisk {disk_name} is the copy of an image: make a disk from \
             that image, with spec.source.image"
        ));
    }
    let other = volume::holder(disk, &view.rivals, |pool| view.pools.get(pool).cloned())?;
    Some(format!(
        "{at}: the volume {existing} of the VirtualMachineDisk {disk_name} belongs to the {}: use that one, or delete it \
         (its spec.reclaimPolicy says what becomes of the volume)",
        describe(other)
    ))
}

fn holder_of(view: &View) -> Holder {
    Holder { name: view.name().to_owned(), uid: view.uid().to_owned() }
}

/// Gives every disk back that the VM holds.
pub fn give_back(view: &View) -> Vec<Action> {
    let held = view.disks.values().filter(|disk| {
        disk.status.as_ref().and_then(|status| status.used_by.as_ref()).is_some_and(|holder| holder.uid == view.uid())
    });
    held.map(|disk| Action::WriteDisk { disk: Arc::clone(disk), owned: Owned { used_by: None, ..Owned::of(disk) } })
        .collect()
}

/// The node that the disk cannot leave: its volume lies in a pool of that host alone.
pub fn pinned_to<'a>(view: &View, disk: &'a VirtualMachineDisk) -> Option<&'a str> {
    let node = match &disk.spec.source.existing {
        Some(existing) => Some(existing.node_name.as_str()),
        None => {
            let status = disk.status.as_ref()?;
            status.volume_name.as_ref()?;
            status.node_name.as_deref()
        }
    };
    node.filter(|_| !is_shared(view, disk))
}

/// Whether the disk lies in a pool that several hosts see.
pub fn is_shared(view: &View, disk: &VirtualMachineDisk) -> bool {
    let pool = pool_of(disk, &view.default_pools());
    pool.and_then(|pool| view.pools.get(&pool)).is_some_and(|pool| pool.spec.shared)
}

/// Writes the node into the disks that do not have it. A volume that lies on another host alone stays where it is.
pub fn move_to(view: &View, disks: &[Arc<VirtualMachineDisk>], node: &str) -> Vec<Action> {
    let elsewhere = disks.iter().filter(|disk| {
        disk.status.as_ref().and_then(|status| status.node_name.as_deref()) != Some(node)
            && pinned_to(view, disk).is_none_or(|pinned| pinned == node)
    });
    elsewhere
        .map(|disk| Action::WriteDisk {
            disk: Arc::clone(disk),
            owned: Owned { node_name: Some(node.to_owned()), ..Owned::of(disk) },
        })
        .collect()
}

/// Names of the disks, for messages.
pub fn names_of(disks: &[Arc<VirtualMachineDisk>]) -> Vec<&str> {
    disks.iter().map(|disk| name(disk.as_ref())).collect()
}
