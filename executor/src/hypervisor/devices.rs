//! Devices that a guest can be given, out of libvirt's documents. Pure.

use std::collections::BTreeSet;

use kubevmm_analyser::tree::{Element, Tree};
use kubevmm_api::hypervisor::{DeviceBus, HostDevice};

/// Longest name and address that is taken; real ones have some 60 characters.
const LONGEST: usize = 128;
/// Longest description; more is cut.
const LONGEST_DESCRIPTION: usize = 80;
/// Most types of mediated devices of one device.
const MOST_TYPES: usize = 64;
/// Classes of PCI bridges that belong to the host: to its CPU, to ISA, and to other PCI devices. Other bridges may be any
/// device.
const BRIDGES: [u32; 3] = [0x0600, 0x0601, 0x0604];
/// Vendor and products of the hubs that each USB controller has itself, of USB 1, 2 and 3. Linux makes other devices of this
/// vendor (the Linux Foundation), which are none.
const ROOT_HUB_VENDOR: &str = "1d6b";
const ROOT_HUBS: [&str; 3] = ["0001", "0002", "0003"];

/// Whether a device of this name may be one that a guest can be given, as far as its name tells.
pub(super) fn may_be_one(name: &str) -> bool {
    ["pci_", "usb_", "mdev_"].iter().any(|prefix| name.starts_with(prefix))
}

/// The device of a document; `None` of what cannot be given away: bridges, hubs that belong to controllers, and what is
/// neither on PCI nor USB nor mediated.
pub(super) fn read(xml: &str) -> Option<HostDevice> {
    let root = Tree::from_xml(xml).ok()?.root;
    let name = bounded(&root.text_at(&["name"])?)?;
    root.all("capability").find_map(|capability| match capability.attribute("type")? {
        "pci" => pci(&name, capability),
        "usb_device" => usb(&name, capability),
        "mdev" => mdev(&name, &root, capability),
        _ => None,
    })
}

/// Where a device is: its bus and its address, in the words of [`HostDevice`].
pub(super) type Place = (DeviceBus, String);

/// The host's devices that a running domain has been given, out of its document. Of a USB device that is named by what it
/// is, libvirt adds where it has found it.
pub(super) fn held(domain: &str) -> BTreeSet<Place> {
    let Ok(Tree { root, .. }) = Tree::from_xml(domain) else { return BTreeSet::new() };
    let Some(devices) = root.find("devices") else { return BTreeSet::new() };
    let place = |device: &Element| {
        let address = device.at(&["source", "address"])?;
        let part = |part: &str| {
            let text = address.attribute(part)?.trim();
            if text.starts_with("0x") { hexadecimal(text) } else { text.parse().ok() }
        };
        let pci =
            || Some((DeviceBus::PCI, pci_address(part("domain")?, part("bus")?, part("slot")?, part("function")?)));
        match (device.name(), device.attribute("type")?) {
            ("hostdev", "pci") | ("interface", "hostdev") | ("disk", "nvme") => pci(),
            ("hostdev", "usb") => Some((DeviceBus::USB, usb_address(part("bus")?, part("device")?))),
            ("hostdev", "mdev") => Some((DeviceBus::MDEV, bounded(address.attribute("uuid")?)?)),
            _ => None,
        }
    };
    devices.elements().filter_map(place).collect()
}

fn pci_address(domain: u32, bus: u32, slot: u32, function: u32) -> String {
    format!("{domain:04x}:{bus:02x}:{slot:02x}.{function:x}")
}

fn usb_address(bus: u32, device: u32) -> String {
    format!("{bus}:{device}")
}

fn pci(name: &str, capability: &Element) -> Option<HostDevice> {
    let class = capability.text_at(&["class"]).and_then(|class| hexadecimal(&class));
    let inner =
        |kind: &'static str| capability.all("capability").find(move |inner| inner.attribute("type") == Some(kind));
    if class.is_some_and(|class| BRIDGES.contains(&(class >> 8))) || inner("pci-bridge").is_some() {
        return None;
    }
    let part = |part: &str| capability.text_at(&[part])?.trim().parse::<u32>().ok();
    let address = pci_address(part("domain")?, part("bus")?, part("slot")?, part("function")?);
    let functions = inner("virt_functions").and_then(|inner| inner.attribute("maxCount")?.parse().ok());
    let physical = inner("phys_function").and_then(|inner| inner.find("address")).and_then(|address| {
        let part = |part: &str| hexadecimal(address.attribute(part)?);
        let (domain, bus) = (part("domain")?, part("bus")?);
        Some(format!("pci_{domain:04x}_{bus:02x}_{:02x}_{:x}", part("slot")?, part("function")?))
    });
    Some(HostDevice {
        name: name.to_owned(),
        bus: DeviceBus::PCI,
        address,
        vendor_id: id(capability, "vendor"),
        product_id: id(capability, "product"),
        description: description(capability),
        iommu_group: iommu_group(capability),
        max_virtual_functions: functions,
        parent: physical,
        mdev_types: types(inner("mdev_types")),
        used_by: None,
    })
}

fn usb(name: &str, capability: &Element) -> Option<HostDevice> {
    let part = |part: &str| capability.text_at(&[part])?.trim().parse::<u32>().ok();
    let (vendor_id, product_id) = (id(capability, "vendor"), id(capability, "product"));
    let is_root_hub = product_id.as_deref().is_some_and(|product| ROOT_HUBS.contains(&product));
    if is_root_hub && vendor_id.as_deref() == Some(ROOT_HUB_VENDOR) {
        return None;
    }
    Some(HostDevice {
        name: name.to_owned(),
        bus: DeviceBus::USB,
        address: usb_address(part("bus")?, part("device")?),
        vendor_id,
        product_id,
        description: description(capability),
        ..Default::default()
    })
}

fn mdev(name: &str, root: &Element, capability: &Element) -> Option<HostDevice> {
    Some(HostDevice {
        name: name.to_owned(),
        bus: DeviceBus::MDEV,
        address: bounded(&capability.text_at(&["uuid"])?)?,
        iommu_group: iommu_group(capability),
        parent: root.text_at(&["parent"]).and_then(|parent| bounded(&parent)),
        mdev_types: types(Some(capability)),
        ..Default::default()
    })
}

/// `0x8086` as `8086`.
fn id(capability: &Element, what: &str) -> Option<String> {
    let number = hexadecimal(capability.find(what)?.attribute("id")?)?;
    Some(format!("{number:04x}"))
}

fn hexadecimal(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

/// Vendor and product in words, as far as they are known.
fn description(capability: &Element) -> Option<String> {
    let words = |what: &str| capability.text_at(&[what]).map(|text| text.trim().to_owned()).unwrap_or_default();
    let text = format!("{} {}", words("vendor"), words("product"));
    let text = text.trim();
    let cut: String = text.chars().filter(|c| !c.is_control()).take(LONGEST_DESCRIPTION).collect();
    (!cut.is_empty()).then_some(cut)
}

fn iommu_group(capability: &Element) -> Option<i32> {
    capability.find("iommuGroup")?.attribute("number")?.parse().ok()
}

fn types(holder: Option<&Element>) -> Vec<String> {
    let types = holder.iter().flat_map(|holder| holder.all("type")).filter_map(|it| bounded(it.attribute("id")?));
    types.collect::<BTreeSet<_>>().into_iter().take(MOST_TYPES).collect()
}

/// A name that can be one; a part of it would be another's.
fn bounded(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty() && text.len() <= LONGEST).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, rest: &str) -> Option<HostDevice> {
        read(&format!("<device><name>{name}</name><path>/sys/devices/x</path>{rest}</device>"))
    }

    /// Documents of libvirt 11.3, of a host whose disk and NIC are virtio ones.
    #[test]
    fn devices_of_a_host() {
        let text = include_str!("../../testdata/node-devices.xml");
        let documents: Vec<_> = text.split_inclusive("</device>\n").collect();
        let devices: Vec<_> = documents.iter().filter_map(|xml| read(xml)).collect();
        let addresses: Vec<_> = devices.iter().map(|device| device.address.as_str()).collect();
        let expected = ["0000:00:01.0", "0000:00:02.0", "0000:00:03.0", "0000:00:04.0", "0000:00:05.0"];
        assert_eq!((documents.len(), addresses.as_slice()), (10, expected.as_slice()), "no bridge, no disk, no NIC");
        let disk = &devices[1];
        assert_eq!((disk.vendor_id.as_deref(), disk.product_id.as_deref()), (Some("1af4"), Some("1042")));
        assert_eq!((disk.name.as_str(), disk.bus, &disk.description), ("pci_0000_00_02_0", DeviceBus::PCI, &None));
        assert!(documents.iter().filter_map(|xml| read(xml)).all(|device| may_be_one(&device.name)));
        assert!(!may_be_one("net_vnet0_fe_54_00_00_00_01"));
    }

    #[test]
    fn a_nic_with_virtual_functions_and_one_of_them() {
        let pci = |slot: u8, rest: &str| {
            format!(
                "<capability type='pci'><class>0x020000</class><domain>0</domain><bus>65</bus><slot>{slot}</slot>\
                 <function>0</function><product id='0x1572'>Ethernet Controller X710</product>\
                 <vendor id='0x8086'>Intel Corporation</vendor>{rest}<iommuGroup number='12'>\
                 <address domain='0x0000' bus='0x41' slot='0x00' function='0x0'/></iommuGroup></capability>"
            )
        };
        let nic = device("pci_0000_41_00_0", &pci(0, "<capability type='virt_functions' maxCount='32'/>")).unwrap();
        assert_eq!((nic.address.as_str(), nic.iommu_group), ("0000:41:00.0", Some(12)));
        assert_eq!((nic.max_virtual_functions, nic.parent), (Some(32), None));
        assert_eq!(nic.description.as_deref(), Some("Intel Corporation Ethernet Controller X710"));
        let physical = "<capability type='phys_function'>\
                        <address domain='0x0000' bus='0x41' slot='0x00' function='0x0'/></capability>";
        let function = device("pci_0000_41_02_0", &pci(2, physical)).unwrap();
        assert_eq!(function.parent.as_deref(), Some("pci_0000_41_00_0"));
    }

    #[test]
    fn bridges_are_the_hosts_and_what_calls_itself_another_one_is_not() {
        let of = |class: &str, rest: &str| {
            let address = "<domain>0</domain><bus>0</bus><slot>5</slot><function>0</function>";
            device(
                "pci_0000_00_05_0",
                &format!("<capability type='pci'><class>{class}</class>{address}{rest}</capability>"),
            )
        };
        for class in ["0x060000", "0x060100", "0x060400", "0x060401"] {
            assert_eq!(of(class, ""), None, "{class}");
        }
        assert_eq!(of("0x060900", "<capability type='pci-bridge'/>"), None);
        assert!(of("0x068000", "").is_some());
    }

    #[test]
    fn a_graphics_card_and_what_it_is_cut_into() {
        let card = device(
            "pci_0000_00_02_0",
            "<capability type='pci'><class>0x030000</class><domain>0</domain><bus>0</bus><slot>2</slot>\
             <function>0</function><capability type='mdev_types'><type id='i915-GVTg_V5_8'><name>GVTg_V5_8</name>\
             <availableInstances>2</availableInstances></type><type id='i915-GVTg_V5_4'/></capability></capability>",
        );
        assert_eq!(card.unwrap().mdev_types, ["i915-GVTg_V5_4", "i915-GVTg_V5_8"]);
        let part = device(
            "mdev_4b20d080_1b54_4048_85b3_a6a62d165c01_0000_00_02_0",
            "<parent>pci_0000_00_02_0</parent><capability type='mdev'><type id='i915-GVTg_V5_4'/>\
             <uuid>4b20d080-1b54-4048-85b3-a6a62d165c01</uuid><iommuGroup number='14'/></capability>",
        );
        let part = part.unwrap();
        assert_eq!((part.bus, part.iommu_group), (DeviceBus::MDEV, Some(14)));
        assert_eq!(part.address, "4b20d080-1b54-4048-85b3-a6a62d165c01");
        assert_eq!(
            (part.parent.as_deref(), part.mdev_types),
            (Some("pci_0000_00_02_0"), vec!["i915-GVTg_V5_4".into()])
        );
    }

    #[test]
    fn usb_devices_but_no_root_hubs() {
        let usb = |vendor: &str, product: &str| {
            format!(
                "<capability type='usb_device'><bus>1</bus><device>4</device><product id='{product}'>YubiKey</product>\
                 <vendor id='{vendor}'>Yubico.com</vendor></capability>"
            )
        };
        let key = device("usb_1_4", &usb("0x1050", "0x0002")).unwrap();
        assert_eq!((key.bus, key.address.as_str()), (DeviceBus::USB, "1:4"));
        assert_eq!(key.description.as_deref(), Some("Yubico.com YubiKey"));
        for product in ["0x0001", "0x0002", "0x0003"] {
            assert_eq!(device("usb_usb1", &usb("0x1d6b", product)), None);
        }
        assert!(device("usb_1_5", &usb("0x1d6b", "0x0104")).is_some(), "a composite gadget");
        let interface = "<capability type='usb'><number>0</number><class>3</class></capability>";
        assert_eq!(device("usb_1_4_1_0", interface), None);
    }

    #[test]
    fn what_a_running_domain_has() {
        let pci =
            |bus: &str| format!("<source><address domain='0x0000' bus='{bus}' slot='0x02' function='0x1'/></source>");
        let domain = format!(
            "<domain type='kvm'><devices><hostdev mode='subsystem' type='pci'>{}</hostdev>\
             <interface type='hostdev'>{}</interface><disk type='nvme' device='disk'>{}</disk>\
             <hostdev mode='subsystem' type='usb'><source><vendor id='0x1050'/><product id='0x0407'/>\
             <address bus='1' device='4'/></source></hostdev><hostdev mode='subsystem' type='mdev'><source>\
             <address uuid='4b20d080-1b54-4048-85b3-a6a62d165c01'/></source></hostdev><interface type='network'/>\
             <hostdev mode='subsystem' type='usb'><source/></hostdev></devices></domain>",
            pci("0x41"),
            pci("0x42"),
            pci("0x43")
        );
        let pci = ["0000:41:02.1", "0000:42:02.1", "0000:43:02.1"].map(|address| (DeviceBus::PCI, address.to_owned()));
        let others = [(DeviceBus::USB, "1:4"), (DeviceBus::MDEV, "4b20d080-1b54-4048-85b3-a6a62d165c01")];
        let others = others.map(|(bus, address)| (bus, address.to_owned()));
        assert_eq!(held(&domain), pci.into_iter().chain(others).collect());
        assert!(held("no xml").is_empty() && held("<domain/>").is_empty());
    }

    #[test]
    fn what_is_no_device_and_what_is_too_long() {
        assert_eq!(read("no xml"), None);
        assert_eq!(device("pci_x", "<capability type='pci'><class>0x020000</class></capability>"), None);
        assert_eq!(device(&"x".repeat(LONGEST + 1), "<capability type='usb_device'/>"), None);
        let long = format!(
            "<capability type='usb_device'><bus>1</bus><device>4</device><product>{}</product></capability>",
            "ü".repeat(1000)
        );
        assert_eq!(device("usb_1_4", &long).unwrap().description.unwrap().chars().count(), LONGEST_DESCRIPTION);
    }
}
