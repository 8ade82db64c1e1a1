//! `spec.domain` over the lowered domain.

use super::domain::{DomainInput, NicSource, disk_alias, hardware, identify, nic_alias};
use super::typed::{DiskLocation, Identity, Typed};
use crate::error::{Error, Result};
use crate::mark::is_ours;
use crate::merge::merge;
use crate::tree::{Element, Tree};
use crate::value::Value;

/// The domain of an input with `spec.domain` over it: the one way in which a VM becomes a domain. `domain` is what
/// stands below the key `domain` in the analyser's YAML; an empty mapping gives what [`lower`](super::lower) gives.
///
/// Mappings merge by key, and `domain` wins. In a list of devices, an item with the alias of a disk or NIC of the input
/// merges into it, as does one that is a device which lowering adds by itself; others are added: before the next item
/// that is such a device, else at the end. `null` removes; as the first item of a list of devices it removes what
/// lowering adds to it by itself. All other lists are replaced.
///
/// # Errors
/// [`Error::Shape`] with the path in `domain`: something there is no part of a domain, or says what only other fields
/// may say: name, UUID, our metadata, that a disk or NIC of the input is not there, and what it is connected to.
pub fn lower_with(input: &DomainInput, domain: &Value<'_>) -> Result<Element> {
    let (identity, typed) = input.parts();
    lower_typed(&typed, &identity, domain)
}

/// [`lower_with`] for typed fields that were [lifted](crate::lift::lift).
///
/// # Errors
/// Those of [`lower_with`].
pub fn lower_typed(typed: &Typed, identity: &Identity, domain: &Value<'_>) -> Result<Element> {
    let base = Tree::new(hardware(typed)).into_canonical();
    let base_value = base.to_value();
    let Some(base_value) = base_value.get("domain") else {
        return Err(Error::Missing { path: "domain".into() });
    };
    let merged = Value::Mapping(vec![("domain".into(), merge(base_value, domain)?)]);
    let mut root = Tree::from_value(&merged)?.root;
    refuse_identity(&root)?;
    keep_typed_devices(&base.root, &root, typed)?;
    identify(&mut root, identity);
    label(&mut root, typed);
    Ok(Tree::new(root).into_canonical().root)
}

fn refuse_identity(root: &Element) -> Result<()> {
    for (name, instead) in
        [("name", "it is made from the object's namespace and name"), ("uuid", "use spec.firmware.uuid")]
    {
        if root.find(name).is_some() {
            return Err(Error::at(format!("domain.{name}"), format!("cannot be set here: {instead}")));
        }
    }
    for metadata in root.all("metadata") {
        if let Some(ours) = metadata.elements().find(|element| is_ours(element, metadata, root)) {
            let path = format!("domain.metadata.{}", ours.name());
            return Err(Error::at(path, "is the mark of ownership and cannot be set here"));
        }
    }
    Ok(())
}

/// What is connected is what other objects say: they are held for this VM, and their owners rely on it.
fn keep_typed_devices(base: &Element, root: &Element, typed: &Typed) -> Result<()> {
    let disks = typed.disks.iter().map(|disk| {
        let attributes: &[&str] = match disk.location {
            DiskLocation::File(_) => &["file"],
            DiskLocation::Block(_) => &["dev"],
            DiskLocation::Volume { .. } => &["pool", "volume"],
        };
        ("disk", "disks", disk_alias(&disk.name), attributes)
    });
    let nics = typed.nics.iter().map(|nic| {
        let attributes: &[&str] = match nic.source {
            NicSource::Network(_) => &["network"],
            NicSource::Bridge(_) => &["bridge"],
        };
        ("interface", "interfaces", nic_alias(&nic.name), attributes)
    });
    for (kind, list, alias, attributes) in disks.chain(nics) {
        let path = |below: &str| format!("domain.devices.{list}[{alias}]{below}");
        let mut found = devices(root, kind).filter(|device| has_alias(device, &alias));
        let (Some(device), None) = (found.next(), found.next()) else {
            let what = format!("must stay there once: remove it from the VM's {}", fields_of(kind));
            return Err(Error::at(path(""), what));
        };
        let Some(was) = devices(base, kind).find(|device| has_alias(device, &alias)) else { continue };
        let instead = format!("cannot be changed here: it is what the VM's {} say", fields_of(kind));
        if device.attribute("type") != was.attribute("type") {
            return Err(Error::at(path(".type"), instead));
        }
        for attribute in attributes {
            let of = |device: &Element| device.find("source").and_then(|s| s.attribute(attribute)).map(str::to_owned);
            if of(device) != of(was) {
                return Err(Error::at(path(&format!(".source.{attribute}")), instead));
            }
        }
    }
    Ok(())
}

fn fields_of(kind: &str) -> &'static str {
    if kind == "disk" { "disks" } else { "networks" }
}

fn devices<'a>(root: &'a Element, kind: &'a str) -> impl Iterator<Item = &'a Element> {
    root.all("devices").flat_map(move |devices| devices.all(kind))
}

fn has_alias(device: &Element, alias: &str) -> bool {
    device.find("alias").and_then(|a| a.attribute("name")) == Some(alias)
}

/// Gives typed devices the aliases that they have in a domain which was not made from typed fields.
fn label(root: &mut Element, typed: &Typed) {
    let disks = typed.disks.iter().map(|d| ("disk", disk_alias(&d.name), &d.alias));
    let nics = typed.nics.iter().map(|n| ("interface", nic_alias(&n.name), &n.alias));
    let others: Vec<_> = disks.chain(nics).filter(|(_, ours, alias)| alias.as_deref() != Some(ours.as_str())).collect();
    if others.is_empty() {
        return;
    }
    for devices in root.elements_mut().filter(|e| e.name() == "devices") {
        for device in devices.elements_mut() {
            let is_it = |(kind, ours, _): &&(&str, String, _)| device.name() == *kind && has_alias(device, ours);
            if let Some((_, _, alias)) = others.iter().find(is_it) {
                set_alias(device, alias.as_deref());
            }
        }
    }
}

/// Sets or removes a device's alias.
pub(crate) fn set_alias(device: &mut Element, alias: Option<&str>) {
    device.remove("alias");
    if let Some(alias) = alias {
        device.push(Element::new("alias").attr("name", alias));
    }
}
