//! What libvirt fills in by itself, as of 11.3 for QEMU: at the definition of a domain, and at its start.

use super::Mode;
use crate::tree::Element;

/// Whether libvirt drops an element of the first domain because it says nothing.
pub(super) fn says_nothing(place: &[&str], was: &Element) -> bool {
    match place {
        ["devices", _, "alias"] => !is_user_alias(was),
        ["devices", "disk", "mirror"] => true,
        // Says only what to do where the host's model cannot be had.
        ["cpu", "model"] => was.nodes().is_empty(),
        [
            "metadata" | "title" | "description" | "cpu" | "cputune" | "blkiotune" | "memtune" | "numatune"
            | "resource",
        ]
        | ["devices", _, "source" | "backingStore" | "driver" | "target"] => was.is_empty(),
        _ => false,
    }
}

/// Whether libvirt adds this element. `from` and `to` are its parents.
pub(super) fn element(place: &[&str], is: &Element, from: &Element, to: &Element, mode: Mode) -> bool {
    match mode {
        Mode::Exact => false,
        Mode::Desired => at_definition(place, is, from, to),
        Mode::Live => at_definition(place, is, from, to) || at_start(place, from),
    }
}

fn at_definition(place: &[&str], is: &Element, from: &Element, to: &Element) -> bool {
    let text = is.own_text();
    match place {
        ["uuid"] => true,
        ["currentMemory"] => to.find("memory").is_some_and(|memory| memory.own_text() == text),
        ["on_poweroff" | "on_crash"] => text == "destroy",
        ["on_reboot"] => text == "restart",
        ["vcpu"] => text == "1",
        ["clock"] => is.attribute("offset") == Some("utc") && is.nodes().is_empty(),
        ["cpu"] => is.text_at(&["model"]).as_deref() == Some("qemu64") && is.elements().count() == 1,
        ["cpu", "model"] => text == "qemu64",
        ["seclabel"] => is.attribute("type") == Some("none") || is.attribute("type") == Some("dynamic"),
        // Set up for a domain whose devices have no boot order.
        ["os", "boot"] => is.attribute("dev") == Some("hd") && from.find("boot").is_none(),
        // A firmware with secure boot needs it.
        ["features", "smm"] => is.attribute("state") == Some("on"),
        ["os", "firmware", "feature"] => true,
        ["os", "loader" | "nvram" | "firmware"] => {
            from.attribute("firmware").is_some() || from.find("loader").is_some()
        }
        ["devices"] => is.elements().all(|device| device_at_definition(device, from, to)),
        ["devices", _] => device_at_definition(is, from, to),
        ["devices", device, inner @ ..] => in_device_at_definition(device, inner, is, from),
        _ => false,
    }
}

/// A device that libvirt adds. `from` and `to` hold all devices.
fn device_at_definition(is: &Element, from: &Element, to: &Element) -> bool {
    let attribute = |name| is.attribute(name).unwrap_or_default();
    let has = |kind: &str| from.find(kind).is_some();
    match is.name() {
        "emulator" => true,
        "controller" => controller(is, to),
        "input" => matches!(attribute("type"), "mouse" | "keyboard") && matches!(attribute("bus"), "ps2" | "xen"),
        "audio" => attribute("id") == "1" && !has("audio"),
        "memballoon" => attribute("model") == "virtio" && !has("memballoon"),
        "watchdog" => attribute("model") == "itco" && attribute("action") == "reset",
        "video" => has("graphics") && !has("video"),
        // Each is made of the other.
        "console" => has("serial") && !has("console"),
        "serial" => has("console") && !has("serial"),
        "hub" => attribute("type") == "usb",
        "panic" => attribute("model") == "pseries",
        _ => false,
    }
}

/// Controllers are added for the devices that need one.
fn controller(is: &Element, devices: &Element) -> bool {
    let is_first = is.attribute("index").is_none_or(|index| index == "0");
    let on_bus =
        |bus: &str| devices.all("disk").any(|d| d.at(&["target"]).and_then(|t| t.attribute("bus")) == Some(bus));
    match is.attribute("type").unwrap_or_default() {
        // A bridge or root port for whatever is plugged in.
        "pci" => true,
        "usb" | "sata" => is_first,
        "ide" | "fdc" | "isa" => is_first || on_bus("ide"),
        "scsi" => {
            let has_hostdev = devices.all("hostdev").any(|h| h.attribute("type") == Some("scsi"));
            on_bus("scsi") || has_hostdev
        }
        "virtio-serial" => ["channel", "console"].iter().any(|kind| devices.find(kind).is_some()),
        "ccid" => devices.find("smartcard").is_some(),
        _ => false,
    }
}

/// Something that libvirt adds inside a device; `from` is its parent.
fn in_device_at_definition(device: &str, inner: &[&str], is: &Element, from: &Element) -> bool {
    let attribute = |name| is.attribute(name).unwrap_or_default();
    match (device, inner) {
        (_, ["address"]) => true,
        (_, ["alias"]) => !is_user_alias(is),
        ("disk", ["driver"]) => {
            is.attributes().iter().all(|a| matches!((a.name(), a.value()), ("name", "qemu") | ("type", "raw")))
        }
        ("disk", ["readonly"]) => from.attribute("device") == Some("cdrom"),
        ("interface", ["mac"]) => true,
        ("interface", ["model"]) => {
            matches!(attribute("type"), "rtl8139" | "e1000" | "e1000e" | "virtio" | "virtio-net")
        }
        ("controller", ["model" | "target" | "master"]) => true,
        // It repeats the serial port.
        ("console", ["source" | "log" | "protocol"]) => true,
        ("serial" | "parallel" | "console", ["target"] | ["target", "model"]) => true,
        ("graphics", ["listen"]) => true,
        ("graphics", ["image"]) => attribute("compression") == "off",
        ("video", ["model"]) => true,
        ("sound", ["audio"]) => attribute("id") == "1",
        ("hostdev", ["driver"]) => attribute("name") == "vfio",
        ("filesystem", ["driver"]) => attribute("type") == "path",
        ("shmem", ["model" | "size"]) => true,
        _ => false,
    }
}

fn is_user_alias(alias: &Element) -> bool {
    alias.attribute("name").is_some_and(|name| name.starts_with("ua-"))
}

/// An element of a running domain only; `from` is its parent.
fn at_start(place: &[&str], from: &Element) -> bool {
    match place {
        ["currentMemory" | "resource" | "seclabel"] => true,
        ["cpu", "model" | "vendor" | "feature" | "numa" | "maxphysaddr" | "cache"] => from.name() == "cpu",
        ["devices", "disk", "backingStore" | "mirror", ..] | ["devices", "disk", "source", "privateData"] => true,
        ["devices", "interface", "target"] => true,
        ["devices", "serial" | "parallel" | "console" | "channel" | "rng", "source"] => true,
        ["devices", "hostdev", "driver" | "rom"] => true,
        _ => false,
    }
}

/// Whether libvirt adds this attribute. `from` and `to` are its elements.
pub(super) fn attribute(place: &[&str], name: &str, is: &str, from: &Element, to: &Element, mode: Mode) -> bool {
    let at_definition = match (place, name) {
        (["os", "type"], "arch" | "machine") | ([], "type") => true,
        (["os"], "firmware") => from.find("loader").is_some(),
        (["devices", "disk", .., "encryption"], "engine") => is == "qemu",
        (["os", "loader"], "readonly" | "secure" | "type" | "format" | "stateless")
        | (["os", "nvram"], "template" | "templateFormat" | "format" | "type") => true,
        (["vcpu"], "placement") => is == "static",
        (_, "unit") => size(from).is_some() && size(from) == size(to),
        (["seclabel"], "model") => is == "none",
        (["clock"], "offset") => is == "utc",
        (["clock"], "basis") => is == "utc",
        (["cpu"], "mode") => matches!(is, "custom"),
        (["cpu"], "match") => is == "exact",
        (["cpu"], "check") => matches!(is, "none" | "partial"),
        (["cpu"], "migratable") => is == "on",
        (["cpu", "model"], "fallback") => matches!(is, "allow" | "forbid"),
        (["cpu", "topology"], "dies" | "clusters" | "modules") => is == "1",
        (["cpu", "feature"], "policy") => is == "require",
        (["cpu", "numa", "cell"], "id") => true,
        (["features", ..], "state") => is == "on",
        (["features", "hyperv"], "mode") => is == "custom",
        (["devices", _, "address"], _) => true,
        (["devices", "disk"], "device") => is == "disk",
        (["devices", "disk"], "type") => is == "file",
        (["devices", "disk", "driver"], "name") => is == "qemu",
        (["devices", "disk", "driver"], "type") => is == "raw",
        (["devices", "disk", "target"], "bus") => true,
        (["devices", "controller"], "index" | "model" | "ports") => true,
        (["devices", "controller", "target" | "model"], _) => true,
        (["devices", "input"], "bus") => true,
        (["devices", "serial" | "parallel" | "console" | "channel"], "type") => is == "pty",
        (["devices", "serial" | "parallel" | "console", "target"], "type" | "port") => true,
        (["devices", "graphics"], "port") => is == "-1" || mode == Mode::Live,
        (["devices", "graphics"], "autoport") => matches!(is, "yes" | "no"),
        (["devices", "graphics"], "listen") => true,
        (["devices", "graphics", "listen"], _) => true,
        (["devices", "video", "model"], "ram" | "vram" | "vgamem" | "vram64" | "heads" | "primary" | "type") => true,
        (["devices", "watchdog"], "action") => is == "reset",
        (["devices", "hostdev"], "managed") => is == "no",
        (["devices", "hostdev"], "mode") => is == "subsystem",
        (["devices", "filesystem"], "accessmode") => is == "passthrough",
        (["devices", "console", "source"], _) => true,
        (["devices", "hostdev"], "display") => is == "off",
        (["devices", "panic"], "model") => is == "isa",
        (["devices", "tpm"], "model") => matches!(is, "tpm-tis" | "tpm-crb" | "tpm-spapr"),
        (["devices", "tpm", "backend"], "version") => is == "2.0",
        (["devices", "memballoon" | "sound" | "shmem" | "smartcard" | "vsock"], "model") => true,
        _ => false,
    };
    at_definition || mode == Mode::Live && attribute_at_start(place, name)
}

fn attribute_at_start(place: &[&str], name: &str) -> bool {
    is_state(place, name)
        || matches!(
            (place, name),
            (["cpu"], "mode" | "check" | "match")
                | (["devices", "interface", "source"], "bridge")
                | (["devices", "graphics"], "port" | "tlsPort" | "websocket")
        )
}

/// Whether an attribute is the state of a running domain, and nothing that can be defined.
fn is_state(place: &[&str], name: &str) -> bool {
    matches!(
        (place, name),
        ([], "id")
            | (["devices", "disk", "source"] | ["devices", "disk", "backingStore", ..], "index")
            | (["devices", "disk", "target"], "tray")
            | (["devices", "interface", "source"], "portid")
            | (["devices", "serial" | "parallel" | "console"], "tty")
            | (["devices", "channel", "target"], "state")
    )
}

/// Whether libvirt drops this attribute, since it is what goes without saying.
pub(super) fn goes_without_saying(place: &[&str], name: &str, was: &str) -> bool {
    matches!(
        (place, name, was),
        (["devices", "graphics"], "autoport", "no")
            | (["devices", "video", "model"], "primary", "no")
            | (["devices", "disk", "driver"], "cache" | "io" | "error_policy" | "discard", "default")
    ) || is_state(place, name)
}

/// Whether two values of an attribute are the same to libvirt, or one is what it makes of the other.
pub(super) fn is_same(place: &[&str], name: &str, was: &str, is: &str, mode: Mode) -> bool {
    match (place, name) {
        (["os", "type"], "machine") => is_version_of(was, is),
        (["devices", "interface", "mac"], "address") | (["devices", "interface", "model"], "type") => {
            was.eq_ignore_ascii_case(is)
        }
        (["devices", _, "address"], _) | (["devices", "controller", "target"], _) => {
            number(was).is_some() && number(was) == number(is)
        }
        (["devices", "hostdev", "source", "address" | "vendor" | "product"], _) => {
            number(was).is_some() && number(was) == number(is)
        }
        // A running domain has the host's model by its name, and the features that QEMU really gives.
        (["cpu"], "mode") => mode == Mode::Live && was == "host-model" && is == "custom",
        (["cpu"], "check") => mode == Mode::Live && is == "full",
        (["cpu", "model"], "fallback") => mode == Mode::Live && is == "forbid",
        (["devices", "graphics"], "port") => mode == Mode::Live && was == "-1",
        _ => false,
    }
}

/// Whether the texts of two elements, with their units, are the same size, or the same UUID.
pub(super) fn is_same_text(place: &[&str], from: &Element, to: &Element) -> bool {
    match place {
        ["uuid"] => {
            let plain = |element: &Element| element.own_text().replace('-', "").to_ascii_lowercase();
            plain(from) == plain(to)
        }
        // Chosen when the domain is defined.
        ["genid"] | ["os", "loader" | "nvram"] => from.own_text().is_empty(),
        _ => is_same_size(from, to),
    }
}

/// Whether two elements are one size in different units.
pub(super) fn is_same_size(from: &Element, to: &Element) -> bool {
    size(from).is_some() && size(from) == size(to)
}

/// An alias such as `q35` becomes the newest version of it.
fn is_version_of(was: &str, is: &str) -> bool {
    let family = match was {
        "pc" => "pc-i440fx",
        "q35" => "pc-q35",
        other => other,
    };
    is.strip_prefix(family)
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit()))
}

/// A number as libvirt reads it.
pub(super) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A size in bytes; without a unit, libvirt counts KiB.
fn size(element: &Element) -> Option<u64> {
    crate::lift::bytes(element)
}
