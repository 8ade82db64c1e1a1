//! Single values of a document, with the path in the error.

use std::str::FromStr;

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::tree::{Element, Tree};

/// Parses a document and checks its root.
pub(super) fn document(xml: &str, root: &'static str) -> Result<Element> {
    let tree = Tree::from_xml(xml)?;
    if tree.root.name() == root {
        Ok(tree.root)
    } else {
        Err(Error::Value { path: "/".into(), value: tree.root.name().to_owned(), expected: root })
    }
}

fn show(element: &Element, path: &[&str]) -> String {
    path.iter().fold(element.name().to_owned(), |shown, name| shown + "/" + name)
}

/// Text of a child that must be there.
pub(super) fn text(element: &Element, path: &[&str]) -> Result<String> {
    match element.text_at(path) {
        Some(text) => Ok(text.into_owned()),
        None => Err(Error::Missing { path: show(element, path) }),
    }
}

/// Text of a child; `None` when the child is not there or empty.
pub(super) fn optional_text(element: &Element, path: &[&str]) -> Option<String> {
    element.text_at(path).filter(|text| !text.is_empty()).map(|text| text.into_owned())
}

/// An attribute of a child.
pub(super) fn attribute(element: &Element, path: &[&str], name: &str) -> Option<String> {
    element.at(path)?.attribute(name).map(str::to_owned)
}

/// A UUID that must be there.
pub(super) fn uuid(element: &Element, path: &[&str]) -> Result<Uuid> {
    parse(element, path, &text(element, path)?, "a UUID")
}

/// A number that may be absent.
pub(super) fn optional_number<T: FromStr>(element: &Element, path: &[&str]) -> Result<Option<T>> {
    optional_text(element, path).map(|text| parse(element, path, &text, "a whole number")).transpose()
}

/// A size in bytes, by the `unit` that libvirt writes beside it; without one it is in bytes.
pub(super) fn bytes(element: &Element, path: &[&str]) -> Result<Option<u64>> {
    let Some(number) = optional_number::<u64>(element, path)? else { return Ok(None) };
    let unit = attribute(element, path, "unit").unwrap_or_else(|| "bytes".into());
    let factor = match unit.as_str() {
        "bytes" | "B" | "b" => Some(1u64),
        "KiB" | "k" | "K" => Some(1 << 10),
        "MiB" | "M" => Some(1 << 20),
        "GiB" | "G" => Some(1 << 30),
        "TiB" | "T" => Some(1 << 40),
        _ => None,
    };
    match factor.and_then(|factor| number.checked_mul(factor)) {
        Some(bytes) => Ok(Some(bytes)),
        None => Err(Error::Value { path: show(element, path), value: format!("{number} {unit}"), expected: "a size" }),
    }
}

pub(super) fn parse<T: FromStr>(element: &Element, path: &[&str], value: &str, expected: &'static str) -> Result<T> {
    value.trim().parse().map_err(|_| Error::Value { path: show(element, path), value: value.to_owned(), expected })
}
