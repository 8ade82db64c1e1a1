//! The canonical form of a document.

use std::collections::HashMap;

use crate::shapes::{self, Shape};
use crate::tree::{Element, Node, Tree, split_name};

impl Tree {
    /// The same document in canonical form: without white space where libvirt's schemas have no text, and siblings of
    /// different names in the schema's order where it allows any. Names of no schema come last there, by their first
    /// appearance. Siblings of one name, attributes and everything below unknown elements keep their order.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let mut tree = self.clone();
        tree.make_canonical();
        tree
    }

    pub(crate) fn make_canonical(&mut self) {
        let shape = root_shape(&self.root);
        canonical(&mut self.root, shape, &mut Declared::default());
    }
}

/// The shape of a document's root; a root in a namespace is none of libvirt's.
pub(crate) fn root_shape(root: &Element) -> Option<&'static Shape> {
    let is_plain = root.prefix().is_empty() && root.namespace_of("").is_none_or(str::is_empty);
    if is_plain { shapes::root(root.name()) } else { None }
}

/// Declarations by value, for a walk that changes the tree.
#[derive(Default)]
struct Declared(Vec<(String, String)>);

impl Declared {
    fn enter(&mut self, element: &Element) -> usize {
        let before = self.0.len();
        for attribute in element.attributes() {
            if let Some(prefix) = crate::tree::declared_prefix(&attribute.name) {
                self.0.push((prefix.to_owned(), attribute.value.clone()));
            }
        }
        before
    }

    fn resolve(&self, prefix: &str) -> &str {
        self.0.iter().rev().find(|(there, _)| there == prefix).map_or("", |(_, namespace)| namespace)
    }
}

fn canonical(element: &mut Element, shape: Option<&'static Shape>, declared: &mut Declared) {
    // Below an element that no schema knows, nothing is known.
    let Some(shape) = shape else { return };
    drop_blank_text(element, shape);
    let before = declared.enter(element);
    if !shape.is_ordered {
        order(element, shape, declared);
    }
    for node in element.nodes_mut() {
        if let Node::Element(child) = node {
            let inner = declared.enter(child);
            let (prefix, name) = split_name(child.name());
            let of_child = shape.child(declared.resolve(prefix), name).map(|c| c.shape());
            declared.0.truncate(inner);
            canonical(child, of_child, declared);
        }
    }
    declared.0.truncate(before);
}

fn drop_blank_text(element: &mut Element, shape: &Shape) {
    let is_blank = |n: &Node| matches!(n, Node::Text(t) if t.bytes().all(|b| b.is_ascii_whitespace()));
    if shape.text.is_none() && element.nodes().iter().all(|n| matches!(n, Node::Element(_)) || is_blank(n)) {
        element.nodes_mut().retain(|n| matches!(n, Node::Element(_)));
    }
}

fn order(element: &mut Element, shape: &Shape, declared: &mut Declared) {
    if element.nodes().iter().any(|n| matches!(n, Node::Text(_))) {
        return;
    }
    let mut unknown = HashMap::<String, usize>::new();
    let mut ranks = Vec::with_capacity(element.nodes().len());
    for child in element.elements() {
        let before = declared.enter(child);
        let (prefix, name) = split_name(child.name());
        let rank = match shape.child(declared.resolve(prefix), name) {
            Some(known) => known.rank,
            None => {
                let next = shape.child_count() + unknown.len();
                *unknown.entry(child.name().to_owned()).or_insert(next)
            }
        };
        declared.0.truncate(before);
        ranks.push(rank);
    }
    if ranks.is_sorted() {
        return;
    }
    let mut nodes: Vec<(usize, Node)> = ranks.into_iter().zip(std::mem::take(element.nodes_mut())).collect();
    nodes.sort_by_key(|(rank, _)| *rank);
    *element.nodes_mut() = nodes.into_iter().map(|(_, node)| node).collect();
}
