//! What must lie over the data of one domain to give that of another.

use std::borrow::Cow;

use crate::merge::{Entries, Kind, key_fields, matches_of, merge, owned};
use crate::tree::Tree;
use crate::value::Value;

/// The least that [`merge`] needs over `base` to give `wanted`, both canonical domains whose typed devices have the same
/// aliases in the same order.
pub(super) fn overlay(base: &Tree, wanted: &Tree) -> Value<'static> {
    let (base, wanted) = (base.to_value(), wanted.to_value());
    let empty = Value::Mapping(Vec::new());
    let content = |value: &Value<'_>| value.get("domain").map_or_else(|| empty.clone(), owned);
    between(&content(&base), &content(&wanted), Place::Root).unwrap_or(empty)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Devices,
    Inside,
}

/// `None` when nothing is needed.
fn between(base: &Value<'_>, wanted: &Value<'_>, place: Place) -> Option<Value<'static>> {
    let Value::Mapping(below) = base else { return (!same(base, wanted)).then(|| owned(wanted)) };
    let spread = match wanted {
        Value::Mapping(_) => None,
        scalar => text_alone(below, scalar),
    };
    let Value::Mapping(above) = spread.as_ref().unwrap_or(wanted) else { return Some(owned(wanted)) };
    let mut entries: Entries<'static> = Vec::new();
    for (key, value) in above {
        let own_key = || Cow::Owned(key.to_string());
        let Some((_, was)) = below.iter().find(|(there, _)| there == key) else {
            entries.push((own_key(), owned(value)));
            continue;
        };
        let needed = match (was, value) {
            (Value::Sequence(was), Value::Sequence(items)) if place == Place::Devices => list(key, was, items),
            _ => between(
                was,
                value,
                if place == Place::Root && key == "devices" { Place::Devices } else { Place::Inside },
            ),
        };
        entries.extend(needed.map(|needed| (own_key(), needed)));
    }
    let gone = below.iter().filter(|(key, _)| !above.iter().any(|(there, _)| there == key));
    entries.extend(gone.map(|(key, _)| (Cow::Owned(key.to_string()), Value::Null)));
    (!entries.is_empty()).then_some(Value::Mapping(entries))
}

/// A scalar, which is an element with nothing but text, as a mapping with the key that the text has in another one.
fn text_alone(below: &Entries<'_>, scalar: &Value<'_>) -> Option<Value<'static>> {
    if *scalar == Value::String("".into()) {
        return Some(Value::Mapping(Vec::new()));
    }
    if matches!(scalar, Value::Sequence(_)) {
        return None;
    }
    let key = below.iter().map(|(key, _)| &**key).find(|key| ["value", crate::shapes::TEXT].contains(key))?;
    Some(Value::Mapping(vec![(Cow::Owned(key.to_owned()), owned(scalar))]))
}

/// Equality in which the order of keys does not count.
fn same(one: &Value<'_>, other: &Value<'_>) -> bool {
    match (one, other) {
        (Value::Mapping(one), Value::Mapping(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| other.iter().any(|(there, it)| there == key && same(value, it)))
        }
        (Value::Sequence(one), Value::Sequence(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (one, other) => one == other,
    }
}

/// A list of devices: first without the devices that are as they shall be, then with all of them for the order's sake,
/// at last anew.
fn list(key: &str, base: &[Value<'_>], wanted: &[Value<'_>]) -> Option<Value<'static>> {
    if base.len() == wanted.len() && base.iter().zip(wanted).all(|(base, wanted)| same(base, wanted)) {
        return None;
    }
    let anew = || std::iter::once(Value::Null).chain(wanted.iter().map(owned)).collect();
    let tries: [&dyn Fn() -> Vec<Value<'static>>; 3] =
        [&|| items(key, base, wanted, false), &|| items(key, base, wanted, true), &anew];
    let gives_wanted = |over: &Value<'_>| {
        let devices = |list: Value<'static>| {
            Value::Mapping(vec![("devices".into(), Value::Mapping(vec![(Cow::Owned(key.to_owned()), list)]))])
        };
        let below = devices(Value::Sequence(base.iter().map(owned).collect()));
        let above = devices(owned(over));
        merge(&below, &above).is_ok_and(|merged| {
            merged.get("devices").and_then(|d| d.get(key)).is_some_and(|got| match got {
                Value::Sequence(got) => got.len() == wanted.len() && got.iter().zip(wanted).all(|(a, b)| same(a, b)),
                _ => false,
            })
        })
    };
    let mut over = Value::Sequence(anew());
    for attempt in tries {
        over = Value::Sequence(attempt());
        if gives_wanted(&over) {
            break;
        }
    }
    Some(over)
}

fn items(key: &str, base: &[Value<'_>], wanted: &[Value<'_>], names_all: bool) -> Vec<Value<'static>> {
    let kind = Kind(key);
    let base: Vec<&Value<'_>> = base.iter().collect();
    let mut items = Vec::new();
    let mut is_behind_new = false;
    for (item, matched) in wanted.iter().zip(matches_of(kind, &base, wanted)) {
        let Some(at) = matched else {
            items.push(owned(item));
            is_behind_new = true;
            continue;
        };
        let needed = between(base[at], item, Place::Inside);
        if needed.is_some() || is_behind_new || names_all {
            items.push(naming(kind, item, needed));
            is_behind_new = false;
        }
    }
    items
}

/// What is needed, and before it what says of which device.
fn naming(kind: Kind<'_>, device: &Value<'_>, needed: Option<Value<'static>>) -> Value<'static> {
    let mut item = Value::Mapping(Vec::new());
    match device.get("alias") {
        Some(alias) => put(&mut item, &["alias"], owned(alias)),
        None => {
            for (path, _) in key_fields(kind, device).unwrap_or_default() {
                if let Some(value) = path.iter().try_fold(device, |value, key| value.get(key)) {
                    put(&mut item, path, owned(value));
                }
            }
        }
    }
    if let Some(needed) = needed {
        join(&mut item, needed);
    }
    item
}

fn put(into: &mut Value<'static>, path: &[&'static str], value: Value<'static>) {
    let nested = path.iter().rev().fold(value, |value, key| Value::Mapping(vec![(Cow::Borrowed(*key), value)]));
    join(into, nested);
}

fn join(into: &mut Value<'static>, more: Value<'static>) {
    match (into, more) {
        (Value::Mapping(into), Value::Mapping(more)) => {
            for (key, value) in more {
                match into.iter_mut().find(|(there, _)| *there == key) {
                    Some((_, there)) => join(there, value),
                    None => into.push((key, value)),
                }
            }
        }
        (into, more) => *into = more,
    }
}
