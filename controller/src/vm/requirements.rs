//! What a VM needs of a host, for the scheduler extender and for [`kubevmm_api::fit`]. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use kubevmm_api::common::{ImageKind, MachineType, NetworkKind};
use kubevmm_api::condition::{self, PROVISIONED};
use kubevmm_api::effective::{self, EffectiveSpec, MergeError};
use kubevmm_api::requirements::{ImageNeed, LocalDisk, NetworkNeed, PoolNeed, Requirements};
use kubevmm_api::{VirtualMachineDisk, names, overhead};

use crate::disk::decide::pool_of;
use crate::object::{name, uid};
use crate::vm::disks::pinned_to;
use crate::vm::domain_needs;
use crate::vm::view::View;

/// What the VM needs of a host; `spec` is its merged spec.
pub fn requirements(view: &View, spec: &EffectiveSpec) -> Result<Requirements, MergeError> {
    let disks = disks(view);
    let mut needs = Requirements {
        home: view.home().map(Into::into),
        last_node: view.vm.status.as_ref().and_then(|status| status.node_name.clone()),
        vcpus: spec.cores,
        memory: memory(spec)?,
        pools: pools(view, &disks),
        local_disks: disks
            .iter()
            .filter_map(|disk| {
                let node = pinned_to(view, disk)?.to_owned();
                Some(LocalDisk { name: name(disk.as_ref()).to_owned(), node })
            })
            .collect(),
        images: images(view, &disks),
        networks: networks(view),
        machine: Some(
            match spec.machine {
                MachineType::Q35 => "q35",
                MachineType::Pc => "pc",
            }
            .into(),
        ),
        ..Default::default()
    };
    domain_needs::add(&spec.domain, &mut needs);
    if domain_needs::keeps_state(&spec.domain) || domain_needs::has_state(&view.vm) {
        needs.state_node = defined_on(view).map(Into::into);
    }
    Ok(needs)
}

/// The host that has the domain: undefining it there takes with it what the host alone has of it.
pub fn defined_on(view: &View) -> Option<&str> {
    let status = view.vm.status.as_ref()?;
    status.domain.as_ref().and(status.node_name.as_deref())
}

/// Memory of the guest and of QEMU itself, in bytes.
pub fn memory(spec: &EffectiveSpec) -> Result<u64, MergeError> {
    let guest = spec.memory.bytes().map_err(|error| MergeError::Quantity("spec.memory.size", error))?;
    Ok(guest.saturating_add(overhead::bytes(guest, spec.cores)))
}

/// A hash of what follows from the VM and not from what becomes of its disks: another one asks for another host.
pub fn asked(needs: &Requirements) -> String {
    let pools = needs.pools.iter().map(|pool| PoolNeed { bytes: 0, ..pool.clone() }).collect();
    let asked = Requirements {
        home: None,
        last_node: None,
        state_node: None,
        pools,
        local_disks: vec![],
        images: vec![],
        ..needs.clone()
    };
    names::short_hash(&asked.to_annotation(), 16)
}

/// The disks that the VM names and that are there, once each.
fn disks(view: &View) -> Vec<Arc<VirtualMachineDisk>> {
    let mut disks: Vec<Arc<VirtualMachineDisk>> = Vec::new();
    for disk in &view.vm.spec.disks {
        let found = view.disks.get(&effective::disk_name(view.name(), disk));
        disks.extend(
            found.filter(|found| disks.iter().all(|known| name(known.as_ref()) != name(found.as_ref()))).cloned(),
        );
    }
    disks
}

fn is_provisioned(disk: &VirtualMachineDisk) -> bool {
    let conditions = disk.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    disk.spec.source.existing.is_some() || condition::is_true(conditions, PROVISIONED)
}

fn pools(view: &View, disks: &[Arc<VirtualMachineDisk>]) -> Vec<PoolNeed> {
    let mut pools: BTreeMap<String, PoolNeed> = BTreeMap::new();
    for disk in disks {
        let pool_name = pool_of(disk, &view.default_pools()).unwrap_or_default();
        let object = view.pools.get(&pool_name);
        let need = pools.entry(pool_name.clone()).or_insert_with(|| PoolNeed {
            name: pool_name,
            uid: object.map(|pool| uid(pool.as_ref()).to_owned()).unwrap_or_default(),
            shared: object.is_some_and(|pool| pool.spec.shared),
            bytes: 0,
        });
        if !is_provisioned(disk) {
            need.bytes = need.bytes.saturating_add(size(view, disk));
        }
    }
    pools.into_values().collect()
}

/// Bytes that the volume of a disk may grow to.
fn size(view: &View, disk: &VirtualMachineDisk) -> u64 {
    let of_image = || view.image(disk.spec.source.image.as_ref()?)?.size;
    disk.spec.size.as_ref().and_then(|size| size.bytes().ok()).or_else(of_image).unwrap_or_default()
}

fn images(view: &View, disks: &[Arc<VirtualMachineDisk>]) -> Vec<ImageNeed> {
    let mut needs: Vec<ImageNeed> = Vec::new();
    for disk in disks.iter().filter(|disk| !is_provisioned(disk)) {
        let Some(image) = &disk.spec.source.image else { continue };
        let need = ImageNeed {
            kind: image.kind,
            namespace: (image.kind == ImageKind::VirtualMachineImage).then(|| view.namespace().to_owned()),
            name: image.name.clone(),
            pool: pool_of(disk, &view.default_pools()).unwrap_or_default(),
        };
        if !needs.contains(&need) {
            needs.push(need);
        }
    }
    needs
}

fn networks(view: &View) -> Vec<NetworkNeed> {
    let mut needs: Vec<NetworkNeed> = Vec::new();
    for (_, kind, network) in view.nics() {
        let name = network.unwrap_or_default();
        let (uid, namespace, everywhere) = match kind {
            NetworkKind::VirtualMachineNetwork => {
                (view.networks.get(name).map(|object| uid(object.as_ref())), Some(view.namespace().to_owned()), true)
            }
            NetworkKind::ClusterVirtualMachineNetwork => {
                let object = view.cluster_networks.get(name);
                // One of our own is made on a host when the first VM there needs it.
                let made = object.is_some_and(|object| object.spec.existing.is_none());
                (object.map(|object| uid(object.as_ref())), None, made)
            }
        };
        let uid = uid.unwrap_or_default().to_owned();
        let need = NetworkNeed { kind, namespace, name: name.to_owned(), uid, everywhere };
        if !needs.contains(&need) {
            needs.push(need);
        }
    }
    needs
}
