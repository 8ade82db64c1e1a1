//! Documents are compared without the order of attributes.

use kubevmm_analyser::{Element, Node};

/// The element with its attributes sorted: XML gives their order no meaning.
pub(crate) fn sorted(element: &Element) -> Element {
    let mut attributes: Vec<_> = element.attributes().iter().collect();
    attributes.sort_by_key(|a| a.name().to_owned());
    let empty = Element::new(element.name().to_owned());
    let start = attributes.into_iter().fold(empty, |e, a| e.attr(a.name().to_owned(), a.value()));
    element.nodes().iter().fold(start, |e, node| match node {
        Node::Element(child) => e.child(sorted(child)),
        Node::Text(text) => e.text(text),
    })
}
