//! What a VM is made of, from its status or from its spec and class. Pure.

use std::collections::BTreeMap;

use kubevmm_api::effective::{self, EffectiveSpec};
use kubevmm_api::{VirtualMachine, VirtualMachineClassSpec, VirtualMachineDisk};

/// Other objects that VMs refer to.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    /// Classes by name.
    pub(crate) classes: BTreeMap<String, VirtualMachineClassSpec>,
    /// Disks by namespace and name.
    pub(crate) disks: BTreeMap<(String, String), VirtualMachineDisk>,
    /// The disks could not be read: one that is missing here may be there.
    pub(crate) disks_unknown: bool,
}

impl Catalog {
    fn disk(&self, vm: &VirtualMachine, name: &str) -> Option<&VirtualMachineDisk> {
        self.disks.get(&(vm.metadata.namespace.clone().unwrap_or_default(), name.to_owned()))
    }
}

/// The merged spec that the domain runs with (`true`), or would be started with; `None` when the class that gives the
/// memory is not known.
pub(crate) fn effective(vm: &VirtualMachine, catalog: &Catalog) -> Option<(EffectiveSpec, bool)> {
    let status = vm.status.as_ref();
    let active = status.is_some_and(|status| status.is_active());
    if let Some(running) = status.and_then(|s| s.effective.clone()).filter(|_| active) {
        return Some((running, true));
    }
    let class = vm.spec.class_name.as_ref().and_then(|name| catalog.classes.get(name));
    let uid = vm.metadata.uid.as_deref().unwrap_or_default();
    // The default network is the controller's to find; the hardware that is shown here does not depend on it.
    effective::merge(vm.metadata.name.as_deref().unwrap_or_default(), uid, &vm.spec, class, Some("default"))
        .ok()
        .map(|merged| (merged, false))
}

/// The image that the first disk with one is made from.
pub(crate) fn image(vm: &VirtualMachine, catalog: &Catalog) -> Option<String> {
    let name = vm.metadata.name.as_deref().unwrap_or_default();
    vm.spec.disks.iter().find_map(|disk| match &disk.template {
        Some(template) => template.source.image.as_ref().map(|image| image.name.clone()),
        None => {
            let disk = catalog.disk(vm, &effective::disk_name(name, disk))?;
            disk.spec.source.image.as_ref().map(|image| image.name.clone())
        }
    })
}

/// The word that the API uses for a unit enum, for example `q35`.
pub(crate) fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => crate::table::NONE.into(),
    }
}
