//! What the typed fields of a VM say of its domain, and the identity beside them.

use uuid::Uuid;

use super::domain::{
    Accelerator, CpuInput, CpuModel, DiskBus, DiskDevice, DiskInput, DomainInput, Firmware, Machine, NicInput,
    NicSource, disk_alias, nic_alias,
};
use super::storage::Format;
use crate::error::{Error, Result};
use crate::mark::Mark;

/// Whose a domain is. It stands beside the typed fields and beside `spec.domain`, which can say none of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// libvirt's name.
    pub name: Option<String>,
    /// libvirt's UUID, as it was written.
    pub uuid: Option<String>,
    /// Mark of ownership; none in a domain that is not ours.
    pub mark: Option<Mark>,
}

/// What the host decides, and no typed field: what runs the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// What runs the guest's code.
    pub accelerator: Accelerator,
    /// libvirt's name of the architecture.
    pub arch: String,
    /// The emulator's path on the host; `None` leaves the choice to libvirt.
    pub emulator: Option<String>,
}

/// What the typed fields of a VM say of its domain, on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typed {
    /// What the host decides.
    pub host: HostFacts,
    /// Chipset.
    pub machine: Machine,
    /// Virtual CPUs.
    pub cpu: CpuInput,
    /// Memory in bytes; libvirt counts KiB, a started one counts whole.
    pub memory_bytes: u64,
    /// Firmware.
    pub firmware: Firmware,
    /// Disks, in the order in which the guest sees them.
    pub disks: Vec<TypedDisk>,
    /// NICs, in the order in which the guest sees them.
    pub nics: Vec<TypedNic>,
}

/// A disk that typed fields can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypedDisk {
    /// Name of the disk in the VM. `spec.domain` means this disk by [`disk_alias`] of it.
    pub name: String,
    /// The alias in the domain: [`disk_alias`] of the name, but for a domain that was not made from typed fields. Part
    /// of the identity: a domain that becomes ours gets our aliases.
    pub alias: Option<String>,
    /// Where the volume lies.
    pub location: DiskLocation,
    /// Format of the volume.
    pub format: Format,
    /// What the guest sees.
    pub device: DiskDevice,
    /// How it is connected.
    pub bus: DiskBus,
    /// Whether the guest can only read. A CD-ROM always is.
    pub read_only: bool,
    /// Place in the boot order, from 1.
    pub boot_order: Option<u32>,
    /// Serial number that the guest sees.
    pub serial: Option<String>,
}

/// Where a disk's volume lies on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskLocation {
    /// A file by its path.
    File(String),
    /// A block device by its path.
    Block(String),
    /// A volume of a storage pool.
    Volume {
        /// libvirt's name of the pool.
        pool: String,
        /// Name of the volume in it.
        volume: String,
    },
}

/// A network card that typed fields can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypedNic {
    /// Name of the NIC in the VM. `spec.domain` means it by [`nic_alias`] of it.
    pub name: String,
    /// The alias in the domain, as that of a [`TypedDisk`].
    pub alias: Option<String>,
    /// What it is connected to.
    pub source: NicSource,
    /// MAC address; `None` leaves it to libvirt.
    pub mac: Option<String>,
    /// libvirt's model name; `None` leaves it to libvirt.
    pub model: Option<String>,
    /// Place in the boot order, from 1.
    pub boot_order: Option<u32>,
}

/// Bounds of the schema of a VirtualMachine.
const MAX_CORES: u32 = 512;
const MAX_DISKS: usize = 24;
const MAX_NICS: usize = 8;
const MAX_BOOT_ORDER: u32 = 64;
const MEMORY_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 50;
/// What a model of a NIC can be there.
const NIC_MODELS: [&str; 2] = ["virtio", "e1000e"];

/// Whether a text is a MAC address that a spec can give a NIC.
fn is_unicast_mac(text: &str) -> bool {
    let bytes: Vec<&str> = text.split(':').collect();
    let is_byte = |byte: &&str| byte.len() == 2 && byte.bytes().all(|digit| digit.is_ascii_hexdigit());
    let is_unicast = |byte: &&str| u8::from_str_radix(byte, 16).is_ok_and(|first| first & 1 == 0);
    bytes.len() == 6 && bytes.iter().all(is_byte) && bytes.first().is_some_and(is_unicast)
}

impl Typed {
    /// Keeps what the fields of a VirtualMachine say, and sets the rest to what is made of a VM that says nothing else:
    /// no CPUs to plug in, the accelerator's CPU model, disks that are written to and have no serial, NICs of the two
    /// models and without a boot order, and no more devices than the schema takes. What is out of the schema's bounds is
    /// left to `spec.domain`.
    pub(crate) fn restrict_to_spec(&mut self) {
        self.cpu.vcpus = self.cpu.vcpus.min(MAX_CORES);
        self.cpu.max_vcpus = self.cpu.vcpus;
        self.cpu.model = CpuModel::default_for(self.host.accelerator);
        self.memory_bytes = self.memory_bytes.clamp(*MEMORY_BYTES.start(), *MEMORY_BYTES.end());
        self.disks.truncate(MAX_DISKS);
        for disk in &mut self.disks {
            disk.device = DiskDevice::Disk;
            disk.read_only = false;
            disk.serial = None;
            disk.boot_order = disk.boot_order.filter(|order| (1..=MAX_BOOT_ORDER).contains(order));
        }
        self.nics.truncate(MAX_NICS);
        for nic in &mut self.nics {
            nic.boot_order = None;
            nic.mac = nic.mac.take().map(|mac| mac.to_ascii_lowercase()).filter(|mac| is_unicast_mac(mac));
            let is_known = nic.model.as_deref().is_some_and(|model| NIC_MODELS.contains(&model));
            if !is_known {
                nic.model = Some(NIC_MODELS[0].to_owned());
            }
        }
    }

    /// Gives each device our alias: what a domain gets when it is made from its typed fields.
    pub fn take_our_aliases(&mut self) {
        for disk in &mut self.disks {
            disk.alias = Some(disk_alias(&disk.name));
        }
        for nic in &mut self.nics {
            nic.alias = Some(nic_alias(&nic.name));
        }
    }

    /// The input of the lowering that says this.
    ///
    /// # Errors
    /// [`Error::Missing`] for what an input must have: a name, a UUID, a mark, a file for each disk, a MAC address and a
    /// model for each NIC.
    pub fn to_input(&self, identity: &Identity) -> Result<DomainInput> {
        let missing = |path: &str| Error::Missing { path: path.to_owned() };
        let uuid = identity.uuid.as_ref().ok_or_else(|| missing("domain/uuid"))?;
        let uuid = Uuid::parse_str(uuid).map_err(|_| Error::Value {
            path: "domain/uuid".into(),
            value: uuid.clone(),
            expected: "a UUID",
        })?;
        Ok(DomainInput {
            name: identity.name.clone().ok_or_else(|| missing("domain/name"))?,
            uuid,
            mark: identity.mark.clone().ok_or_else(|| missing("domain/metadata"))?,
            accelerator: self.host.accelerator,
            machine: self.machine,
            arch: self.host.arch.clone(),
            emulator: self.host.emulator.clone(),
            cpu: self.cpu.clone(),
            memory_bytes: self.memory_bytes,
            firmware: self.firmware,
            disks: self.disks.iter().map(TypedDisk::to_input).collect::<Result<_>>()?,
            nics: self.nics.iter().map(TypedNic::to_input).collect::<Result<_>>()?,
        })
    }
}

impl TypedDisk {
    fn to_input(&self) -> Result<DiskInput> {
        let DiskLocation::File(path) = &self.location else {
            return Err(Error::Missing { path: format!("domain/devices/disk '{}'/source/@file", self.name) });
        };
        Ok(DiskInput {
            name: self.name.clone(),
            path: path.clone(),
            format: self.format,
            device: self.device,
            bus: self.bus,
            read_only: self.read_only,
            boot_order: self.boot_order,
            serial: self.serial.clone(),
        })
    }
}

impl TypedNic {
    fn to_input(&self) -> Result<NicInput> {
        let missing = |what: &str| Error::Missing { path: format!("domain/devices/interface '{}'/{what}", self.name) };
        Ok(NicInput {
            name: self.name.clone(),
            source: self.source.clone(),
            mac: self.mac.clone().ok_or_else(|| missing("mac"))?,
            model: self.model.clone().ok_or_else(|| missing("model"))?,
            boot_order: self.boot_order,
        })
    }
}

impl DomainInput {
    /// The identity and the typed fields of an input.
    pub fn parts(&self) -> (Identity, Typed) {
        let identity = Identity {
            name: Some(self.name.clone()),
            uuid: Some(self.uuid.to_string()),
            mark: Some(self.mark.clone()),
        };
        let typed = Typed {
            host: HostFacts { accelerator: self.accelerator, arch: self.arch.clone(), emulator: self.emulator.clone() },
            machine: self.machine,
            cpu: self.cpu.clone(),
            memory_bytes: self.memory_bytes,
            firmware: self.firmware,
            disks: self.disks.iter().map(TypedDisk::from).collect(),
            nics: self.nics.iter().map(TypedNic::from).collect(),
        };
        (identity, typed)
    }
}

impl From<&DiskInput> for TypedDisk {
    fn from(disk: &DiskInput) -> Self {
        Self {
            name: disk.name.clone(),
            alias: Some(disk_alias(&disk.name)),
            location: DiskLocation::File(disk.path.clone()),
            format: disk.format,
            device: disk.device,
            bus: disk.bus,
            read_only: disk.read_only || disk.device == DiskDevice::Cdrom,
            boot_order: disk.boot_order,
            serial: disk.serial.clone(),
        }
    }
}

impl From<&NicInput> for TypedNic {
    fn from(nic: &NicInput) -> Self {
        Self {
            name: nic.name.clone(),
            alias: Some(nic_alias(&nic.name)),
            source: nic.source.clone(),
            mac: Some(nic.mac.clone()),
            model: Some(nic.model.clone()),
            boot_order: nic.boot_order,
        }
    }
}
