//! What of a document no schema of libvirt's knows.

use std::collections::HashMap;
use std::fmt;

use crate::canonical::root_shape;
use crate::scope::Scope;
use crate::shapes::{self, Shape};
use crate::tree::{Element, Node, Tree, declared_prefix, split_name};

/// Something that no schema knows at its place. libvirt ignores most of such; it may be a slip, or newer than the
/// schemas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// Elements from the root, each with its place among its siblings of that name where it has some.
    pub path: String,
    /// What it is.
    pub what: UnknownKind,
}

/// Kinds of [`Unknown`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownKind {
    /// The root is that of no document of libvirt's.
    Root,
    /// An element.
    Element,
    /// An attribute.
    Attribute,
    /// Text in an element that has none.
    Text,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match self.what {
            UnknownKind::Root => {
                write!(f, "{path}: not a document of libvirt's; those begin with one of ")?;
                for (index, root) in shapes::roots().enumerate() {
                    write!(f, "{}{root}", if index == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            UnknownKind::Element => write!(f, "{path}: libvirt's schemas have no such element here"),
            UnknownKind::Attribute => write!(f, "{path}: libvirt's schemas have no such attribute here"),
            UnknownKind::Text => write!(f, "{path}: libvirt's schemas have no text here"),
        }
    }
}

impl Tree {
    /// Names and text that libvirt's schemas do not have where they stand, in document order. Values are not checked.
    pub fn unknown(&self) -> Vec<Unknown> {
        let mut search = Search { scope: Scope::default(), path: format!("/{}", self.root.name()), found: Vec::new() };
        match root_shape(&self.root) {
            Some(shape) => search.element(&self.root, shape),
            None => search.add("", UnknownKind::Root),
        }
        search.found
    }
}

struct Search {
    scope: Scope,
    path: String,
    found: Vec<Unknown>,
}

impl Search {
    fn add(&mut self, below: &str, what: UnknownKind) {
        self.found.push(Unknown { path: format!("{}{below}", self.path), what });
    }

    fn element(&mut self, element: &Element, shape: &Shape) {
        let before = self.scope.enter(element);
        for attribute in element.attributes() {
            let is_known = shape.attribute(&attribute.name).is_some() || declared_prefix(&attribute.name).is_some();
            if !is_known && !shape.takes_anything {
                self.add(&format!("/@{}", attribute.name), UnknownKind::Attribute);
            }
        }
        let mut counts = HashMap::new();
        for node in element.nodes() {
            match node {
                Node::Element(child) => {
                    let count: &mut usize = counts.entry(child.name()).or_default();
                    *count += 1;
                    self.child(child, *count, shape);
                }
                Node::Text(text) if shape.text.is_none() && !text.trim().is_empty() => self.add("", UnknownKind::Text),
                Node::Text(_) => {}
            }
        }
        self.scope.leave(before);
    }

    /// A child, and its place among its siblings of that name.
    fn child(&mut self, child: &Element, place: usize, shape: &Shape) {
        let (prefix, name) = split_name(child.name());
        let known = shape.child(self.scope.namespace(child, prefix), name);
        let length = self.path.len();
        self.path.push('/');
        self.path.push_str(child.name());
        if known.is_some_and(|c| c.list.is_some()) {
            self.path.push_str(&format!("[{place}]"));
        }
        match known {
            Some(known) => self.element(child, known.shape()),
            None if shape.takes_anything => {}
            None => self.add("", UnknownKind::Element),
        }
        self.path.truncate(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(xml: &str) -> Vec<String> {
        Tree::from_xml(xml).unwrap().unknown().iter().map(Unknown::to_string).collect()
    }

    #[test]
    fn names_the_place() {
        let xml =
            "<domain type='kvm'><name>a</name><nmae/><devices><disk/><disk tpye='file'>x</disk></devices></domain>";
        assert_eq!(
            unknown(xml),
            [
                "/domain/nmae: libvirt's schemas have no such element here",
                "/domain/devices/disk[2]/@tpye: libvirt's schemas have no such attribute here",
                "/domain/devices/disk[2]: libvirt's schemas have no text here",
            ]
        );
        assert!(unknown("<html/>")[0].starts_with("/html: not a document of libvirt's; those begin with one of cap"));
    }

    #[test]
    fn metadata_is_anybodys() {
        assert!(unknown("<domain><metadata><a:b xmlns:a='urn:a' c='1'>t</a:b></metadata></domain>").is_empty());
    }
}
