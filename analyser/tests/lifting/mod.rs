//! What the tests of lifting share.

use kubevmm_analyser::{Element, Node, Value};

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

/// Paths of the leaves of a value: scalars, nulls and empty collections.
pub(crate) fn leaves(value: &Value<'_>) -> Vec<Vec<usize>> {
    fn collect(value: &Value<'_>, path: &mut Vec<usize>, out: &mut Vec<Vec<usize>>) {
        let inner: Vec<&Value<'_>> = match value {
            Value::Mapping(entries) => entries.iter().map(|(_, value)| value).collect(),
            Value::Sequence(items) => items.iter().collect(),
            _ => Vec::new(),
        };
        if inner.is_empty() && !path.is_empty() {
            out.push(path.clone());
        }
        for (index, value) in inner.into_iter().enumerate() {
            path.push(index);
            collect(value, path, out);
            path.pop();
        }
    }
    let mut out = Vec::new();
    collect(value, &mut Vec::new(), &mut out);
    out
}

/// The value without one leaf.
pub(crate) fn without(value: &Value<'static>, path: &[usize]) -> Value<'static> {
    let mut copy = value.clone();
    let mut at = &mut copy;
    for index in &path[..path.len() - 1] {
        at = match at {
            Value::Mapping(entries) => &mut entries[*index].1,
            Value::Sequence(items) => &mut items[*index],
            other => panic!("{other:?} has nothing below it"),
        };
    }
    match at {
        Value::Mapping(entries) => drop(entries.remove(path[path.len() - 1])),
        Value::Sequence(items) => drop(items.remove(path[path.len() - 1])),
        other => panic!("{other:?} has nothing below it"),
    }
    copy
}
