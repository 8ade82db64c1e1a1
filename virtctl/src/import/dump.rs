//! A domain by its XML, as `virsh dumpxml` prints it, in the place of what an executor tells of it. Pure.

use std::path::Path;

use kubevmm_analyser::lower::{DiskLocation, HostFacts};
use kubevmm_analyser::read::{DomainInfo, read_domain};
use kubevmm_analyser::spec::lift_to_spec;
use kubevmm_analyser::{Element, Error as DocumentError, Tree};
use kubevmm_api::VirtualMachineStatus;
use kubevmm_api::vm::{HostVolume, InterfaceStatus};

use super::inventory::Inventory;
use super::running::definition;
use crate::error::Error;

/// A domain's XML.
pub(crate) struct Dump {
    tree: Tree,
    info: DomainInfo,
    /// What a person must know of it.
    pub(crate) notes: Vec<String>,
}

/// Reads XML. `file` is what it is called in messages.
///
/// # Errors
/// [`Error::Usage`] for what is no domain that could be defined.
pub(crate) fn read(file: &str, xml: &[u8]) -> Result<Dump, Error> {
    let wrong = |error: DocumentError| Error::Usage(format!("--from {file}: {error}"));
    let mut tree = Tree::from_bytes(xml).map_err(wrong)?;
    let mut notes = Vec::new();
    if tree.root.attribute("id").is_some() {
        let exact = "`virsh dumpxml --inactive` prints exactly what is defined";
        let defined = definition(&tree.root)
            .map_err(|why| Error::Usage(format!("--from {file}: it is of a running domain, and {why}: {exact}")))?;
        notes.push(format!(
            "{file} is of a running domain: what libvirt has filled in for the run is left out as far as it can be told; {exact}"
        ));
        if defined.cpu_of_the_run {
            notes.push(format!("its CPU is taken as it is in this run, by model and features; {exact}"));
        }
        tree = Tree::new(defined.domain);
    }
    let info = read_domain(&tree.root.to_xml()).map_err(wrong)?;
    if has_passwords(&tree.root) {
        return Err(Error::Usage(format!(
            "--from {file}: the passwords of its displays would be in the VirtualMachine, for all who may read it: take what \
             `virsh dumpxml --inactive` prints without --security-info"
        )));
    }
    Ok(Dump { tree, info, notes })
}

fn has_passwords(domain: &Element) -> bool {
    let mut displays = domain.all("devices").flat_map(|devices| devices.all("graphics"));
    displays.any(|display| display.attribute("passwd").is_some())
}

impl Dump {
    /// libvirt's name of the domain.
    pub(crate) fn name(&self) -> &str {
        &self.info.name
    }

    /// Its UUID.
    pub(crate) fn uuid(&self) -> String {
        self.info.uuid.to_string()
    }

    /// What an executor would tell of the domain, for a VirtualMachine of this name. Of its disks, those are volumes that lie
    /// in a directory which a VirtualMachineStoragePool names, and those that name their pool.
    ///
    /// # Errors
    /// [`Error::Refused`] for a domain that cannot be said in a spec.
    pub(crate) fn status(
        &self,
        vm: &str,
        host: &HostFacts,
        inventory: &Inventory,
    ) -> Result<VirtualMachineStatus, Error> {
        let is_volume = |location: &DiskLocation| volume(location, inventory).is_some();
        let lifted = lift_to_spec(&self.tree, host, (vm, &self.uuid()), &is_volume)
            .map_err(|error| Error::Refused(format!("its domain cannot be said in a spec: {error}")))?;
        let disks = lifted.disks(&self.info, &|location| volume(location, inventory));
        let (_, links) = lifted.connections.to_status(&lifted.spec);
        let interfaces = links.into_iter().zip(&lifted.spec.networks).map(|((name, link), nic)| InterfaceStatus {
            name,
            mac_address: nic.mac_address.clone(),
            connected_to: Some(link),
            ..Default::default()
        });
        let interfaces = interfaces.collect();
        Ok(VirtualMachineStatus { effective: Some(lifted.spec), disks, interfaces, ..Default::default() })
    }
}

fn volume(location: &DiskLocation, inventory: &Inventory) -> Option<HostVolume> {
    match location {
        DiskLocation::File(path) => {
            let path = Path::new(path);
            let mut pools = inventory.directories();
            let (_, libvirt_pool) = pools.find(|(directory, _)| path.parent() == Some(Path::new(directory)))?;
            Some(HostVolume { libvirt_pool, name: path.file_name()?.to_str()?.to_owned() })
        }
        DiskLocation::Block(_) => None,
        DiskLocation::Volume { pool, volume } => Some(HostVolume { libvirt_pool: pool.clone(), name: volume.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::inventory;
    use kubevmm_analyser::spec::{Connections, host_facts};
    use kubevmm_api::common::Accelerator;

    const XML: &str = "<domain type='kvm'><name>Old Mail</name><uuid>0A000000-0000-4000-8000-000000000009</uuid>\
        <memory unit='GiB'>1</memory><vcpu>2</vcpu><os><type arch='x86_64' machine='pc'>hvm</type></os><devices>\
        <disk type='file' device='cdrom'><target dev='hda' bus='ide'/><readonly/></disk>\
        <disk type='file'><driver name='qemu' type='raw'/><source file='/srv/loose.img'/><target dev='vda' bus='virtio'/></disk>\
        <disk type='file'><driver name='qemu' type='qcow2'/><source file='/srv/fast/mail.qcow2'/>\
        <target dev='vdb' bus='virtio'/></disk>\
        <disk type='volume'><driver name='qemu' type='raw'/><source pool='lvm' volume='data'/><target dev='vdc' bus='virtio'/></disk>\
        <disk type='network'><source protocol='rbd' name='a/b'/><target dev='vdd' bus='virtio'/></disk>\
        <interface type='bridge'><mac address='52:54:00:00:00:09'/><source bridge='br0'/><model type='virtio'/></interface>\
        </devices></domain>";

    #[test]
    fn a_dump_is_told_as_an_executor_would() {
        let dump = read("a.xml", XML.as_bytes()).unwrap();
        assert_eq!((dump.name(), dump.uuid().as_str()), ("Old Mail", "0a000000-0000-4000-8000-000000000009"));
        let host = host_facts(Accelerator::KVM, "x86_64");
        let status = dump.status("mail", &host, &inventory("h1")).unwrap();
        let effective = status.effective.as_ref().unwrap();
        assert_eq!((effective.cores, effective.memory.0.as_str()), (2, "1Gi"));
        let disks: Vec<_> = effective.disks.iter().map(|disk| disk.disk_name.as_str()).collect();
        assert_eq!(disks, ["mail-vdb", "mail-vdc"]);
        let told: Vec<_> = status
            .disks
            .iter()
            .map(|disk| {
                let volume = disk.volume.as_ref().map(|it| format!("{}/{}", it.libvirt_pool, it.name));
                format!("{} {} {}", disk.target, disk.kind.as_deref().unwrap_or("-"), volume.unwrap_or_default())
            })
            .collect();
        assert_eq!(
            told,
            ["vdb file kubevmm.fast/mail.qcow2", "vdc volume lvm/data", "hda - ", "vda file ", "vdd network "]
        );
        let nic = &status.interfaces[0];
        assert_eq!(nic.connected_to.as_ref().unwrap().bridge.as_deref(), Some("br0"));
        assert!(Connections::of_status(&status).is_some());
    }

    #[test]
    fn a_running_domain_is_told_as_it_was_defined() {
        let host = host_facts(Accelerator::KVM, "x86_64");
        let status = |dump: &Dump| dump.status("mail", &host, &inventory("h1")).unwrap();
        let live = XML
            .replace("<domain type='kvm'>", "<domain type='kvm' id='7'>")
            .replace(
                "<source file='/srv/fast/mail.qcow2'/>",
                "<source file='/srv/fast/mail.qcow2' index='2'/><backingStore/>",
            )
            .replace("<source bridge='br0'/>", "<source bridge='br0'/><target dev='vnet0'/><alias name='net0'/>")
            .replace(
                "</devices>",
                "</devices><seclabel type='dynamic' model='dac' relabel='yes'><label>+1:+1</label></seclabel>",
            );
        let (defined, live) = (read("a.xml", XML.as_bytes()).unwrap(), read("a.xml", live.as_bytes()).unwrap());
        assert_eq!(status(&defined), status(&live));
        assert!(defined.notes.is_empty() && live.notes.len() == 1, "{:?}", live.notes);
        let cpu =
            "<cpu mode='custom' match='exact' check='full'><model fallback='forbid'>qemu64</model></cpu></domain>";
        let live = XML.replace("<domain type='kvm'>", "<domain type='kvm' id='7'>").replace("</domain>", cpu);
        let live = read("a.xml", live.as_bytes()).unwrap();
        assert!(live.notes[1].contains("its CPU is taken as it is in this run"), "{:?}", live.notes);
    }

    #[test]
    fn what_is_no_definition_is_wrong_usage() {
        for (xml, said) in [
            ("<domain", "XML, line 1"),
            ("<network><name>a</name></network>", "domain"),
            (
                "<domain id='3'><name>a</name><uuid>0a000000-0000-4000-8000-000000000009</uuid><devices>\
                 <interface type='direct'><source network='a' dev='eth0'/></interface></devices></domain>",
                "--inactive",
            ),
            ("<domain><name>a</name></domain>", "uuid"),
            (
                "<domain><name>a</name><uuid>0a000000-0000-4000-8000-000000000009</uuid><devices>\
                 <graphics type='vnc' passwd='secret'/></devices></domain>",
                "--security-info",
            ),
        ] {
            let error = read("a.xml", xml.as_bytes()).err().unwrap();
            assert_eq!(error.exit_code(), 2, "{error}");
            assert!(error.to_string().contains("--from a.xml") && error.to_string().contains(said), "{error}");
        }
    }
}
