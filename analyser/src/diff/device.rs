//! Which elements of two domains are the same, where there can be several of a name: devices above all.

use super::filled::number;
use crate::tree::Element;

/// For each element of one name, its partner among those of another domain.
pub(super) fn partners(from: &[&Element], to: &[&Element]) -> Vec<Option<usize>> {
    let mut partners = vec![None; from.len()];
    let mut is_taken = vec![false; to.len()];
    let ways: [fn(&Element) -> Option<String>; 3] = [user_alias, key, |_| Some(String::new())];
    for (rank, way) in ways.iter().enumerate() {
        for (at, device) in from.iter().enumerate() {
            if partners[at].is_some() {
                continue;
            }
            let Some(known) = way(device) else { continue };
            let fits = |other: &Element| {
                way(other).as_ref() == Some(&known)
                    // By their place alone, two devices that are known by different things are not the same.
                    && (rank < 2 || can_be_one(device, other))
            };
            if let Some(index) = (0..to.len()).find(|index| !is_taken[*index] && fits(to[*index])) {
                is_taken[index] = true;
                partners[at] = Some(index);
            }
        }
    }
    partners
}

fn can_be_one(device: &Element, other: &Element) -> bool {
    let own = |name: &str| agree(device.attribute(name), other.attribute(name));
    let is_same_controller = device.name() != "controller" || own("type") && own("model") && own("index");
    is_same_controller && [user_alias, key].iter().all(|way| agree(way(device), way(other)))
}

fn agree<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
    one.is_none() || other.is_none() || one == other
}

/// An alias that a user gave; libvirt's own are made anew at each start.
fn user_alias(device: &Element) -> Option<String> {
    let alias = device.find("alias")?.attribute("name")?;
    alias.starts_with("ua-").then(|| alias.to_owned())
}

/// What libvirt allows once among the elements of a name.
fn key(device: &Element) -> Option<String> {
    let at = |path: &[&str], attribute: &str| device.at(path)?.attribute(attribute).map(str::to_owned);
    let own = |attribute: &str| device.attribute(attribute).map(str::to_owned);
    match device.name() {
        "disk" => at(&["target"], "dev"),
        "interface" => at(&["mac"], "address").map(|mac| mac.to_ascii_lowercase()),
        "controller" => {
            // A USB 2 controller and its companions share an index.
            let model = own("model").filter(|model| model.starts_with("ich9-")).unwrap_or_default();
            Some(format!("{}{}{model}", own("type")?, own("index")?))
        }
        "filesystem" => at(&["target"], "dir"),
        "channel" => at(&["target"], "name"),
        "serial" | "parallel" => at(&["target"], "port"),
        "console" => Some(at(&["target"], "type")? + &at(&["target"], "port").unwrap_or_default()),
        "graphics" | "tpm" | "panic" => own("type").or_else(|| own("model")),
        "input" => Some(format!("{}-{}", own("type")?, own("bus").unwrap_or_default())),
        "sound" | "watchdog" | "rng" | "shmem" => own("name").or_else(|| own("model")),
        "hostdev" => {
            let address = device.at(&["source", "address"])?;
            let part = |name: &str| {
                let text = address.attribute(name).unwrap_or_default();
                number(text).map_or_else(|| text.to_owned(), |number| format!("{number:x}"))
            };
            let parts = ["domain", "bus", "slot", "function", "device", "uuid"].map(part);
            Some(parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(":"))
        }
        "audio" | "cell" | "sibling" | "iothread" => own("id"),
        "feature" | "timer" | "entry" => own("name"),
        "vcpupin" => own("vcpu"),
        "memnode" => own("cellid"),
        _ => None,
    }
}

/// The element's name with what tells it from its siblings.
pub(super) fn step(element: &Element, parent: &Element) -> String {
    let name = element.name();
    let known = user_alias(element).or_else(|| key(element));
    if let Some(known) = known.filter(|known| !known.is_empty()) {
        return format!("{name}[{known}]");
    }
    let mut siblings = parent.elements().filter(|e| e.name() == name);
    if parent.elements().filter(|e| e.name() == name).count() < 2 {
        return name.to_owned();
    }
    let place = siblings.position(|e| std::ptr::eq(e, element)).map_or(0, |at| at + 1);
    format!("{name}[{place}]")
}
