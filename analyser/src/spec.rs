//! Between the merged spec of a VirtualMachine and its domain on a host, both ways.

use kubevmm_api::common::{self, FirmwareType, MachineType, NetworkKind};
use kubevmm_api::effective::{EffectiveDisk, EffectiveNetwork, EffectivePlacement, EffectiveSpec};
use kubevmm_api::vm::{self, DiskStatus, HostLink, NicModel};
use kubevmm_api::{Quantity, VirtualMachineStatus, names, overhead};
use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};
use crate::lift::{Lifted, lift_spec};
use crate::lower::{
    Accelerator, CpuInput, CpuModel, DiskBus, DiskDevice, DiskLocation, Firmware, Format, HostFacts, Identity, Machine,
    NicSource, Typed, TypedDisk, TypedNic, disk_alias, lower_typed, nic_alias,
};
use crate::read::{DiskInfo, DiskSource, DomainInfo};
use crate::tree::{Element, Tree};
use crate::value::Value;

/// Name of the cloud-init seed among the disks: no name that a user can give.
pub const SEED_DISK: &str = "cloud_init";
/// Key of what lies over the domain, in the spec and in the analyser's YAML.
const OVER: &str = "domain";

/// A disk as a domain needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOnHost {
    /// Where its volume lies.
    pub location: DiskLocation,
    /// Format of the volume: what is known of it, never what is found in it. The guest of a raw disk can write there
    /// what looks like another format.
    pub format: Format,
    /// The guest can only read.
    pub read_only: bool,
}

/// All that the domain of a VM is connected to on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    /// The disks, in the order of the spec.
    pub disks: Vec<DiskOnHost>,
    /// What the NICs are connected to, in the order of the spec.
    pub nics: Vec<NicSource>,
    /// Path of the cloud-init seed.
    pub seed: Option<String>,
}

impl Connections {
    /// What the domain of `status.effective` is connected to. `None` while that is not known: the VM has never been
    /// started.
    pub fn of_status(status: &VirtualMachineStatus) -> Option<Self> {
        let spec = status.effective.as_ref()?;
        let disk = |name: &str| status.disks.iter().find(|disk| disk.name == name).and_then(disk_of_status);
        let nic = |name: &str| {
            let link = status.interfaces.iter().find(|nic| nic.name == name)?.connected_to.as_ref()?;
            let bridge = || link.bridge.clone().map(NicSource::Bridge);
            link.libvirt_network.clone().map(NicSource::Network).or_else(bridge)
        };
        let seed = match &spec.seed {
            None => None,
            Some(_) => match disk(SEED_DISK)?.location {
                DiskLocation::File(path) => Some(path),
                DiskLocation::Block(_) | DiskLocation::Volume { .. } => return None,
            },
        };
        Some(Self {
            disks: spec.disks.iter().map(|it| disk(&it.name)).collect::<Option<_>>()?,
            nics: spec.networks.iter().map(|it| nic(&it.name)).collect::<Option<_>>()?,
            seed,
        })
    }

    /// The same, for the status of a VM with this spec: what [`Connections::of_status`] reads. Targets are left out.
    pub fn to_status(&self, spec: &EffectiveSpec) -> (Vec<DiskStatus>, Vec<(String, HostLink)>) {
        let disks = spec.disks.iter().zip(&self.disks).map(|(disk, on_host)| DiskStatus {
            name: disk.name.clone(),
            disk_name: Some(disk.disk_name.clone()),
            ..status_of_disk(on_host)
        });
        let seed = self.seed.iter().map(|path| DiskStatus {
            name: SEED_DISK.to_owned(),
            source: Some(path.clone()),
            kind: Some("file".into()),
            format: Some("raw".into()),
            ..Default::default()
        });
        let links = spec.networks.iter().zip(&self.nics).map(|(nic, source)| {
            let link = match source.clone() {
                NicSource::Network(name) => HostLink { libvirt_network: Some(name), ..Default::default() },
                NicSource::Bridge(name) => HostLink { bridge: Some(name), ..Default::default() },
            };
            (nic.name.clone(), link)
        });
        (disks.chain(seed).collect(), links.collect())
    }
}

/// Where a disk lies, as a status tells it.
pub fn status_of_disk(disk: &DiskOnHost) -> DiskStatus {
    let (kind, source) = match &disk.location {
        DiskLocation::File(path) => ("file", path.clone()),
        DiskLocation::Block(path) => ("block", path.clone()),
        DiskLocation::Volume { pool, volume } => ("volume", format!("{pool}/{volume}")),
    };
    let format = match disk.format {
        Format::Qcow2 => "qcow2",
        Format::Raw => "raw",
    };
    DiskStatus { source: Some(source), kind: Some(kind.into()), format: Some(format.into()), ..Default::default() }
}

fn disk_of_status(disk: &DiskStatus) -> Option<DiskOnHost> {
    let source = disk.source.clone()?;
    let location = match disk.kind.as_deref()? {
        "file" => DiskLocation::File(source),
        "block" => DiskLocation::Block(source),
        "volume" => {
            let (pool, volume) = source.split_once('/')?;
            DiskLocation::Volume { pool: pool.to_owned(), volume: volume.to_owned() }
        }
        _ => return None,
    };
    let format = match disk.format.as_deref()? {
        "qcow2" => Format::Qcow2,
        "raw" => Format::Raw,
        _ => return None,
    };
    Some(DiskOnHost { location, format, read_only: false })
}

/// What a host decides about each of its domains.
pub fn host_facts(accelerator: common::Accelerator, arch: &str) -> HostFacts {
    let accelerator = match accelerator {
        common::Accelerator::KVM => Accelerator::Kvm,
        common::Accelerator::TCG => Accelerator::Tcg { tb_cache_mib: Some(overhead::TCG_CACHE_MIB) },
    };
    HostFacts { accelerator, arch: arch.to_owned(), emulator: None }
}

/// The domain of a VM, with its `spec.domain` over it.
///
/// # Errors
/// [`Error::Value`] for a size that is none; those of [`lower_typed`] for what `spec.domain` must not say, with paths that
/// begin with `domain`.
pub fn lower_spec(
    spec: &EffectiveSpec,
    host: &HostFacts,
    connections: &Connections,
    identity: &Identity,
) -> Result<Element> {
    // Below its own key, so that paths in messages begin with it.
    let over = Json::Object(Map::from_iter([(OVER.to_owned(), Json::Object(spec.domain.clone()))]));
    let over = Value::from_json(&over)?;
    let nothing = Value::Mapping(Vec::new());
    lower_typed(&typed(spec, host, connections)?, identity, over.get(OVER).unwrap_or(&nothing))
}

fn typed(spec: &EffectiveSpec, host: &HostFacts, connections: &Connections) -> Result<Typed> {
    let memory_bytes = spec.memory.bytes().map_err(|_| Error::Value {
        path: "memory.size".into(),
        value: spec.memory.0.clone(),
        expected: "a quantity of bytes",
    })?;
    let mut disks: Vec<_> = spec.disks.iter().zip(&connections.disks).map(|(disk, on)| typed_disk(disk, on)).collect();
    // The bus that the guest boots from is one that it can read.
    let bus = disks.first().map_or(DiskBus::Virtio, |disk| disk.bus);
    disks.extend(connections.seed.as_ref().map(|path| TypedDisk {
        name: SEED_DISK.into(),
        alias: Some(disk_alias(SEED_DISK)),
        location: DiskLocation::File(path.clone()),
        format: Format::Raw,
        device: DiskDevice::Disk,
        bus,
        // AHCI has no read-only disks, only CD-ROMs.
        read_only: bus != DiskBus::Sata,
        boot_order: None,
        serial: None,
    }));
    Ok(Typed {
        host: host.clone(),
        machine: match spec.machine {
            MachineType::Q35 => Machine::Q35,
            MachineType::Pc => Machine::Pc,
        },
        cpu: CpuInput { vcpus: spec.cores, max_vcpus: spec.cores, model: CpuModel::default_for(host.accelerator) },
        memory_bytes,
        firmware: match spec.firmware {
            FirmwareType::Bios => Firmware::Bios,
        },
        disks,
        nics: spec.networks.iter().zip(&connections.nics).map(|(nic, source)| typed_nic(nic, source)).collect(),
    })
}

fn typed_disk(disk: &EffectiveDisk, on_host: &DiskOnHost) -> TypedDisk {
    TypedDisk {
        name: disk.name.clone(),
        alias: Some(disk_alias(&disk.name)),
        location: on_host.location.clone(),
        format: on_host.format,
        device: DiskDevice::Disk,
        bus: match disk.bus {
            vm::DiskBus::Virtio => DiskBus::Virtio,
            vm::DiskBus::Scsi => DiskBus::Scsi,
            vm::DiskBus::Sata => DiskBus::Sata,
        },
        read_only: on_host.read_only,
        boot_order: disk.boot_order,
        serial: None,
    }
}

fn typed_nic(nic: &EffectiveNetwork, source: &NicSource) -> TypedNic {
    let model = match nic.model {
        NicModel::Virtio => "virtio",
        NicModel::E1000e => "e1000e",
    };
    TypedNic {
        name: nic.name.clone(),
        alias: Some(nic_alias(&nic.name)),
        source: source.clone(),
        mac: Some(nic.mac_address.clone()),
        model: Some(model.into()),
        boot_order: None,
    }
}

/// A domain that a host has already, in the words of a VirtualMachine.
#[derive(Clone, Debug, PartialEq)]
pub struct LiftedSpec {
    /// libvirt's name, UUID and our mark.
    pub identity: Identity,
    /// What a VM's spec says of it. Disks are named as the VirtualMachineDisks that an import makes; NICs are connected to
    /// a ClusterVirtualMachineNetwork of the libvirt network's or bridge's own name.
    pub spec: EffectiveSpec,
    /// Disks and NICs, in the order of the spec.
    pub connections: Connections,
}

impl LiftedSpec {
    /// The domain's disks, for the status of a VM: first those of the spec, of which `volume` says which volume they are.
    /// `domain` is what was lifted.
    pub fn disks(
        &self,
        domain: &DomainInfo,
        volume: &dyn Fn(&DiskLocation) -> Option<vm::HostVolume>,
    ) -> Vec<DiskStatus> {
        let mut others: Vec<DiskStatus> = domain.disks.iter().map(status_of_read).collect();
        let (mut disks, _) = self.connections.to_status(&self.spec);
        for (disk, on_host) in disks.iter_mut().zip(&self.connections.disks) {
            if let Some(at) = others.iter().position(|it| it.kind == disk.kind && it.source == disk.source) {
                disk.target = others.remove(at).target;
            }
            // It has no object yet.
            disk.disk_name = None;
            disk.volume = volume(&on_host.location);
        }
        disks.extend(others);
        disks
    }
}

fn status_of_read(disk: &DiskInfo) -> DiskStatus {
    let (kind, source) = match &disk.source {
        None => (None, None),
        Some(DiskSource::File(path)) => (Some("file"), Some(path.clone())),
        Some(DiskSource::Block(path)) => (Some("block"), Some(path.clone())),
        Some(DiskSource::Volume { pool, volume }) => (Some("volume"), Some(format!("{pool}/{volume}"))),
        Some(DiskSource::Other(kind)) => (Some(kind.as_str()), None),
    };
    DiskStatus {
        name: disk.target.clone(),
        target: disk.target.clone(),
        source,
        kind: kind.map(str::to_owned),
        format: disk.format.clone(),
        ..Default::default()
    }
}

/// Lifts a domain for the VM `vm_name` with the uid `vm_uid`. `is_volume` says which disks can be VirtualMachineDisks; the
/// others stay as they are in `spec.domain`, as do those that several domains may share.
///
/// # Errors
/// Those of [`lift`](crate::lift::lift).
pub fn lift_to_spec(
    domain: &Tree,
    host: &HostFacts,
    (vm_name, vm_uid): (&str, &str),
    is_volume: &dyn Fn(&DiskLocation) -> bool,
) -> Result<LiftedSpec> {
    let is_own = |disk: &Element, location: &DiskLocation| {
        let is_disk = matches!(disk.attribute("device"), None | Some("disk"));
        let is_shared = ["readonly", "shareable", "transient"].iter().any(|name| disk.find(name).is_some());
        is_disk && !is_shared && is_volume(location)
    };
    let Lifted { identity, typed, domain } = lift_spec(domain, host, &is_own)?;
    let disks = typed.disks.iter().map(|disk| EffectiveDisk {
        name: disk.name.clone(),
        disk_name: names::disk_of_template(vm_name, &disk.name),
        bus: match disk.bus {
            DiskBus::Virtio => vm::DiskBus::Virtio,
            DiskBus::Scsi => vm::DiskBus::Scsi,
            DiskBus::Sata => vm::DiskBus::Sata,
        },
        boot_order: disk.boot_order,
    });
    let networks = typed.nics.iter().map(|nic| EffectiveNetwork {
        name: nic.name.clone(),
        kind: NetworkKind::ClusterVirtualMachineNetwork,
        network_name: match &nic.source {
            NicSource::Network(name) | NicSource::Bridge(name) => name.clone(),
        },
        model: if nic.model.as_deref() == Some("e1000e") { NicModel::E1000e } else { NicModel::Virtio },
        mac_address: nic.mac.clone().unwrap_or_else(|| names::mac_address(vm_uid, &nic.name)),
    });
    let spec = EffectiveSpec {
        cores: typed.cpu.vcpus,
        memory: Quantity::from_bytes(typed.memory_bytes),
        machine: match typed.machine {
            Machine::Q35 => MachineType::Q35,
            Machine::Pc => MachineType::Pc,
        },
        firmware: match typed.firmware {
            Firmware::Bios => FirmwareType::Bios,
        },
        uuid: identity.uuid.clone().unwrap_or_default().to_ascii_lowercase(),
        disks: disks.collect(),
        networks: networks.collect(),
        seed: None,
        domain: match domain.to_json() {
            Json::Object(over) => over,
            _ => Map::new(),
        },
        placement: EffectivePlacement::default(),
    };
    let connections = Connections {
        disks: typed
            .disks
            .iter()
            .map(|disk| DiskOnHost { location: disk.location.clone(), format: disk.format, read_only: false })
            .collect(),
        nics: typed.nics.into_iter().map(|nic| nic.source).collect(),
        seed: None,
    };
    Ok(LiftedSpec { identity, spec, connections })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubevmm_api::effective::merge;
    use kubevmm_api::vm::InterfaceStatus;

    const UID: &str = "b3a1c7d2-0000-4000-8000-000000000001";

    fn file(path: &str, format: Format) -> DiskOnHost {
        DiskOnHost { location: DiskLocation::File(path.into()), format, read_only: false }
    }

    fn identity() -> Identity {
        Identity { name: Some("shop.web".into()), uuid: Some(UID.into()), mark: None }
    }

    #[test]
    fn a_spec_becomes_a_domain_and_a_spec_again() {
        let vm = "{cpu: {cores: 2}, memory: {size: 1Gi}, disks: [{name: root, diskName: web-root, bus: scsi, bootOrder: 1}], \
                  networks: [{name: lan, macAddress: '02:00:00:00:00:01', model: e1000e}]}";
        let spec = merge("web", UID, &serde_yaml_ng::from_str(vm).unwrap(), None, Some("lan")).unwrap();
        let host = host_facts(common::Accelerator::TCG, "x86_64");
        let connections = Connections {
            disks: vec![file("/p/v", Format::Qcow2)],
            nics: vec![NicSource::Network("lan".into())],
            seed: None,
        };
        let domain = lower_spec(&spec, &host, &connections, &identity()).unwrap();
        let lifted = lift_to_spec(&Tree::new(domain), &host, ("web", UID), &|_| true).unwrap();
        assert_eq!(lifted, LiftedSpec { identity: identity(), spec: spec.clone(), connections: connections.clone() });

        let (disks, links) = connections.to_status(&spec);
        let interface = |(name, link)| InterfaceStatus { name, connected_to: Some(link), ..Default::default() };
        let interfaces = links.into_iter().map(interface).collect();
        let status = VirtualMachineStatus { effective: Some(spec), disks, interfaces, ..Default::default() };
        assert_eq!(Connections::of_status(&status), Some(connections));
    }

    #[test]
    fn the_seed_is_on_the_bus_that_the_guest_boots_from() {
        let vm = "{memory: {size: 1Gi}, disks: [{name: root, diskName: d, bus: scsi}]}";
        let spec = merge("web", UID, &serde_yaml_ng::from_str(vm).unwrap(), None, None).unwrap();
        let disks = vec![file("/p/v", Format::Qcow2)];
        let connections = Connections { disks, nics: vec![], seed: Some("/seed".into()) };
        let host = host_facts(common::Accelerator::KVM, "x86_64");
        let domain = lower_spec(&spec, &host, &connections, &identity()).unwrap();
        let disks: Vec<_> = domain.all("devices").flat_map(|devices| devices.all("disk")).collect();
        assert_eq!(disks[1].at(&["source"]).and_then(|source| source.attribute("file")), Some("/seed"));
        assert_eq!(disks[1].at(&["target"]).and_then(|target| target.attribute("bus")), Some("scsi"));
    }

    #[test]
    fn what_is_no_volume_of_its_own_stays_as_it_is() {
        let xml = "<domain type='kvm'><name>old</name><uuid>0a000000-0000-4000-8000-000000000001</uuid>\
            <memory unit='KiB'>1048577</memory><os><type arch='x86_64' machine='pc'>hvm</type></os><devices>\
            <disk type='file' device='cdrom'><source file='/iso/a.iso'/><target dev='hda' bus='ide'/></disk>\
            <disk type='file'><source file='/srv/loose.img'/><target dev='vda' bus='virtio'/></disk>\
            <disk type='file'><source file='/pool/shared.img'/><target dev='vdb' bus='virtio'/><shareable/></disk>\
            <disk type='block'><source dev='/dev/vg/data'/><target dev='vdc' bus='virtio'/></disk>\
            <disk type='file'><driver name='qemu' type='qcow2' cache='none'/><source file='/pool/root.qcow2'/>\
            <target dev='vdd' bus='virtio'/></disk></devices></domain>";
        let host = host_facts(common::Accelerator::KVM, "x86_64");
        let known = |location: &DiskLocation| {
            matches!(location, DiskLocation::File(path) | DiskLocation::Block(path)
                if path.starts_with("/pool/") || path.starts_with("/dev/vg/"))
        };
        let tree = Tree::from_xml(xml).unwrap();
        let lifted = lift_to_spec(&tree, &host, ("old", UID), &known).unwrap();
        let disks: Vec<_> = lifted.spec.disks.iter().map(|disk| disk.disk_name.as_str()).collect();
        assert_eq!(disks, ["old-vdc", "old-vdd"]);
        assert_eq!(lifted.spec.memory.0, "1048577Ki");
        let again = lower_spec(&lifted.spec, &host, &lifted.connections, &lifted.identity).unwrap();
        assert_eq!(
            crate::diff::diff(&tree, &without_aliases(again), crate::diff::Mode::Exact),
            [],
            "{:?}",
            lifted.spec.domain
        );
    }

    fn without_aliases(mut domain: Element) -> Tree {
        for devices in domain.elements_mut().filter(|element| element.name() == "devices") {
            devices.elements_mut().for_each(|device| drop(device.remove("alias")));
        }
        Tree::new(domain)
    }
}
