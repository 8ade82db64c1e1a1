//! What typed fields can say of a domain.

use std::collections::BTreeSet;

use crate::lower::{
    Accelerator, CpuInput, CpuModel, DiskBus, DiskDevice, DiskLocation, Firmware, Format, HostFacts, Machine,
    NicSource, Typed, TypedDisk, TypedNic, disk_alias, nic_alias, set_alias,
};
use crate::tree::{Element, Node};

use super::IsTyped;

/// Memory of a domain that says none in a way that is understood: the least that a spec can say.
const LEAST_MEMORY: u64 = 1 << 20;
/// A name in a spec is a DNS label.
const MAX_NAME: usize = 63;

/// Reads whatever typed fields can say; each has a value, also where the domain has none that they could say. Of the
/// disks, those are read of which `is_typed` says so.
pub(super) fn typed(root: &Element, is_typed: &IsTyped<'_>) -> Typed {
    let accelerator = accelerator(root);
    Typed {
        host: HostFacts {
            accelerator,
            arch: root.at(&["os", "type"]).and_then(|t| t.attribute("arch")).unwrap_or("x86_64").to_owned(),
            emulator: emulator(root),
        },
        machine: machine(root),
        cpu: cpu(root, accelerator),
        memory_bytes: memory(root).unwrap_or(LEAST_MEMORY),
        firmware: Firmware::Bios,
        disks: disks(root, is_typed),
        nics: nics(root),
    }
}

/// Gives the devices that are typed the aliases by which `spec.domain` means them.
pub(super) fn relabel(root: &mut Element, typed: &Typed, is_typed: &IsTyped<'_>) {
    let Some(devices) =
        only_devices(root).is_some().then(|| root.elements_mut().find(|e| e.name() == "devices")).flatten()
    else {
        return;
    };
    let mut disks = typed.disks.iter();
    let mut nics = typed.nics.iter();
    for device in devices.elements_mut() {
        let alias = match device.name() {
            "disk" if typed_location(device, is_typed).is_some() => disks.next().map(|disk| disk_alias(&disk.name)),
            "interface" if source(device).is_some() => nics.next().map(|nic| nic_alias(&nic.name)),
            _ => None,
        };
        if alias.is_some() {
            set_alias(device, alias.as_deref());
        }
    }
}

fn accelerator(root: &Element) -> Accelerator {
    if root.attribute("type") == Some("kvm") {
        return Accelerator::Kvm;
    }
    let cache = root.at(&["features", "tcg", "tb-cache"]).filter(|cache| cache.attribute("unit") == Some("MiB"));
    Accelerator::Tcg { tb_cache_mib: cache.and_then(|cache| cache.own_text().parse().ok()) }
}

fn machine(root: &Element) -> Machine {
    let machine = root.at(&["os", "type"]).and_then(|t| t.attribute("machine")).unwrap_or_default();
    let is_pc = machine == "pc" || machine.starts_with("pc-") && !machine.contains("q35");
    if is_pc { Machine::Pc } else { Machine::Q35 }
}

fn emulator(root: &Element) -> Option<String> {
    let mut found = only_devices(root)?.all("emulator");
    let (emulator, None) = (found.next()?, found.next()) else { return None };
    let path = emulator.own_text();
    (emulator.attributes().is_empty() && emulator.elements().next().is_none() && !path.is_empty())
        .then(|| path.into_owned())
}

fn cpu(root: &Element, accelerator: Accelerator) -> CpuInput {
    let vcpu = root.find("vcpu");
    let max: Option<u32> = vcpu.and_then(|v| v.own_text().parse().ok());
    let max_vcpus = max.unwrap_or(1).max(1);
    let current = vcpu.and_then(|v| v.attribute("current")).and_then(|current| current.parse().ok());
    let vcpus = current.filter(|current| (1..=max_vcpus).contains(current)).unwrap_or(max_vcpus);
    let cpu = root.find("cpu");
    let named = || cpu.and_then(|cpu| cpu.find("model")).map(|model| model.own_text().into_owned());
    let model = match cpu.and_then(|cpu| cpu.attribute("mode")) {
        Some("host-model") => CpuModel::HostModel,
        Some("host-passthrough") => CpuModel::HostPassthrough,
        Some("maximum") => CpuModel::Maximum,
        Some("custom") | None => match named().filter(|name| !name.is_empty()) {
            Some(name) => CpuModel::Named(name),
            None => CpuModel::default_for(accelerator),
        },
        Some(_) => CpuModel::default_for(accelerator),
    };
    CpuInput { vcpus, max_vcpus, model }
}

fn memory(root: &Element) -> Option<u64> {
    root.find("memory").and_then(bytes).filter(|bytes| *bytes > 0)
}

/// The size that an element of a domain says; without a unit, libvirt counts KiB.
pub(crate) fn bytes(element: &Element) -> Option<u64> {
    let number: u64 = element.own_text().parse().ok()?;
    let factor: u64 = match element.attribute("unit").unwrap_or("KiB") {
        "b" | "bytes" => 1,
        "KB" => 1000,
        "k" | "K" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "T" | "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// The devices, if they stand in one element.
fn only_devices(root: &Element) -> Option<&Element> {
    let mut found = root.all("devices");
    match (found.next(), found.next()) {
        (Some(devices), None) if is_plain(devices) => Some(devices),
        _ => None,
    }
}

/// Whether there is no text among the elements.
fn is_plain(element: &Element) -> bool {
    element.nodes().iter().all(|node| matches!(node, Node::Element(_)))
}

/// A child of which there is just one.
fn only<'a>(device: &'a Element, name: &'a str) -> Option<&'a Element> {
    let mut found = device.all(name);
    found.next().filter(|_| found.next().is_none())
}

/// Whether a device can be typed at all: the parts by which it is known are there once at most.
fn is_regular(device: &Element) -> bool {
    let alias = device.find("alias");
    is_plain(device)
        && ["alias", "target", "source", "driver"].iter().all(|name| device.all(name).nth(1).is_none())
        && alias.is_none_or(|a| a.attributes().len() == 1 && a.attribute("name").is_some() && a.nodes().is_empty())
}

/// Where a disk lies, for one that typed fields can say.
fn location(disk: &Element) -> Option<DiskLocation> {
    let is_disk = matches!(disk.attribute("device"), None | Some("disk" | "cdrom"));
    if !is_disk || !is_regular(disk) {
        return None;
    }
    let source = only(disk, "source")?;
    let attribute = |name| source.attribute(name).filter(|value| !value.is_empty()).map(str::to_owned);
    match disk.attribute("type")? {
        "file" => attribute("file").map(DiskLocation::File),
        "block" => attribute("dev").map(DiskLocation::Block),
        "volume" => Some(DiskLocation::Volume { pool: attribute("pool")?, volume: attribute("volume")? }),
        _ => None,
    }
}

/// Where a disk lies that is to be typed.
fn typed_location(disk: &Element, is_typed: &IsTyped<'_>) -> Option<DiskLocation> {
    location(disk).filter(|location| is_typed(disk, location))
}

/// What a NIC is connected to, for one that typed fields can say.
fn source(nic: &Element) -> Option<NicSource> {
    if !is_regular(nic) {
        return None;
    }
    let source = only(nic, "source")?;
    let attribute = |name| source.attribute(name).filter(|value| !value.is_empty()).map(str::to_owned);
    match nic.attribute("type")? {
        "network" => attribute("network").map(NicSource::Network),
        "bridge" => attribute("bridge").map(NicSource::Bridge),
        _ => None,
    }
}

fn disks(root: &Element, is_typed: &IsTyped<'_>) -> Vec<TypedDisk> {
    let Some(devices) = only_devices(root) else { return Vec::new() };
    let mut names =
        Names::new(DISK_PREFIX, devices.all("disk").map(|disk| (disk, typed_location(disk, is_typed).is_some())));
    let target_name =
        |disk: &Element| disk.find("target").and_then(|t| t.attribute("dev")).unwrap_or("disk").to_owned();
    let typed = devices.all("disk").filter_map(|disk| Some((disk, typed_location(disk, is_typed)?)));
    typed
        .map(|(disk, location)| {
            let alias = alias(disk);
            let device = if disk.attribute("device") == Some("cdrom") { DiskDevice::Cdrom } else { DiskDevice::Disk };
            let target = disk.find("target");
            TypedDisk {
                name: names.name(alias.as_deref(), || target_name(disk)),
                alias,
                location,
                format: match disk.find("driver").and_then(|driver| driver.attribute("type")) {
                    Some("qcow2") => Format::Qcow2,
                    _ => Format::Raw,
                },
                device,
                bus: match target.and_then(|target| target.attribute("bus")) {
                    Some("scsi") => DiskBus::Scsi,
                    Some("sata") => DiskBus::Sata,
                    _ => DiskBus::Virtio,
                },
                read_only: device == DiskDevice::Cdrom || disk.find("readonly").is_some(),
                boot_order: boot_order(disk),
                serial: serial(disk),
            }
        })
        .collect()
}

fn nics(root: &Element) -> Vec<TypedNic> {
    let Some(devices) = only_devices(root) else { return Vec::new() };
    let mut names = Names::new(NIC_PREFIX, devices.all("interface").map(|nic| (nic, source(nic).is_some())));
    let typed = devices.all("interface").filter_map(|nic| Some((nic, source(nic)?)));
    typed
        .enumerate()
        .map(|(index, (nic, source))| {
            let alias = alias(nic);
            let attribute = |child: &str, name: &str| only(nic, child)?.attribute(name).map(str::to_owned);
            TypedNic {
                name: names.name(alias.as_deref(), || format!("net{index}")),
                alias,
                source,
                mac: attribute("mac", "address"),
                model: attribute("model", "type"),
                boot_order: boot_order(nic),
            }
        })
        .collect()
}

fn alias(device: &Element) -> Option<String> {
    device.find("alias").and_then(|alias| alias.attribute("name")).map(str::to_owned)
}

fn boot_order(device: &Element) -> Option<u32> {
    only(device, "boot")?.attribute("order")?.parse().ok()
}

fn serial(disk: &Element) -> Option<String> {
    let serial = only(disk, "serial")?;
    let text = serial.own_text();
    (serial.attributes().is_empty() && serial.elements().next().is_none() && !text.is_empty())
        .then(|| text.into_owned())
}

const DISK_PREFIX: &str = "ua-disk-";
const NIC_PREFIX: &str = "ua-nic-";

/// Names of devices of one kind, each given once.
struct Names {
    prefix: &'static str,
    /// Names of our aliases: only the devices that have these may have the names.
    ours: BTreeSet<String>,
    given: BTreeSet<String>,
}

impl Names {
    /// `devices` are all of the kind; one that is not typed keeps its alias, so its name is given.
    fn new<'a>(prefix: &'static str, devices: impl Iterator<Item = (&'a Element, bool)>) -> Self {
        let mut names = Self { prefix, ours: BTreeSet::new(), given: BTreeSet::new() };
        for (device, is_typed) in devices {
            if let Some(name) = alias(device).as_deref().and_then(|alias| alias.strip_prefix(prefix)) {
                let set = if is_typed { &mut names.ours } else { &mut names.given };
                set.insert(name.to_owned());
            }
        }
        names
    }

    /// A device's name: that of our alias, else one made of its alias or of what else it is known by.
    fn name(&mut self, alias: Option<&str>, other: impl FnOnce() -> String) -> String {
        let ours = alias.and_then(|alias| alias.strip_prefix(self.prefix)).filter(|name| label(name) == *name);
        if let Some(name) = ours.filter(|name| self.given.insert((*name).to_owned())) {
            return name.to_owned();
        }
        let wanted = label(&alias.map_or_else(other, |alias| alias.trim_start_matches("ua-").to_owned()));
        let mut name = wanted.clone();
        let mut number = 1;
        while self.ours.contains(&name) || !self.given.insert(name.clone()) {
            number += 1;
            let suffix = format!("-{number}");
            name = wanted.chars().take(MAX_NAME - suffix.len()).collect::<String>() + &suffix;
        }
        name
    }
}

/// The text as a DNS label.
fn label(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let label: String = lower.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(MAX_NAME).collect();
    let label = label.trim_matches('-');
    if label.is_empty() { "device".to_owned() } else { label.to_owned() }
}
