//! `spec.domain` over the data of a lowered domain.
//!
//! The rules are those of [`lower_with`](crate::lower::lower_with). Nothing here knows what typed fields are: a typed
//! device is one with an alias, and lowering gives its own devices none.

mod device;

pub(crate) use device::{Kind, key_fields, matches_of};

use std::borrow::Cow;

use crate::error::{Error, Result};
use crate::value::Value;
use device::{alias, names_typed};

/// A mapping's keys and values.
pub(crate) type Entries<'a> = Vec<(Cow<'a, str>, Value<'a>)>;

/// Merges `over` into `base`, the data of a domain. The result holds no `null`.
///
/// # Errors
/// [`Error::Shape`] with the path in `over`.
pub(crate) fn merge(base: &Value<'_>, over: &Value<'_>) -> Result<Value<'static>> {
    match over {
        Value::Mapping(_) => at(base, over, &mut vec!["domain".to_owned()]),
        other => Err(Error::at("domain", format!("expected a mapping, found {}", other.kind()))),
    }
}

/// The same value with strings of its own.
pub(crate) fn owned(value: &Value<'_>) -> Value<'static> {
    match value {
        Value::Null => Value::Null,
        Value::Bool(value) => Value::Bool(*value),
        Value::Number(value) => Value::Number(*value),
        Value::String(text) => Value::String(Cow::Owned(text.clone().into_owned())),
        Value::Sequence(items) => Value::Sequence(items.iter().map(owned).collect()),
        Value::Mapping(entries) => {
            Value::Mapping(entries.iter().map(|(key, value)| (Cow::Owned(key.to_string()), owned(value))).collect())
        }
    }
}

/// What is there when nothing lies below: nulls say nothing then.
fn without_nulls(value: &Value<'_>) -> Value<'static> {
    match value {
        Value::Mapping(entries) => Value::Mapping(
            entries
                .iter()
                .filter(|(_, value)| *value != Value::Null)
                .map(|(key, value)| (Cow::Owned(key.to_string()), without_nulls(value)))
                .collect(),
        ),
        Value::Sequence(items) => Value::Sequence(items.iter().map(without_nulls).collect()),
        other => owned(other),
    }
}

fn at(base: &Value<'_>, over: &Value<'_>, path: &mut Vec<String>) -> Result<Value<'static>> {
    let (Value::Mapping(below), Value::Mapping(above)) = (base, over) else { return Ok(without_nulls(over)) };
    let is_devices = path.len() == 2 && path[1] == "devices";
    if is_devices {
        refuse_list_twice(above, path)?;
    }
    let mut merged: Entries<'static> = Vec::with_capacity(below.len() + above.len());
    for (key, value) in below {
        let Some(over) = entry(above, key, is_devices) else {
            merged.push((Cow::Owned(key.to_string()), owned(value)));
            continue;
        };
        path.push(key.to_string());
        let kept = match (over, value) {
            (Value::Null, _) => None,
            (over, Value::Sequence(items)) if is_devices => Some(list(Kind(key), items, over, path)?),
            (over, value) => Some(at(value, over, path)?),
        };
        path.pop();
        merged.extend(kept.map(|value| (Cow::Owned(key.to_string()), value)));
    }
    for (key, value) in above {
        let is_there = below.iter().any(|(there, _)| is_same_key(there, key, is_devices));
        if is_there || *value == Value::Null {
            continue;
        }
        path.push(key.to_string());
        let added = match value {
            Value::Sequence(_) if is_devices => list(Kind(key), &[], value, path)?,
            value => without_nulls(value),
        };
        path.pop();
        merged.push((Cow::Owned(key.to_string()), added));
    }
    Ok(Value::Mapping(merged))
}

/// A list of devices must not stand there under both of its names: the order would be nobody's.
fn refuse_list_twice(devices: &Entries<'_>, path: &[String]) -> Result<()> {
    for (one, _) in devices {
        let is_other = |(key, _): &&(Cow<'_, str>, Value<'_>)| key != one && is_same_key(one, key, true);
        if let Some((other, _)) = devices.iter().find(is_other) {
            return Err(Error::at(path.join("."), format!("'{other}' and '{one}' are one list: write it once")));
        }
    }
    Ok(())
}

fn entry<'v, 'a>(entries: &'v Entries<'a>, key: &str, is_devices: bool) -> Option<&'v Value<'a>> {
    entries.iter().find(|(there, _)| is_same_key(key, there, is_devices)).map(|(_, value)| value)
}

/// A list of devices can also be written under the name of one of them.
fn is_same_key(list: &str, key: &str, is_devices: bool) -> bool {
    list == key || is_devices && Kind(list).is_list_of(key)
}

/// Merges a list of devices of one kind.
fn list(kind: Kind<'_>, base: &[Value<'_>], over: &Value<'_>, path: &mut Vec<String>) -> Result<Value<'static>> {
    let only = std::slice::from_ref(over);
    let items = match over {
        Value::Sequence(items) => items.as_slice(),
        _ => only,
    };
    let (drops_own, items) = match items {
        [Value::Null, rest @ ..] => (true, rest),
        all => (false, all),
    };
    let base: Vec<_> = base.iter().filter(|device| !drops_own || alias(device).is_some()).collect();
    let skipped = usize::from(drops_own);
    for (index, item) in items.iter().enumerate() {
        if !matches!(item, Value::Mapping(_)) {
            let what = match item {
                Value::Null => "null removes what is added to a list by itself, and stands first".to_owned(),
                other => format!("expected a mapping, found {}", other.kind()),
            };
            return Err(Error::at(place(path, index + skipped), what));
        }
    }
    let matches = matches_of(kind, &base, items);
    let mut merged: Vec<Option<Value<'static>>> = base.iter().map(|_| None).collect();
    let mut before: Vec<Vec<Value<'static>>> = base.iter().map(|_| Vec::new()).collect();
    let mut added = Vec::new();
    for (index, (item, matched)) in items.iter().zip(matches).enumerate() {
        match matched {
            Some(at_base) => {
                // Every list within a device is replaced, so the path must not look like that of the devices.
                path.push(index.to_string());
                merged[at_base] = Some(at(base[at_base], item, path)?);
                path.pop();
                before[at_base].append(&mut added);
            }
            None => {
                if let Some(name) = names_typed(kind, item) {
                    let what = format!("there is no such device in the VM's {name}: correct the alias");
                    return Err(Error::at(place(path, index + skipped), what));
                }
                added.push(without_nulls(item));
            }
        }
    }
    let mut all = Vec::with_capacity(base.len() + items.len());
    for ((device, merged), before) in base.into_iter().zip(merged).zip(before) {
        all.extend(before);
        all.push(merged.unwrap_or_else(|| owned(device)));
    }
    all.extend(added);
    Ok(Value::Sequence(all))
}

fn place(path: &[String], index: usize) -> String {
    format!("{}[{index}]", path.join("."))
}
