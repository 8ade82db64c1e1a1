//! `export-xml`: the domain of a VM as a host without this project can have it. Pure.

use std::collections::BTreeSet;

use kube::ResourceExt as _;
use kubevmm_analyser::lower::{HostFacts, Identity, disk_alias, nic_alias};
use kubevmm_analyser::spec::{Connections, SEED_DISK, lower_spec};
use kubevmm_analyser::tree::Node;
use kubevmm_analyser::{Element, Tree};
use kubevmm_api::effective::EffectiveSpec;
use kubevmm_api::{VirtualMachine, VirtualMachineStatus, names};

use crate::error::Error;
use crate::import::adopt::not_liftable;
use crate::program;

/// A domain for another host.
#[derive(Debug, PartialEq)]
pub(crate) struct Export {
    /// Its XML.
    pub(crate) xml: String,
    /// What must be on that host.
    pub(crate) notes: Vec<String>,
}

/// Makes the XML of what a VM was started with, or observed as. `host` is the one that it is on.
///
/// # Errors
/// [`Error::Refused`] while it has no domain.
pub(crate) fn export(vm: &VirtualMachine, host: &HostFacts) -> Result<Export, Error> {
    let (spec, connections) = known(vm)?;
    let status = vm.status.clone().unwrap_or_default();
    let name = status.domain.as_ref().map_or_else(
        || names::domain(&vm.namespace().unwrap_or_default(), &vm.name_any()),
        |domain| domain.name.clone(),
    );
    let identity = Identity { name: Some(name), uuid: Some(spec.uuid.clone()), mark: None };
    let domain = lower_spec(&spec, host, &connections, &identity)
        .map_err(|error| Error::Refused(format!("virtual machine {:?}: {error}", vm.name_any())))?;
    let domain = without_aliases(&domain, &aliases(&spec));
    let notes = [notes(&spec, &status), kept_notes(&domain, &spec.uuid)].concat();
    Ok(Export { xml: Tree::new(domain).into_canonical().to_xml(), notes })
}

/// Refuses a VM without a host.
pub(crate) fn node(vm: &VirtualMachine) -> Result<&str, Error> {
    vm.status.as_ref().and_then(|status| status.node_name.as_deref()).ok_or_else(|| never_started(vm))
}

fn known(vm: &VirtualMachine) -> Result<(EffectiveSpec, Connections), Error> {
    let status = vm.status.as_ref().ok_or_else(|| never_started(vm))?;
    if let Some(why) = not_liftable(status) {
        let (domain, node) = (status.domain.as_ref().map_or("DOMAIN", |it| &it.name), status.node_name.as_deref());
        return Err(Error::Refused(format!(
            "virtual machine {:?}: {why}: take `virsh dumpxml --inactive {domain:?}` on {}",
            vm.name_any(),
            node.unwrap_or("its host")
        )));
    }
    let spec = status.effective.clone().ok_or_else(|| never_started(vm))?;
    let connections = Connections::of_status(status).ok_or_else(|| never_started(vm))?;
    Ok((spec, connections))
}

fn never_started(vm: &VirtualMachine) -> Error {
    let (name, program) = (vm.name_any(), program());
    let way_out = match vm.spec.observed() {
        Some(_) => format!("`{program} describe {name}` tells why"),
        None => format!("`{program} start {name} --wait` gives it one"),
    };
    Error::Refused(format!("virtual machine {name:?} has no domain yet whose XML there could be: {way_out}"))
}

/// The names by which spec.domain means disks and networks: nothing that another host needs.
fn aliases(spec: &EffectiveSpec) -> BTreeSet<String> {
    let disks = spec.disks.iter().map(|disk| disk_alias(&disk.name));
    let nics = spec.networks.iter().map(|nic| nic_alias(&nic.name));
    disks.chain(nics).chain([disk_alias(SEED_DISK)]).collect()
}

fn without_aliases(element: &Element, aliases: &BTreeSet<String>) -> Element {
    let mut copy = Element::new(element.name().to_owned());
    for attribute in element.attributes() {
        copy.set_attribute(attribute.name().to_owned(), attribute.value());
    }
    for node in element.nodes() {
        match node {
            Node::Text(text) => copy.push_text(text),
            Node::Element(child) => {
                let is_ours =
                    child.name() == "alias" && child.attribute("name").is_some_and(|name| aliases.contains(name));
                if !is_ours {
                    copy.push(without_aliases(child, aliases));
                }
            }
        }
    }
    copy
}

/// What the XML names and does not bring along.
fn notes(spec: &EffectiveSpec, status: &VirtualMachineStatus) -> Vec<String> {
    let mut notes = Vec::new();
    for disk in &status.disks {
        let Some(source) = &disk.source else { continue };
        let format = disk.format.as_deref().map_or(String::new(), |format| format!(", {format}"));
        notes.push(if disk.name == SEED_DISK {
            format!("copy the cloud-init seed {source}{format}: the guest reads it at its first start only")
        } else {
            format!(
                "copy the disk {}: {source}{format}, with what it is based on (qemu-img info --backing-chain)",
                disk.name
            )
        });
    }
    let links = spec.networks.iter().filter_map(|nic| {
        let seen = status.interfaces.iter().find(|it| it.name == nic.name)?.connected_to.as_ref()?;
        let network = seen.libvirt_network.as_ref().map(|name| format!("the libvirt network {name} must be there"));
        network.or_else(|| seen.bridge.as_ref().map(|name| format!("the bridge {name} must be there")))
    });
    notes.extend(links.collect::<BTreeSet<_>>());
    if status.is_active() {
        notes.push("it runs: shut it down before its disks are copied and it is started elsewhere".into());
    }
    notes
}

/// What libvirt keeps of a domain beside its XML and its disks.
fn kept_notes(domain: &Element, uuid: &str) -> Vec<String> {
    let nvram = domain.text_at(&["os", "nvram"]).filter(|path| !path.is_empty());
    let nvram = nvram.map(|path| format!("copy the variables of its UEFI: {path}"));
    let mut tpms = domain.all("devices").flat_map(|devices| devices.all("tpm"));
    let is_emulated = tpms.any(|tpm| tpm.find("backend").and_then(|it| it.attribute("type")) == Some("emulator"));
    let tpm = is_emulated.then(|| format!("copy the state of its TPM: /var/lib/libvirt/swtpm/{uuid}"));
    let mut displays = domain.all("devices").flat_map(|devices| devices.all("graphics"));
    let has_password = displays.any(|display| matches!(display.attribute("type"), Some("vnc" | "spice")));
    let password = has_password.then(|| "the passwords of its displays, if it has any, are not in it".to_owned());
    nvram.into_iter().chain(tpm).chain(password).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::dump;
    use crate::testing::{documents, golden, inventory, vms};
    use kubevmm_analyser::diff::{Mode, diff};
    use kubevmm_analyser::spec::host_facts;
    use kubevmm_api::common::Accelerator;
    use serde_json::json;

    fn host() -> HostFacts {
        host_facts(Accelerator::KVM, "x86_64")
    }

    fn observed() -> VirtualMachine {
        documents("observed.yaml").remove(1)
    }

    #[test]
    fn the_domain_as_another_host_can_have_it() {
        let export = export(&observed(), &host()).unwrap();
        golden("export.xml", &export.xml);
        assert_eq!(
            export.notes,
            [
                "copy the disk vda: /var/lib/libvirt/images/db.qcow2, qcow2, with what it is based on (qemu-img info \
                 --backing-chain)",
                "copy the disk vdb: /dev/vg/data, raw, with what it is based on (qemu-img info --backing-chain)",
                "copy the disk sdb: /iso/a.iso, raw, with what it is based on (qemu-img info --backing-chain)",
                "the bridge br0 must be there",
                "the libvirt network default must be there",
                "it runs: shut it down before its disks are copied and it is started elsewhere",
            ]
        );
    }

    #[test]
    fn a_domain_of_ours_has_neither_mark_nor_aliases_of_ours() {
        let mut vm = observed();
        vm.spec.management = kubevmm_api::vm::Management::Manage;
        let status = vm.status.as_mut().unwrap();
        status.domain = None;
        status.effective.as_mut().unwrap().seed = Some(Default::default());
        let seed = "{name: cloud_init, target: vdz, source: /pool/u.seed.img, type: file, format: raw}";
        status.disks.push(serde_yaml_ng::from_str(seed).unwrap());
        let export = export(&vm, &host()).unwrap();
        assert!(
            export.xml.contains("<name>legacy.db</name>") && export.xml.contains("/pool/u.seed.img"),
            "{}",
            export.xml
        );
        assert!(!export.xml.contains("alias") && !export.xml.contains("kubevmm"), "{}", export.xml);
        assert!(export.notes.iter().any(|note| note.starts_with("copy the cloud-init seed /pool/u.seed.img")));
    }

    #[test]
    fn what_is_imported_and_exported_is_what_it_was() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../analyser/tests/golden");
        let files = ["", "libvirt/"].map(|directory| std::fs::read_dir(format!("{golden}/{directory}")).unwrap());
        let mut domains = 0;
        for file in files.into_iter().flatten().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
            let xml = std::fs::read(&file).unwrap();
            let Ok(dump) = dump::read("f", &xml) else { continue };
            let mut vm = observed();
            vm.status = Some(dump.status("db", &host(), &inventory("h1")).unwrap());
            let domain = json!({"name": dump.name(), "uuid": dump.uuid(), "epoch": 0, "state": "Shutoff"});
            vm.status.as_mut().unwrap().domain = serde_json::from_value(domain).unwrap();
            let exported = Tree::from_xml(&export(&vm, &host()).unwrap().xml).unwrap();
            let differences = diff(&Tree::from_bytes(&xml).unwrap(), &exported, Mode::Desired);
            let differences: Vec<_> = differences.iter().filter(|it| !it.path.ends_with("/alias")).collect();
            assert!(differences.is_empty(), "{}: {differences:?}", file.display());
            domains += 1;
        }
        assert!(domains >= 5, "{domains}");
    }

    #[test]
    fn firmware_and_tpm_have_files_of_their_own() {
        let xml = "<domain><os><nvram>/nvram/db.fd</nvram></os><devices><tpm><backend type='emulator'/></tpm><graphics type='vnc'/></devices></domain>";
        let notes = kept_notes(&Tree::from_xml(xml).unwrap().root, "u");
        assert_eq!(
            notes,
            [
                "copy the variables of its UEFI: /nvram/db.fd",
                "copy the state of its TPM: /var/lib/libvirt/swtpm/u",
                "the passwords of its displays, if it has any, are not in it",
            ]
        );
        assert_eq!(kept_notes(&Element::new("domain"), "u"), [""; 0]);
    }

    #[test]
    fn aliases_of_others_stay() {
        let xml = "<domain><devices><disk><alias name='ua-disk-vda'/></disk><disk><alias name='ua-mine'/></disk></devices></domain>";
        let domain = Tree::from_xml(xml).unwrap().root;
        let left = without_aliases(&domain, &["ua-disk-vda".to_owned()].into());
        assert!(left.to_xml().contains("ua-mine") && !left.to_xml().contains("ua-disk-vda"));
    }

    #[test]
    fn a_vm_without_a_domain_says_how_it_gets_one() {
        let mut vm = vms().remove(0);
        vm.status = None;
        let error = export(&vm, &host()).unwrap_err();
        assert_eq!((error.exit_code(), node(&vm).unwrap_err().exit_code()), (5, 5));
        assert!(error.to_string().contains(" start ") && error.to_string().contains(" --wait"), "{error}");
        let mut vm = observed();
        vm.status.as_mut().unwrap().effective = None;
        assert!(export(&vm, &host()).unwrap_err().to_string().contains(" describe db"));
        let not_liftable = "{type: Synced, status: Unknown, reason: NotLiftable, message: odd, lastTransitionTime: '2026-05-01T10:00:00Z'}";
        vm.status.as_mut().unwrap().conditions.push(serde_yaml_ng::from_str(not_liftable).unwrap());
        let error = export(&vm, &host()).unwrap_err().to_string();
        assert!(error.contains("odd") && error.contains("virsh dumpxml --inactive \"DB\"` on h1"), "{error}");
    }
}
