//! The domain of a VirtualMachine.

use std::collections::BTreeMap;
use std::fmt;

use uuid::Uuid;

use super::device_names::letters;
use super::storage::Format;
use super::typed::{DiskLocation, Identity, Typed, TypedDisk, TypedNic};
use crate::mark::Mark;
use crate::tree::{Element, Tree};

/// Everything that decides a domain's XML. Two equal inputs give equal XML, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainInput {
    /// libvirt's name, `<namespace>.<name>`.
    pub name: String,
    /// libvirt's UUID: the VM's firmware UUID.
    pub uuid: Uuid,
    /// Mark of ownership.
    pub mark: Mark,
    /// What runs the guest's code.
    pub accelerator: Accelerator,
    /// Chipset.
    pub machine: Machine,
    /// libvirt's name of the architecture, `x86_64`.
    pub arch: String,
    /// The emulator's path on the host, from its capabilities; `None` leaves the choice to libvirt.
    pub emulator: Option<String>,
    /// Virtual CPUs.
    pub cpu: CpuInput,
    /// Memory in bytes; libvirt counts KiB, a started one counts whole.
    pub memory_bytes: u64,
    /// Firmware.
    pub firmware: Firmware,
    /// Disks, in the order in which the guest sees them.
    pub disks: Vec<DiskInput>,
    /// NICs, in the order in which the guest sees them.
    pub nics: Vec<NicInput>,
}

/// What runs the guest's code, libvirt's domain type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// Hardware virtualisation.
    Kvm,
    /// QEMU's own translation.
    Tcg {
        /// Bound of the cache of translated code in MiB; `None`: QEMU's own choice, up to 1 GiB. A small one saves host
        /// memory and costs a large guest time.
        tb_cache_mib: Option<u32>,
    },
}

/// Chipset, an alias that libvirt resolves to the host's newest version of it when the domain is defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// PCI Express.
    Q35,
    /// The older PCI one.
    Pc,
}

/// Virtual CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuInput {
    /// CPUs that the guest starts with; at least 1.
    pub vcpus: u32,
    /// CPUs that can be plugged in; at least `vcpus`.
    pub max_vcpus: u32,
    /// Model.
    pub model: CpuModel,
}

/// CPU model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CpuModel {
    /// The named model closest to the host's, with its features.
    HostModel,
    /// The host's own CPU, unaltered.
    HostPassthrough,
    /// All that the accelerator can do; the one to use with TCG.
    Maximum,
    /// A model by libvirt's or QEMU's name; the domain does not start where it cannot be had.
    Named(String),
}

impl CpuModel {
    /// The model of a VM that names none.
    pub fn default_for(accelerator: Accelerator) -> Self {
        match accelerator {
            Accelerator::Kvm => Self::HostModel,
            Accelerator::Tcg { .. } => Self::Maximum,
        }
    }
}

/// Firmware of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskInput {
    /// Name of the disk in the VM; its libvirt alias is [`disk_alias`] of it.
    pub name: String,
    /// Path of the volume on the host.
    pub path: String,
    /// Format of the volume.
    pub format: Format,
    /// What the guest sees.
    pub device: DiskDevice,
    /// How it is connected.
    pub bus: DiskBus,
    /// Whether the guest can only read. A CD-ROM always is.
    pub read_only: bool,
    /// Place in the boot order, from 1; `None`: not booted from, unless no device has one.
    pub boot_order: Option<u32>,
    /// Serial number that the guest sees, at most 20 bytes for virtio.
    pub serial: Option<String>,
}

/// What the guest sees of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskDevice {
    /// A hard disk.
    Disk,
    /// A CD-ROM drive.
    Cdrom,
}

/// How a disk is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskBus {
    /// virtio-blk.
    Virtio,
    /// virtio-scsi.
    Scsi,
    /// AHCI.
    Sata,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicInput {
    /// Name of the NIC in the VM; its libvirt alias is made from it.
    pub name: String,
    /// What it is connected to.
    pub source: NicSource,
    /// MAC address, `52:54:00:12:34:56`.
    pub mac: String,
    /// libvirt's model name: `virtio`, `e1000e`, ….
    pub model: String,
    /// Place in the boot order, from 1.
    pub boot_order: Option<u32>,
}

/// What a NIC is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NicSource {
    /// A libvirt network by name.
    Network(String),
    /// A host bridge by name.
    Bridge(String),
}

/// The libvirt alias of a disk. libvirt keeps an alias of a user only with the prefix `ua-`, and refuses two devices with
/// one alias: a disk and a NIC may have the same name.
pub fn disk_alias(disk: &str) -> String {
    format!("ua-disk-{disk}")
}

/// The libvirt alias of a NIC; never that of a disk.
pub fn nic_alias(nic: &str) -> String {
    format!("ua-nic-{nic}")
}

/// The domain. No graphics and no video card: the console is the serial port. A guest that crashes is destroyed, so that
/// the run strategy decides what happens next.
pub fn lower(input: &DomainInput) -> Element {
    let (identity, typed) = input.parts();
    let mut root = hardware(&typed);
    identify(&mut root, &identity);
    Tree::new(root).into_canonical().root
}

/// Gives a domain its name, its UUID and its mark. The mark comes behind other metadata, where libvirt puts it.
pub(super) fn identify(root: &mut Element, identity: &Identity) {
    let leaf = |name: &'static str, text: &Option<String>| text.as_ref().map(|text| Element::leaf(name, text));
    for leaf in [leaf("name", &identity.name), leaf("uuid", &identity.uuid)].into_iter().flatten() {
        root.push(leaf);
    }
    let Some(mark) = &identity.mark else { return };
    let mut metadata = root.remove("metadata").into_iter();
    let first = metadata.next().unwrap_or_else(|| Element::new("metadata"));
    root.push(first.child(mark.to_element()));
    metadata.for_each(|other| root.push(other));
}

/// The domain without its identity.
pub(crate) fn hardware(typed: &Typed) -> Element {
    let accelerator = typed.host.accelerator;
    Element::new("domain")
        .attr("type", accelerator)
        .child(memory(typed.memory_bytes))
        .child(vcpu(&typed.cpu))
        .child(os(typed))
        .child(features(accelerator))
        .child(cpu(&typed.cpu))
        .child(clock(accelerator))
        .child(Element::leaf("on_poweroff", "destroy"))
        .child(Element::leaf("on_reboot", "restart"))
        .child(Element::leaf("on_crash", "destroy"))
        .child(power_management())
        .child(devices(typed))
}

fn memory(bytes: u64) -> Element {
    Element::leaf("memory", bytes.div_ceil(1024)).attr("unit", "KiB")
}

fn vcpu(cpu: &CpuInput) -> Element {
    let current = (cpu.vcpus != cpu.max_vcpus).then_some(cpu.vcpus);
    Element::leaf("vcpu", cpu.max_vcpus).attr("placement", "static").attr_opt("current", current)
}

fn os(input: &Typed) -> Element {
    let has_boot_order =
        input.disks.iter().any(|d| d.boot_order.is_some()) || input.nics.iter().any(|n| n.boot_order.is_some());
    // libvirt refuses <boot dev> beside a device's own boot order.
    let boot = (!has_boot_order).then(|| Element::new("boot").attr("dev", "hd"));
    let kind = Element::leaf("type", "hvm").attr("arch", &input.host.arch).attr("machine", input.machine);
    match input.firmware {
        Firmware::Bios => Element::new("os").child(kind).children(boot),
    }
}

fn features(accelerator: Accelerator) -> Element {
    let tcg = match accelerator {
        Accelerator::Tcg { tb_cache_mib: Some(mib) } => {
            Some(Element::new("tcg").child(Element::leaf("tb-cache", mib).attr("unit", "MiB")))
        }
        Accelerator::Tcg { tb_cache_mib: None } | Accelerator::Kvm => None,
    };
    Element::new("features").child(Element::new("acpi")).child(Element::new("apic")).children(tcg)
}

fn cpu(cpu: &CpuInput) -> Element {
    let element = match &cpu.model {
        CpuModel::HostModel => Element::new("cpu").attr("mode", "host-model").attr("check", "partial"),
        CpuModel::HostPassthrough => Element::new("cpu").attr("mode", "host-passthrough").attr("check", "none"),
        CpuModel::Maximum => Element::new("cpu").attr("mode", "maximum").attr("check", "none"),
        CpuModel::Named(name) => Element::new("cpu")
            .attr("mode", "custom")
            .attr("match", "exact")
            .attr("check", "none")
            .child(Element::leaf("model", name).attr("fallback", "forbid")),
    };
    // One socket: guests that count sockets for their licence see all CPUs.
    let topology = Element::new("topology").attr("sockets", 1).attr("cores", cpu.max_vcpus).attr("threads", 1);
    element.child(topology)
}

fn clock(accelerator: Accelerator) -> Element {
    let timer = |name: &str| Element::new("timer").attr("name", name);
    let clock = Element::new("clock").attr("offset", "utc");
    match accelerator {
        Accelerator::Kvm => clock
            .child(timer("rtc").attr("tickpolicy", "catchup"))
            .child(timer("pit").attr("tickpolicy", "delay"))
            .child(timer("hpet").attr("present", "no")),
        // The policies above are KVM's; without a HPET an idle guest wakes the emulator less.
        Accelerator::Tcg { .. } => clock.child(timer("hpet").attr("present", "no")),
    }
}

/// A guest that suspends itself would look like a hung one.
fn power_management() -> Element {
    let off = |name: &'static str| Element::new(name).attr("enabled", "no");
    Element::new("pm").child(off("suspend-to-mem")).child(off("suspend-to-disk"))
}

fn devices(typed: &Typed) -> Element {
    let has_scsi = typed.disks.iter().any(|d| d.bus == DiskBus::Scsi);
    let scsi = Element::new("controller").attr("type", "scsi").attr("index", 0).attr("model", "virtio-scsi");
    Element::new("devices")
        .children(typed.host.emulator.as_ref().map(|path| Element::leaf("emulator", path)))
        .children(disks(&typed.disks))
        .children(has_scsi.then_some(scsi))
        .children(typed.nics.iter().map(nic))
        .children(serial_console())
        .child(agent_channel())
        .child(Element::new("video").child(Element::new("model").attr("type", "none")))
        .child(Element::new("memballoon").attr("model", "virtio"))
        .child(
            Element::new("rng")
                .attr("model", "virtio")
                .child(Element::leaf("backend", "/dev/urandom").attr("model", "random")),
        )
}

fn disks(typed: &[TypedDisk]) -> Vec<Element> {
    // SCSI and SATA disks share one series of names.
    let mut used = BTreeMap::<&str, usize>::new();
    let mut elements = Vec::with_capacity(typed.len());
    for disk in typed {
        let (bus, prefix) = match disk.bus {
            DiskBus::Virtio => ("virtio", "vd"),
            DiskBus::Scsi => ("scsi", "sd"),
            DiskBus::Sata => ("sata", "sd"),
        };
        let index = used.entry(prefix).or_default();
        elements.push(disk_element(disk, bus, &format!("{prefix}{}", letters(*index))));
        *index += 1;
    }
    elements
}

fn disk_element(disk: &TypedDisk, bus: &str, target: &str) -> Element {
    let device = match disk.device {
        DiskDevice::Disk => "disk",
        DiskDevice::Cdrom => "cdrom",
    };
    let source = Element::new("source");
    let (kind, source) = match &disk.location {
        DiskLocation::File(path) => ("file", source.attr("file", path)),
        DiskLocation::Block(path) => ("block", source.attr("dev", path)),
        DiskLocation::Volume { pool, volume } => ("volume", source.attr("pool", pool).attr("volume", volume)),
    };
    let read_only = disk.read_only || disk.device == DiskDevice::Cdrom;
    // What the guest frees is freed on the host.
    let discard = (!read_only).then_some("unmap");
    Element::new("disk")
        .attr("type", kind)
        .attr("device", device)
        .child(Element::new("driver").attr("name", "qemu").attr("type", disk.format).attr_opt("discard", discard))
        .child(source)
        .child(Element::new("target").attr("dev", target).attr("bus", bus))
        .children(read_only.then(|| Element::new("readonly")))
        .children(disk.serial.as_ref().map(|serial| Element::leaf("serial", serial)))
        .children(boot(disk.boot_order))
        .child(Element::new("alias").attr("name", disk_alias(&disk.name)))
}

fn nic(nic: &TypedNic) -> Element {
    let (kind, source) = match &nic.source {
        NicSource::Network(name) => ("network", Element::new("source").attr("network", name)),
        NicSource::Bridge(name) => ("bridge", Element::new("source").attr("bridge", name)),
    };
    Element::new("interface")
        .attr("type", kind)
        .children(nic.mac.as_ref().map(|mac| Element::new("mac").attr("address", mac)))
        .child(source)
        .children(nic.model.as_ref().map(|model| Element::new("model").attr("type", model)))
        .children(boot(nic.boot_order))
        .child(Element::new("alias").attr("name", nic_alias(&nic.name)))
}

fn boot(order: Option<u32>) -> Option<Element> {
    order.map(|order| Element::new("boot").attr("order", order))
}

/// `<console>` repeats the first serial port, as libvirt itself writes it.
fn serial_console() -> [Element; 2] {
    let serial = Element::new("target").attr("type", "isa-serial").attr("port", 0);
    let console = Element::new("target").attr("type", "serial").attr("port", 0);
    [
        Element::new("serial").attr("type", "pty").child(serial),
        Element::new("console").attr("type", "pty").child(console),
    ]
}

fn agent_channel() -> Element {
    let target = Element::new("target").attr("type", "virtio").attr("name", "org.qemu.guest_agent.0");
    Element::new("channel").attr("type", "unix").child(target)
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg { .. } => "qemu",
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Q35 => "q35",
            Self::Pc => "pc",
        })
    }
}
