//! The canonical form of a document.

use std::collections::HashMap;

use crate::scope::Scope;
use crate::shapes::{self, Child, Shape};
use crate::tree::{Element, Node, Tree, split_name};

impl Tree {
    /// The same document in canonical form: without white space where libvirt's schemas have no text, and siblings of
    /// different names in the schema's order where it allows any. Names of no schema come last there, by their first
    /// appearance. Siblings of one name, attributes and everything below unknown elements keep their order.
    #[must_use]
    pub fn canonical(&self) -> Self {
        self.clone().into_canonical()
    }

    /// [`Tree::canonical`] without a copy.
    #[must_use]
    pub fn into_canonical(mut self) -> Self {
        let shape = root_shape(&self.root);
        canonical(&mut self.root, shape, &mut Scope::default());
        self
    }
}

/// The shape of a document's root; a root in a namespace is none of libvirt's.
pub(crate) fn root_shape(root: &Element) -> Option<&'static Shape> {
    let is_plain = root.prefix().is_empty() && root.namespace_of("").is_none_or(str::is_empty);
    if is_plain { shapes::root(root.name()) } else { None }
}

/// What the schema says of a child of an element whose declarations are in `scope`.
fn known(shape: &'static Shape, child: &Element, scope: &Scope) -> Option<&'static Child> {
    let (prefix, name) = split_name(child.name());
    shape.child(scope.namespace(child, prefix), name)
}

/// `scope` has what is declared around the element.
fn canonical(element: &mut Element, shape: Option<&'static Shape>, scope: &mut Scope) {
    // Below an element that no schema knows, nothing is known.
    let Some(shape) = shape else { return };
    drop_blank_text(element, shape);
    if element.nodes().is_empty() {
        return;
    }
    let before = scope.enter(element);
    let mut last_rank = 0;
    let mut is_sorted = true;
    for node in element.nodes_mut() {
        let Node::Element(child) = node else { continue };
        let known = known(shape, child, scope);
        canonical(child, known.map(Child::shape), scope);
        // Among unknown children, only their names tell.
        is_sorted &= known.is_some_and(|known| known.rank >= last_rank);
        last_rank = known.map_or(0, |known| known.rank);
    }
    let has_text = element.nodes().iter().any(|n| matches!(n, Node::Text(_)));
    if !is_sorted && !shape.is_ordered && !has_text {
        order(element, shape, scope);
    }
    scope.leave(before);
}

fn drop_blank_text(element: &mut Element, shape: &Shape) {
    let is_blank = |n: &Node| matches!(n, Node::Text(t) if t.bytes().all(|b| b.is_ascii_whitespace()));
    let has_text = element.nodes().iter().any(|n| matches!(n, Node::Text(_)));
    if has_text && shape.text.is_none() && element.nodes().iter().all(|n| matches!(n, Node::Element(_)) || is_blank(n))
    {
        element.nodes_mut().retain(|n| matches!(n, Node::Element(_)));
    }
}

/// Sorts children by rank. `scope` has what the element declares.
fn order(element: &mut Element, shape: &'static Shape, scope: &Scope) {
    let mut unknown = HashMap::<String, usize>::new();
    let mut ranks = Vec::with_capacity(element.nodes().len());
    for child in element.elements() {
        let rank = match known(shape, child, scope) {
            Some(known) => known.rank,
            None => {
                let next = shape.child_count() + unknown.len();
                *unknown.entry(child.name().to_owned()).or_insert(next)
            }
        };
        ranks.push(rank);
    }
    if ranks.is_sorted() {
        return;
    }
    let mut nodes: Vec<(usize, Node)> = ranks.into_iter().zip(std::mem::take(element.nodes_mut())).collect();
    nodes.sort_by_key(|(rank, _)| *rank);
    *element.nodes_mut() = nodes.into_iter().map(|(_, node)| node).collect();
}
