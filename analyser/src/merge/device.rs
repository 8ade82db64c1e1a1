//! Which device is meant by an item of a list.

use std::borrow::Cow;

use crate::shapes;
use crate::value::Value;

/// The key of a list of devices: `disks`, `channels`, ….
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind<'k>(pub(crate) &'k str);

impl Kind<'_> {
    /// Whether this is the list of elements of that name.
    pub(super) fn is_list_of(self, name: &str) -> bool {
        let devices = shapes::root("domain").and_then(|domain| domain.child("", "devices"));
        let device = devices.and_then(|devices| devices.shape().child("", name));
        device.and_then(|device| device.list) == Some(self.0)
    }

    /// What tells a device without an alias from others of its kind. libvirt allows one of each.
    fn key(self) -> Option<&'static [&'static [&'static str]]> {
        Some(match self.0 {
            "controllers" => &[&["type"], &["index"]],
            "serials" | "consoles" => &[&["target", "port"]],
            "channels" => &[&["target", "name"]],
            "rngs" => &[&["model"], &["backend", "model"]],
            // A first one takes the place of none.
            "videos" => &[],
            _ => return None,
        })
    }
}

/// A device's alias.
pub(super) fn alias<'v>(device: &'v Value<'_>) -> Option<&'v str> {
    match device.get("alias")?.get("name")? {
        Value::String(name) => Some(name),
        _ => None,
    }
}

/// The parts of a device by which it is found in a list without its alias, for an item that shall mean it.
pub(crate) fn key_fields(kind: Kind<'_>, device: &Value<'_>) -> Option<Vec<(&'static [&'static str], String)>> {
    kind.key()?
        .iter()
        .map(|path| Some((*path, text(path.iter().try_fold(device, |value, key| value.get(key))?)?)))
        .collect()
}

/// A scalar as libvirt would read it.
fn text(value: &Value<'_>) -> Option<String> {
    match value {
        Value::String(text) => Some(text.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

/// For each item, the device of the list that it means: the one with its alias, else one without an alias that has its
/// key. No device is meant twice.
pub(crate) fn matches_of(kind: Kind<'_>, devices: &[&Value<'_>], items: &[Value<'_>]) -> Vec<Option<usize>> {
    let mut is_taken = vec![false; devices.len()];
    let mut matches = Vec::with_capacity(items.len());
    for item in items {
        let found = match alias(item) {
            Some(name) => devices.iter().position(|device| alias(device) == Some(name)),
            None => None,
        };
        let key = || key_fields(kind, item);
        let found = found.or_else(|| {
            let key = key()?;
            let is_it = |(at, device): (usize, &&Value<'_>)| {
                !is_taken[at] && alias(device).is_none() && key_fields(kind, device).as_ref() == Some(&key)
            };
            devices.iter().enumerate().position(is_it)
        });
        let found = found.filter(|at| !is_taken[*at]);
        if let Some(at) = found {
            is_taken[at] = true;
        }
        matches.push(found);
    }
    matches
}

/// For an item that has the alias of a typed device and cannot be a device of its own: the fields that it means.
pub(super) fn names_typed(kind: Kind<'_>, item: &Value<'_>) -> Option<Cow<'static, str>> {
    let alias = alias(item)?;
    let (prefix, needed, fields) = match kind.0 {
        "disks" => ("ua-disk-", "target", "disks"),
        "interfaces" => ("ua-nic-", "type", "networks"),
        _ => return None,
    };
    (alias.starts_with(prefix) && item.get(needed).is_none()).then_some(Cow::Borrowed(fields))
}
