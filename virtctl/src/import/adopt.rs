//! The spec of a VirtualMachine that stands for a domain which is there already, and the objects that it names. Pure.

use kube::ResourceExt as _;
use kubevmm_analyser::lower::Format;
use kubevmm_analyser::spec::Connections;
use kubevmm_api::common::{Machine, NetworkRef};
use kubevmm_api::condition::{self, SYNCED};
use kubevmm_api::effective::{EffectiveDisk, EffectiveNetwork, EffectiveSpec};
use kubevmm_api::image::ImageFormat;
use kubevmm_api::vm::{
    Cpu, Disk, Firmware, HostVolume, Management, Memory, NetworkInterface, RunStrategy, VirtualMachineSpec,
};
use kubevmm_api::{VirtualMachine, VirtualMachineStatus};

use super::inventory::{Inventory, Key, WantedDisk};
use crate::error::Error;

/// Reason of the condition Synced of a domain that a spec cannot say.
const NOT_LIFTABLE: &str = "NotLiftable";

/// What is made for a domain.
#[derive(Clone, Debug)]
pub(crate) struct Adoption {
    /// The VirtualMachine as it shall be.
    pub(crate) vm: VirtualMachine,
    /// What its domain is now, in the words of a spec.
    pub(crate) found: EffectiveSpec,
    /// What its domain is connected to; the objects mean the same.
    pub(crate) connections: Connections,
    /// The objects that the spec names, and what they name: pools and networks first.
    pub(crate) objects: Vec<Key>,
}

/// What the user wants of the domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Whether they are taken over.
    pub(crate) management: Management,
    /// libvirt's autostart may be taken from them.
    pub(crate) disable_autostart: bool,
}

/// Plans for a VirtualMachine that observes a domain, by its status. An inventory that is left after an error is of no
/// use any more.
///
/// # Errors
/// [`Error::Refused`]: the domain cannot be said in a spec, one of its disks is somebody else's, or it has an autostart
/// that nobody has agreed to take.
pub(crate) fn adopt(vm: &VirtualMachine, terms: Terms, inventory: &mut Inventory) -> Result<Adoption, Error> {
    let (found, connections) = read(vm)?;
    let status = vm.status.clone().unwrap_or_default();
    if terms.management == Management::Manage && keeps_autostart(vm, terms) {
        return Err(Error::Refused(
            "libvirt starts it with the host, and a managed domain waits for the cluster instead, which one that carries \
             the cluster itself must not: give --disable-autostart to agree, or leave it observed"
                .into(),
        ));
    }
    let namespace = vm.namespace().unwrap_or_default();
    let (mut objects, mut of_disks) = (Vec::new(), Vec::new());
    let (mut networks, mut disks) = (Vec::new(), Vec::new());
    for nic in &found.networks {
        let link = status.interfaces.iter().find(|it| it.name == nic.name).and_then(|it| it.connected_to.as_ref());
        let link = link.ok_or_else(|| untold(&format!("what its NIC {} is connected to", nic.name)))?;
        let (reference, object) = inventory.network(link, &namespace);
        objects.extend(object);
        networks.push(interface(nic, reference));
    }
    for (disk, on_host) in found.disks.iter().zip(&connections.disks) {
        let format = match on_host.format {
            Format::Qcow2 => ImageFormat::Qcow2,
            Format::Raw => ImageFormat::Raw,
        };
        let volume = volume(&status, &disk.name)?;
        let (name, uid) = (vm.name_any(), vm.uid().unwrap_or_default());
        let wanted =
            WantedDisk { namespace: &namespace, vm: &name, vm_uid: &uid, name: &disk.disk_name, volume, format };
        let [object, pool] = inventory.disk(&wanted)?;
        disks.push(disk_of(disk, object.name.clone()));
        of_disks.push(object);
        objects.push(pool);
    }
    objects.extend(of_disks);
    objects.sort();
    objects.dedup();
    let mut adopted = vm.clone();
    adopted.spec = spec(vm, terms, &found, disks, networks);
    Ok(Adoption { vm: adopted, found, connections, objects })
}

/// What the executor tells of the domain.
fn read(vm: &VirtualMachine) -> Result<(EffectiveSpec, Connections), Error> {
    if vm.metadata.deletion_timestamp.is_some() {
        return Err(Error::Refused(format!(
            "the virtual machine {} is being deleted: import again when it is gone",
            vm.name_any()
        )));
    }
    let status = vm.status.as_ref().ok_or_else(|| untold("anything"))?;
    if let Some(why) = not_liftable(status) {
        return Err(Error::Refused(format!("its domain cannot be said in a spec: {why}")));
    }
    let found = status.effective.clone().ok_or_else(|| untold("what the domain is made of"))?;
    let connections =
        Connections::of_status(status).ok_or_else(|| untold("what its disks and NICs are connected to"))?;
    Ok((found, connections))
}

/// Why the domain of an observed VM cannot be said in a spec.
pub(crate) fn not_liftable(status: &VirtualMachineStatus) -> Option<&str> {
    let synced = condition::find(&status.conditions, SYNCED)?;
    (synced.status == "Unknown" && synced.reason == NOT_LIFTABLE).then_some(synced.message.as_str())
}

fn untold(what: &str) -> Error {
    Error::Refused(format!(
        "its executor has not told {what}: try again, and if it stays so see that it runs: kubectl -n kubevmm-system get pods"
    ))
}

fn volume<'a>(status: &'a VirtualMachineStatus, disk: &str) -> Result<&'a HostVolume, Error> {
    let found = status.disks.iter().find(|it| it.name == disk).and_then(|it| it.volume.as_ref());
    found.ok_or_else(|| untold(&format!("which volume its disk {disk} is")))
}

fn interface(nic: &EffectiveNetwork, network: NetworkRef) -> NetworkInterface {
    NetworkInterface {
        name: nic.name.clone(),
        network: Some(network),
        model: nic.model,
        mac_address: Some(nic.mac_address.clone()),
    }
}

fn disk_of(disk: &EffectiveDisk, object: String) -> Disk {
    Disk {
        name: disk.name.clone(),
        boot_order: disk.boot_order,
        bus: disk.bus,
        template: None,
        disk_name: Some(object),
    }
}

fn spec(
    vm: &VirtualMachine,
    terms: Terms,
    found: &EffectiveSpec,
    disks: Vec<Disk>,
    networks: Vec<NetworkInterface>,
) -> VirtualMachineSpec {
    let mut spec = vm.spec.clone();
    spec.run_strategy = vm.status.as_ref().map_or(RunStrategy::Manual, strategy);
    // Answered long ago, when it was managed before: it must not be carried out again.
    spec.power_request = None;
    spec.class_name = None;
    spec.cpu = Some(Cpu { cores: Some(found.cores), request: spec.cpu.and_then(|cpu| cpu.request) });
    spec.memory = Some(Memory { size: Some(found.memory.clone()) });
    spec.machine = Some(Machine { kind: Some(found.machine) });
    spec.firmware = Some(Firmware { kind: Some(found.firmware), uuid: None });
    spec.disks = disks;
    spec.networks = networks;
    spec.cloud_init = None;
    spec.domain = Some(found.domain.clone()).filter(|domain| !domain.is_empty());
    spec.management = terms.management;
    if let Some(existing) = &mut spec.existing_domain {
        existing.disable_autostart |= terms.disable_autostart;
    }
    spec
}

/// Whether libvirt starts the domain with the host.
pub(crate) fn has_autostart(status: &VirtualMachineStatus) -> bool {
    status.domain.as_ref().is_some_and(|domain| domain.autostart)
}

/// Whether it has an autostart that may not be taken from it.
pub(crate) fn keeps_autostart(vm: &VirtualMachine, terms: Terms) -> bool {
    let agreed = vm.spec.existing_domain.as_ref().is_some_and(|existing| existing.disable_autostart);
    vm.status.as_ref().is_some_and(has_autostart) && !agreed && !terms.disable_autostart
}

/// What keeps the domain in the state that it is in, and does what libvirt's autostart did. None that would stop it: who
/// finds it off may write only after somebody has started it.
fn strategy(status: &VirtualMachineStatus) -> RunStrategy {
    if status.is_active() && has_autostart(status) { RunStrategy::Always } else { RunStrategy::Manual }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::inventory::{Change, Kind};
    use crate::testing::{documents, inventory};

    const AGREED: Terms = Terms { management: Management::Manage, disable_autostart: true };

    fn observed() -> VirtualMachine {
        documents("observed.yaml").remove(1)
    }

    #[test]
    fn the_spec_says_what_the_domain_is_and_no_default_of_the_schema() {
        let mut inventory = inventory("h1");
        let adoption = adopt(&observed(), AGREED, &mut inventory).unwrap();
        let spec = serde_json::to_value(&adoption.vm.spec).unwrap();
        let wanted: serde_json::Value = serde_yaml_ng::from_str(
            "
            runStrategy: Always
            existingDomain: {nodeName: h1, uuid: 0a000000-0000-4000-8000-000000000006, disableAutostart: true}
            cpu: {cores: 2}
            memory: {size: 2Gi}
            machine: {type: pc}
            firmware: {type: bios}
            disks:
            - {name: vda, bootOrder: 1, diskName: db-vda}
            - {name: vdb, bus: scsi, diskName: db-vdb}
            networks:
            - {name: net0, network: {kind: ClusterVirtualMachineNetwork, name: default}, macAddress: '52:54:00:00:00:06'}
            - {name: net1, network: {kind: ClusterVirtualMachineNetwork, name: lan}, model: e1000e, macAddress: '52:54:00:00:00:07'}
            domain: {title: The database, devices: {disks: [{device: cdrom, type: file, target: {dev: sdb, bus: sata}, source: {file: /iso/a.iso}, readonly: {}}]}}
            ",
        )
        .unwrap();
        assert_eq!(spec, wanted);
        let objects: Vec<_> = adoption.objects.iter().map(ToString::to_string).collect();
        assert_eq!(
            objects,
            [
                "virtualmachinestoragepool.kubevmm.io/default",
                "virtualmachinestoragepool.kubevmm.io/vg-data",
                "clustervirtualmachinenetwork.kubevmm.io/default",
                "clustervirtualmachinenetwork.kubevmm.io/lan",
                "virtualmachinedisk.kubevmm.io/db-vda",
                "virtualmachinedisk.kubevmm.io/db-vdb",
            ]
        );
        let changes = adoption.objects.iter().map(|key| (key.kind, inventory.write(key).unwrap().map(|it| it.change)));
        assert!(changes.into_iter().all(|(kind, change)| kind == Kind::Network || change == Some(Change::Create)));
    }

    #[test]
    fn what_the_user_has_said_besides_stays() {
        let mut vm = observed();
        vm.spec.termination_grace_period_seconds = 5;
        vm.spec.class_name = Some("small".into());
        let only_observed = Terms { management: Management::Observe, disable_autostart: false };
        let spec = adopt(&vm, only_observed, &mut inventory("h1")).unwrap().vm.spec;
        assert_eq!((spec.termination_grace_period_seconds, spec.class_name.as_deref()), (5, None));
        assert_eq!(spec.management, Management::Observe);
        assert!(!spec.existing_domain.unwrap().disable_autostart, "nobody has agreed");
    }

    #[test]
    fn what_was_asked_for_when_it_was_managed_before_is_not_repeated() {
        let mut vm = observed();
        vm.spec.power_request = Some(serde_yaml_ng::from_str("{id: a, action: Stop}").unwrap());
        assert_eq!(adopt(&vm, AGREED, &mut inventory("h1")).unwrap().vm.spec.power_request, None);
    }

    #[test]
    fn an_autostart_is_taken_only_where_somebody_has_agreed() {
        for (autostart, agreed_in_spec, disable_autostart, management, possible) in [
            (true, false, false, Management::Manage, false),
            (true, false, true, Management::Manage, true),
            (true, true, false, Management::Manage, true),
            (false, false, false, Management::Manage, true),
            (true, false, false, Management::Observe, true),
        ] {
            let mut vm = observed();
            vm.status.as_mut().unwrap().domain.as_mut().unwrap().autostart = autostart;
            vm.spec.existing_domain.as_mut().unwrap().disable_autostart = agreed_in_spec;
            let adopted = adopt(&vm, Terms { management, disable_autostart }, &mut inventory("h1"));
            let case = (autostart, agreed_in_spec, disable_autostart, management);
            match adopted {
                Ok(adoption) => {
                    assert!(possible, "{case:?}");
                    let existing = adoption.vm.spec.existing_domain.unwrap();
                    assert_eq!(existing.disable_autostart, agreed_in_spec || disable_autostart, "{case:?}");
                }
                Err(error) => {
                    assert!(!possible && error.exit_code() == 5, "{case:?}: {error}");
                    let said = error.to_string();
                    assert!(said.contains("carries the cluster") && said.contains("--disable-autostart"), "{said}");
                }
            }
        }
    }

    #[test]
    fn the_run_strategy_follows_state_and_autostart() {
        let strategy = |state: &str, autostart: bool| {
            let domain = format!("{{domain: {{name: a, uuid: u, epoch: 0, state: {state}, autostart: {autostart}}}}}");
            strategy(&serde_yaml_ng::from_str(&domain).unwrap())
        };
        assert_eq!(strategy("Running", true), RunStrategy::Always);
        assert_eq!(strategy("Paused", true), RunStrategy::Always);
        assert_eq!(strategy("Shutoff", true), RunStrategy::Manual, "somebody may start it before this is written");
        assert_eq!(strategy("Running", false), RunStrategy::Manual);
        assert_eq!(strategy("Shutoff", false), RunStrategy::Manual);
        assert_eq!(super::strategy(&VirtualMachineStatus::default()), RunStrategy::Manual, "of which nothing is known");
    }

    #[test]
    fn what_cannot_be_said_or_is_not_known_is_refused() {
        let refused = |change: &dyn Fn(&mut VirtualMachine)| {
            let mut vm = observed();
            change(&mut vm);
            let error = adopt(&vm, AGREED, &mut inventory("h1")).unwrap_err();
            assert_eq!(error.exit_code(), 5, "{error}");
            error.to_string()
        };
        let not_liftable = "{type: Synced, status: Unknown, reason: NotLiftable, message: 'domain.name: two of them', \
                            lastTransitionTime: '2026-05-01T10:00:00Z'}";
        let said = refused(&|vm| {
            let condition = serde_yaml_ng::from_str(not_liftable).unwrap();
            vm.status.as_mut().unwrap().conditions.push(condition);
        });
        assert!(said.ends_with("cannot be said in a spec: domain.name: two of them"), "{said}");
        assert!(refused(&|vm| vm.status = None).contains("not told anything"));
        assert!(refused(&|vm| vm.status.as_mut().unwrap().effective = None).contains("what the domain is made of"));
        assert!(refused(&|vm| vm.status.as_mut().unwrap().interfaces.clear()).contains("NICs are connected to"));
        assert!(
            refused(&|vm| vm.status.as_mut().unwrap().disks[1].volume = None).contains("which volume its disk vdb")
        );
        let deleted = kube::api::ObjectMeta {
            deletion_timestamp: Some(serde_json::from_value("2026-05-01T10:00:00Z".into()).unwrap()),
            ..observed().metadata
        };
        assert!(refused(&|vm| vm.metadata = deleted.clone()).contains("is being deleted"));
    }
}
