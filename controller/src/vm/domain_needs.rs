//! What `spec.domain` needs of a host: its CPU, machine, firmware, TPM and the host's devices. Pure.
//!
//! It is the analyser's YAML: attributes and children of an element are keys, an attribute of the name of a child leaves
//! the child the key `<name>`, and the text of an element that has attributes is its `value`.

use kubevmm_api::VirtualMachine;
use kubevmm_api::hypervisor::DeviceBus;
use kubevmm_api::requirements::{DeviceNeed, Requirements};
use serde_json::{Map, Value};

/// Adds what the domain needs to `needs`.
pub fn add(domain: &Map<String, Value>, needs: &mut Requirements) {
    let top = |key: &str| domain.get(key).unwrap_or(&Value::Null);
    needs.kvm = text(top("type")).as_deref() == Some("kvm");
    if let Some(machine) = text(child(child(top("os"), "type"), "machine")) {
        needs.machine = Some(machine);
    }
    if let Some(firmware) = firmware(top("os")) {
        needs.firmware = Some(firmware.into());
    }
    cpu(top("cpu"), needs);
    let devices = top("devices");
    needs.tpm_backend = list(devices, "tpms").find_map(|tpm| text(child(child(tpm, "backend"), "type")));
    let given = list(devices, "hostdevs").filter_map(host_device);
    needs.devices = given.chain(list(devices, "interfaces").filter_map(host_nic)).collect();
}

/// A CPU that libvirt is told not to check starts on every host, with what the host has of it.
fn cpu(cpu: &Value, needs: &mut Requirements) {
    if text(child(cpu, "check")).as_deref() == Some("none") {
        return;
    }
    // Without a mode, a CPU with a model is a custom one.
    if text(child(cpu, "mode")).is_none_or(|mode| mode == "custom") {
        needs.cpu_model = content(child(cpu, "model"));
    }
    // One that is forced is told to the guest whether the host has it or not.
    let required = |feature: &&Value| text(child(feature, "policy")).is_none_or(|policy| policy == "require");
    let mut features: Vec<String> =
        list(cpu, "features").filter(required).filter_map(|feature| text(child(feature, "name"))).collect();
    features.sort();
    features.dedup();
    needs.cpu_features = features;
}

/// Firmware that libvirt is to find. One that is named by its file is the administrator's business.
fn firmware(os: &Value) -> Option<&'static str> {
    match text(child(os, "firmware")).as_deref() {
        Some("bios") => return Some("bios"),
        Some("efi") => {}
        _ => return None,
    }
    let asked = list(child(os, "firmware"), "features")
        .chain(list(os.get("<firmware>").unwrap_or(&Value::Null), "features"))
        .any(|feature| {
            text(child(feature, "name")).as_deref() == Some("secure-boot") && is_on(child(feature, "enabled"))
        });
    Some(if asked || is_on(child(child(os, "loader"), "secure")) { "uefi-secure-boot" } else { "uefi" })
}

/// Whether the host keeps something of the domain beside its disks: a guest that loses the variables of its UEFI may not
/// find its system any more, and one that loses the state of its TPM not open its disks.
pub fn keeps_state(domain: &Map<String, Value>) -> bool {
    let top = |key: &str| domain.get(key).unwrap_or(&Value::Null);
    let os = top("os");
    let uefi = text(child(os, "firmware")).as_deref() == Some("efi")
        || !child(os, "nvram").is_null()
        || text(child(child(os, "loader"), "type")).as_deref() == Some("pflash");
    let emulated = |tpm: &Value| text(child(child(tpm, "backend"), "type")).as_deref() == Some("emulator");
    uefi || list(top("devices"), "tpms").any(emulated)
}

/// The same of a VM: by its spec, or by what it was last started with.
pub fn has_state(vm: &VirtualMachine) -> bool {
    let effective = vm.status.as_ref().and_then(|status| status.effective.as_ref());
    vm.spec.domain.iter().chain(effective.map(|effective| &effective.domain)).any(keeps_state)
}

fn host_device(device: &Value) -> Option<DeviceNeed> {
    if text(child(device, "mode")).is_some_and(|mode| mode != "subsystem") {
        return None;
    }
    let source = child(device, "source");
    let address = child(source, "address");
    match text(child(device, "type"))?.as_str() {
        "pci" => pci(address),
        "mdev" => {
            let uuid = text(child(address, "uuid"))?.to_ascii_lowercase();
            Some(DeviceNeed { bus: DeviceBus::MDEV, address: Some(uuid), ..Default::default() })
        }
        // The guest starts without it.
        "usb" if text(child(source, "startupPolicy")).as_deref() == Some("optional") => None,
        "usb" => {
            let place = number(child(address, "bus")).zip(number(child(address, "device")));
            let id = |of: &str| number(child(child(source, of), "id")).map(|id| format!("{id:04x}"));
            let need = DeviceNeed {
                bus: DeviceBus::USB,
                address: place.map(|(bus, device)| format!("{bus}:{device}")),
                vendor_id: id("vendor"),
                product_id: id("product"),
            };
            (need.address.is_some() || need.vendor_id.is_some()).then_some(need)
        }
        _ => None,
    }
}

/// A NIC of the host's that the guest is given whole.
fn host_nic(nic: &Value) -> Option<DeviceNeed> {
    if text(child(nic, "type"))? != "hostdev" {
        return None;
    }
    let address = child(child(nic, "source"), "address");
    text(child(address, "type")).is_none_or(|kind| kind == "pci").then(|| pci(address))?
}

fn pci(address: &Value) -> Option<DeviceNeed> {
    let part = |key: &str| number(child(address, key));
    let (bus, slot) = (part("bus")?, part("slot")?);
    let (domain, function) = (part("domain").unwrap_or(0), part("function").unwrap_or(0));
    let address = format!("{domain:04x}:{bus:02x}:{slot:02x}.{function:x}");
    Some(DeviceNeed { bus: DeviceBus::PCI, address: Some(address), ..Default::default() })
}

/// The attribute or child `key` of an element; null when it has none.
fn child<'a>(element: &'a Value, key: &str) -> &'a Value {
    const NONE: &Value = &Value::Null;
    let Value::Object(keys) = element else { return NONE };
    keys.get(key).or_else(|| keys.get(&format!("<{key}>"))).unwrap_or(NONE)
}

/// The items of a list, which can also be written under the name of one of them, and one item without a list.
fn list<'a>(element: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    let found = [child(element, key), child(element, key.trim_end_matches('s'))];
    found.into_iter().flat_map(|found| match found {
        Value::Array(items) => items.as_slice(),
        Value::Null => &[],
        one => std::slice::from_ref(one),
    })
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The text of an element.
fn content(element: &Value) -> Option<String> {
    text(element).or_else(|| text(child(element, "value")))
}

fn is_on(value: &Value) -> bool {
    matches!(value, Value::Bool(true)) || matches!(value.as_str(), Some("yes" | "on"))
}

/// A number as libvirt reads it: with 0x hexadecimal, with 0 octal.
fn number(value: &Value) -> Option<u64> {
    let text = match value {
        Value::Number(number) => return number.as_u64(),
        Value::String(text) => text.trim(),
        _ => return None,
    };
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u64::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(yaml: &str) -> Requirements {
        let mut needs = Requirements::default();
        add(&serde_yaml_ng::from_str(yaml).unwrap(), &mut needs);
        needs
    }

    #[test]
    fn the_cpu_is_what_libvirt_would_check() {
        let custom = needs(
            "cpu: {mode: custom, match: exact, model: {fallback: forbid, value: Skylake-Client}, features: \
             [{policy: require, name: vmx}, {policy: disable, name: hle}, {policy: force, name: avx}, {name: aes}]}",
        );
        assert_eq!(custom.cpu_model.as_deref(), Some("Skylake-Client"));
        assert_eq!(custom.cpu_features, ["aes", "vmx"], "not what is forced or disabled");
        assert_eq!(needs("cpu: {model: EPYC}").cpu_model.as_deref(), Some("EPYC"));
        let host = needs("cpu: {mode: host-model, features: [{policy: require, name: vmx}]}");
        assert_eq!((host.cpu_model, host.cpu_features), (None, vec!["vmx".to_owned()]));
        assert_eq!(needs("cpu: {mode: host-passthrough}"), Requirements::default());
        let unchecked = "cpu: {mode: custom, check: none, model: EPYC, features: [{policy: require, name: vmx}]}";
        assert_eq!(needs(unchecked), Requirements::default(), "it starts anywhere");
    }

    #[test]
    fn uefi_and_an_emulated_tpm_leave_state_on_the_host() {
        let keeps = |yaml: &str| keeps_state(&serde_yaml_ng::from_str(yaml).unwrap());
        assert!(keeps("os: {firmware: efi}"));
        assert!(keeps("os: {loader: {type: pflash, value: /x}}"));
        assert!(keeps("os: {nvram: /var/lib/x}"));
        assert!(keeps("devices: {tpm: {backend: {type: emulator}}}"));
        assert!(!keeps("os: {firmware: bios}\ndevices: {tpms: [{backend: {type: passthrough}}]}"));
    }

    #[test]
    fn one_device_needs_no_list() {
        let tpm = "{backend: {type: emulator}}";
        for devices in [format!("tpm: {tpm}"), format!("tpms: {tpm}"), format!("tpm: [{tpm}]")] {
            assert_eq!(needs(&format!("devices: {{{devices}}}")).tpm_backend.as_deref(), Some("emulator"), "{devices}");
        }
    }

    #[test]
    fn machine_firmware_and_accelerator() {
        let machine = needs("os: {type: {arch: x86_64, machine: pc-q35-10.0, value: hvm}}\ntype: kvm");
        assert_eq!((machine.machine.as_deref(), machine.kvm), (Some("pc-q35-10.0"), true));
        assert_eq!(needs("os: {type: hvm}\ntype: qemu"), Requirements::default());
        let firmware = |os: &str| needs(&format!("os: {os}")).firmware;
        assert_eq!(firmware("{firmware: efi}").as_deref(), Some("uefi"));
        let secure = "{firmware: efi, <firmware>: {features: [{enabled: true, name: secure-boot}]}}";
        assert_eq!(firmware(secure).as_deref(), Some("uefi-secure-boot"));
        let lax =
            "{firmware: efi, <firmware>: {features: [{enabled: false, name: secure-boot}, {enabled: true, name: x}]}}";
        assert_eq!(firmware(lax).as_deref(), Some("uefi"));
        assert_eq!(firmware("{firmware: efi, loader: {secure: true}}").as_deref(), Some("uefi-secure-boot"));
        assert_eq!(firmware("{loader: {secure: true, type: pflash, value: /x}}"), None, "a file of the host");
    }

    #[test]
    fn the_hosts_devices_are_named_as_a_hypervisor_names_them() {
        let pci = "{mode: subsystem, type: pci, managed: true, source: {address: {domain: '0x0000', bus: '0x03', slot: 0, \
                   function: '0x1'}}}";
        let by_id = "{mode: subsystem, type: usb, source: {vendor: {id: '0x1234'}, product: {id: '0xbeef'}}}";
        let by_place = "{mode: subsystem, type: usb, source: {address: {bus: '0x01', device: '010'}}}";
        let mdev = "{mode: subsystem, type: mdev, source: {address: {uuid: C2177883-F1BB-47f0-914d-32a22e3a8804}}}";
        let optional = "{type: usb, source: {startupPolicy: optional, vendor: {id: 1}, product: {id: 2}}}";
        let other = "{mode: capabilities, type: storage, source: {block: /dev/sdc}}";
        let nic = "{type: hostdev, source: {<address>: {type: pci, bus: '0x00', slot: '0x07'}}}";
        let all = needs(&format!(
            "devices: {{tpms: [{{model: tpm-crb, backend: {{type: emulator, version: '2.0'}}}}], interfaces: [{nic}, \
             {{type: network}}], hostdevs: [{pci}, {by_id}, {by_place}, {mdev}, {optional}, {other}]}}"
        ));
        assert_eq!(all.tpm_backend.as_deref(), Some("emulator"));
        let need = |bus, address: Option<&str>, vendor: Option<&str>, product: Option<&str>| DeviceNeed {
            bus,
            address: address.map(Into::into),
            vendor_id: vendor.map(Into::into),
            product_id: product.map(Into::into),
        };
        assert_eq!(
            all.devices,
            [
                need(DeviceBus::PCI, Some("0000:03:00.1"), None, None),
                need(DeviceBus::USB, None, Some("1234"), Some("beef")),
                need(DeviceBus::USB, Some("1:8"), None, None),
                need(DeviceBus::MDEV, Some("c2177883-f1bb-47f0-914d-32a22e3a8804"), None, None),
                need(DeviceBus::PCI, Some("0000:00:07.0"), None, None),
            ]
        );
    }

    #[test]
    fn what_makes_no_sense_needs_nothing() {
        for odd in
            ["devices: 7", "devices: {hostdevs: {type: pci}}", "cpu: [1]", "os: x", "devices: {hostdevs: [1, {}]}"]
        {
            assert_eq!(needs(odd), Requirements::default(), "{odd}");
        }
    }
}
