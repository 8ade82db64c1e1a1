//! From tree to value.

use std::borrow::Cow;

use super::{ATTRIBUTE, CONTENT, scalar};
use crate::canonical::root_shape;
use crate::scope::Scope;
use crate::shapes::{Child, Scalar, Shape, TEXT};
use crate::tree::{Element, Node, Tree, declared_prefix, split_name};
use crate::value::Value;

impl Tree {
    /// The document as data: a mapping with the root's name as its one key. The tree is taken as it is; only
    /// [canonical](Tree::canonical) ones that say the same give the same.
    pub fn to_value(&self) -> Value<'_> {
        let root = &self.root;
        let mut encoder = Encoder { scope: Scope::default() };
        let value = encoder.element(root, root_shape(root));
        Value::Mapping(vec![(Cow::Borrowed(root.name()), value)])
    }
}

struct Encoder<'a> {
    scope: Scope<'a>,
}

type Entries<'a> = Vec<(Cow<'a, str>, Value<'a>)>;

/// A child element with what the schema says of it.
struct Place<'a, 's> {
    element: &'a Element,
    child: Option<&'s Child>,
    /// Whether the parent's declarations alone tell the namespace of the child's name.
    is_declared_outside: bool,
}

impl<'a> Encoder<'a> {
    fn element(&mut self, element: &'a Element, shape: Option<&'static Shape>) -> Value<'a> {
        let text_kind = shape.and_then(|s| s.text);
        if let (true, Some(kind)) = (element.attributes().is_empty(), text_kind) {
            match element.nodes() {
                [] => return Value::String(Cow::Borrowed("")),
                [Node::Text(text)] => return scalar::encode(text, kind),
                _ => {}
            }
        }
        let before = self.enter(element);
        let mut entries = Vec::with_capacity(element.attributes().len() + element.nodes().len().min(16));
        self.attributes(element, shape, &mut entries);
        match element.nodes() {
            [] => {}
            [Node::Text(text)] => {
                let key = shape.map_or(TEXT, |s| s.text_key);
                entries.push((Cow::Borrowed(key), scalar::encode(text, text_kind.unwrap_or(Scalar::Plain))));
            }
            _ => self.content(element, shape, &mut entries),
        }
        self.scope.leave(before);
        Value::Mapping(entries)
    }

    fn enter(&mut self, element: &'a Element) -> usize {
        self.scope.enter(element.attributes().iter().map(|a| (&*a.name, &*a.value)))
    }

    fn attributes(&self, element: &'a Element, shape: Option<&Shape>, entries: &mut Entries<'a>) {
        for attribute in element.attributes() {
            let known = shape.and_then(|s| s.attribute(&attribute.name));
            let is_taken = known.is_none() && shape.is_some_and(|s| self.is_key_of_content(s, &attribute.name));
            let key = if is_taken {
                Cow::Owned(format!("{ATTRIBUTE}{}", attribute.name))
            } else {
                Cow::Borrowed(&*attribute.name)
            };
            // The reader looks for declarations before anything else, and only among texts.
            let value = match declared_prefix(&attribute.name) {
                Some(_) => Value::String(Cow::Borrowed(&attribute.value)),
                None => scalar::encode(&attribute.value, known.unwrap_or(Scalar::Plain)),
            };
            entries.push((key, value));
        }
    }

    /// Whether a key is read as text or as a child of the schema.
    fn is_key_of_content(&self, shape: &Shape, key: &str) -> bool {
        let (prefix, name) = split_name(key);
        let namespace = self.scope.resolve(prefix);
        key == shape.text_key || shape.child(namespace, name).is_some() || shape.list(namespace, name).is_some()
    }

    fn content(&mut self, element: &'a Element, shape: Option<&'static Shape>, entries: &mut Entries<'a>) {
        let places: Vec<_> = element.elements().map(|child| self.place(child, shape)).collect();
        if places.len() < element.nodes().len() || !are_grouped(&places) {
            let items = self.in_order(element, &places, shape);
            entries.push((Cow::Borrowed(CONTENT), Value::Sequence(items)));
            return;
        }
        for group in places.chunk_by(|a, b| a.element.name() == b.element.name()) {
            let is_declared_outside = group.iter().all(|place| place.is_declared_outside);
            let Some(first) = group.first() else { continue };
            let list = if is_declared_outside { first.child.and_then(|c| c.list) } else { None };
            let key = match list {
                Some(list) => list_key(first.element, list),
                None => self.name_key(first, element, shape),
            };
            let mut values: Vec<_> = group.iter().map(|p| self.element(p.element, p.child.map(Child::shape))).collect();
            let value = match values.pop() {
                Some(only) if values.is_empty() && list.is_none() => only,
                last => {
                    values.extend(last);
                    Value::Sequence(values)
                }
            };
            entries.push((key, value));
        }
    }

    fn place<'s>(&mut self, element: &'a Element, shape: Option<&'s Shape>) -> Place<'a, 's> {
        let Some(shape) = shape else { return Place { element, child: None, is_declared_outside: true } };
        let (prefix, name) = split_name(element.name());
        let outside = self.scope.resolve(prefix);
        let before = self.enter(element);
        let namespace = self.scope.resolve(prefix);
        self.scope.leave(before);
        Place { element, child: shape.child(namespace, name), is_declared_outside: outside == namespace }
    }

    /// The key of children by their own name.
    fn name_key(&self, place: &Place<'a, '_>, parent: &Element, shape: Option<&Shape>) -> Cow<'a, str> {
        let name = place.element.name();
        let (prefix, local) = split_name(name);
        let is_free = prefix.is_empty() && place.child.is_some_and(|c| c.has_free_name && c.namespace.is_empty());
        let is_taken = parent.attribute(name).is_some()
            || !is_free
                && shape.is_some_and(|s| {
                    let list = s.list(self.scope.resolve(prefix), local);
                    s.attribute(name).is_some() || s.text_key == name || list.is_some_and(|list| list.name != local)
                });
        if is_taken { Cow::Owned(format!("<{name}>")) } else { Cow::Borrowed(name) }
    }

    fn in_order(
        &mut self,
        element: &'a Element,
        places: &[Place<'a, '_>],
        shape: Option<&'static Shape>,
    ) -> Vec<Value<'a>> {
        let kind = shape.and_then(|s| s.text).unwrap_or(Scalar::Plain);
        let mut places = places.iter();
        let mut items = Vec::with_capacity(element.nodes().len());
        for node in element.nodes() {
            match node {
                Node::Text(text) => items.push(scalar::encode(text, kind)),
                Node::Element(_) => items.extend(places.next().map(|place| {
                    let value = self.element(place.element, place.child.map(Child::shape));
                    Value::Mapping(vec![(Cow::Borrowed(place.element.name()), value)])
                })),
            }
        }
        items
    }
}

fn list_key<'a>(element: &Element, list: &'static str) -> Cow<'a, str> {
    match element.prefix() {
        "" => Cow::Borrowed(list),
        prefix => Cow::Owned(format!("{prefix}:{list}")),
    }
}

/// Whether all elements of one name stand together.
fn are_grouped(places: &[Place<'_, '_>]) -> bool {
    let is_next = |a: &Place<'_, '_>, b: &Place<'_, '_>| match (a.child, b.child) {
        (Some(before), Some(after)) => before.rank < after.rank || a.element.name() == b.element.name(),
        _ => false,
    };
    // The usual case: all known, and in the schema's order.
    if places.is_sorted_by(is_next) {
        return true;
    }
    let mut names: Vec<&str> = places.iter().map(|p| p.element.name()).collect();
    names.dedup();
    let runs = names.len();
    names.sort_unstable();
    names.dedup();
    names.len() == runs
}
