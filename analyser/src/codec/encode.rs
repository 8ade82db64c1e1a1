//! From tree to data.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use super::{ATTRIBUTE, CONTENT, scalar};
use crate::MANY;
use crate::canonical::root_shape;
use crate::data::{Collection, Leaf, Sink};
use crate::scope::{Scope, is_same};
use crate::shapes::{Child, Scalar, Shape, TEXT};
use crate::tree::{Attribute, Element, Node, Tree, declared_prefix, split_name};

/// Gives the document to a sink: a mapping with the root's name as its one key.
pub(crate) fn encode<'a>(tree: &'a Tree, sink: &mut impl Sink<'a>) {
    let root = &tree.root;
    let mut encoder = Encoder { scope: Scope::default(), places: Vec::new(), sink };
    encoder.sink.begin(Collection::Mapping);
    encoder.sink.key(Cow::Borrowed(root.name()));
    encoder.element(root, root_shape(root));
    encoder.sink.end();
}

struct Encoder<'a, 's, S> {
    scope: Scope,
    /// Children of the elements that are being encoded.
    places: Vec<Place<'a>>,
    sink: &'s mut S,
}

/// A child element with what the schema says of it.
#[derive(Clone, Copy)]
struct Place<'a> {
    element: &'a Element,
    child: Option<&'static Child>,
    /// Whether the parent's declarations alone tell the namespace of the child's name.
    is_declared_outside: bool,
}

impl Place<'_> {
    fn shape(&self) -> Option<&'static Shape> {
        self.child.map(Child::shape)
    }
}

/// The names of an element's attributes.
struct AttributeNames<'a> {
    element: &'a Element,
    /// All of them, where they are many.
    set: Option<HashSet<&'a str>>,
}

impl<'a> AttributeNames<'a> {
    fn of(element: &'a Element) -> Self {
        let attributes = element.attributes();
        let set = (attributes.len() >= MANY).then(|| attributes.iter().map(Attribute::name).collect());
        Self { element, set }
    }

    fn contains(&self, name: &str) -> bool {
        match &self.set {
            Some(set) => set.contains(name),
            None => self.element.attribute(name).is_some(),
        }
    }
}

impl<'a, S: Sink<'a>> Encoder<'a, '_, S> {
    fn element(&mut self, element: &'a Element, shape: Option<&'static Shape>) {
        let text_kind = shape.and_then(|s| s.text);
        if let (true, Some(kind)) = (element.attributes().is_empty(), text_kind) {
            match element.nodes() {
                [] => return self.sink.leaf(Leaf::String(Cow::Borrowed(""))),
                [Node::Text(text)] => return self.sink.leaf(scalar::encode(text, kind)),
                _ => {}
            }
        }
        let before = self.scope.enter(element);
        self.sink.begin(Collection::Mapping);
        self.attributes(element, shape);
        match element.nodes() {
            [] => {}
            [Node::Text(text)] => {
                self.sink.key(Cow::Borrowed(shape.map_or(TEXT, |s| s.text_key)));
                self.sink.leaf(scalar::encode(text, text_kind.unwrap_or(Scalar::Plain)));
            }
            _ => self.content(element, shape),
        }
        self.sink.end();
        self.scope.leave(before);
    }

    fn attributes(&mut self, element: &'a Element, shape: Option<&Shape>) {
        for attribute in element.attributes() {
            let known = shape.and_then(|s| s.attribute(&attribute.name));
            let is_taken = known.is_none() && shape.is_some_and(|s| self.is_key_of_content(s, &attribute.name));
            self.sink.key(if is_taken {
                Cow::Owned(format!("{ATTRIBUTE}{}", attribute.name))
            } else {
                Cow::Borrowed(&*attribute.name)
            });
            // The reader looks for declarations before anything else, and only among texts.
            self.sink.leaf(match declared_prefix(&attribute.name) {
                Some(_) => Leaf::String(Cow::Borrowed(&attribute.value)),
                None => scalar::encode(&attribute.value, known.unwrap_or(Scalar::Plain)),
            });
        }
    }

    /// Whether a key is read as text or as a child of the schema.
    fn is_key_of_content(&self, shape: &Shape, key: &str) -> bool {
        let (prefix, name) = split_name(key);
        let namespace = self.scope.resolve(prefix);
        key == shape.text_key || shape.child(namespace, name).is_some() || shape.list(namespace, name).is_some()
    }

    fn content(&mut self, element: &'a Element, shape: Option<&'static Shape>) {
        let start = self.places.len();
        for child in element.elements() {
            let place = self.place(child, shape);
            self.places.push(place);
        }
        let end = self.places.len();
        if end - start < element.nodes().len() || !are_grouped(&self.places[start..]) {
            self.in_order(element, start, shape);
        } else {
            let names = AttributeNames::of(element);
            let mut at = start;
            while at < end {
                at = self.group(at..end, &names, shape);
            }
        }
        self.places.truncate(start);
    }

    /// The children of one name that come first among `places`; gives the index behind the last.
    fn group(&mut self, places: Range<usize>, names: &AttributeNames<'_>, shape: Option<&'static Shape>) -> usize {
        let start = places.start;
        let first = self.places[start];
        let is_same = |place: &&Place<'_>| place.element.name() == first.element.name();
        let group = &self.places[places];
        let group = &group[..group.iter().take_while(is_same).count()];
        let end = start + group.len();
        let list = first.child.and_then(|c| c.list).filter(|_| group.iter().all(|place| place.is_declared_outside));
        self.sink.key(match list {
            Some(list) => list_key(first.element, list),
            None => self.name_key(&first, names, shape),
        });
        if list.is_none() && end - start == 1 {
            self.element(first.element, first.shape());
            return end;
        }
        self.sink.begin(Collection::Sequence);
        for at in start..end {
            let place = self.places[at];
            self.element(place.element, place.shape());
        }
        self.sink.end();
        end
    }

    fn place(&self, element: &'a Element, shape: Option<&'static Shape>) -> Place<'a> {
        let Some(shape) = shape else { return Place { element, child: None, is_declared_outside: true } };
        let (prefix, name) = split_name(element.name());
        let namespace = self.scope.namespace(element, prefix);
        let is_declared_outside = is_same(self.scope.resolve(prefix), namespace);
        Place { element, child: shape.child(namespace, name), is_declared_outside }
    }

    /// The key of children by their own name.
    fn name_key(&self, place: &Place<'a>, names: &AttributeNames<'_>, shape: Option<&Shape>) -> Cow<'a, str> {
        let name = place.element.name();
        let (prefix, local) = split_name(name);
        let is_free = prefix.is_empty() && place.child.is_some_and(|c| c.has_free_name && c.namespace.is_empty());
        let is_taken = names.contains(name)
            || !is_free
                && shape.is_some_and(|s| {
                    let list = s.list(self.scope.resolve(prefix), local);
                    s.attribute(name).is_some() || s.text_key == name || list.is_some_and(|list| list.name != local)
                });
        if is_taken { Cow::Owned(format!("<{name}>")) } else { Cow::Borrowed(name) }
    }

    /// Text and children one by one; `start` is the first child's place.
    fn in_order(&mut self, element: &'a Element, start: usize, shape: Option<&'static Shape>) {
        let kind = shape.and_then(|s| s.text).unwrap_or(Scalar::Plain);
        self.sink.key(Cow::Borrowed(CONTENT));
        self.sink.begin(Collection::Sequence);
        let mut at = start;
        for node in element.nodes() {
            match node {
                Node::Text(text) => self.sink.leaf(scalar::encode(text, kind)),
                Node::Element(child) => {
                    self.sink.begin(Collection::Mapping);
                    self.sink.key(Cow::Borrowed(child.name()));
                    self.element(child, self.places[at].shape());
                    self.sink.end();
                    at += 1;
                }
            }
        }
        self.sink.end();
    }
}

fn list_key<'a>(element: &Element, list: &'static str) -> Cow<'a, str> {
    match element.prefix() {
        "" => Cow::Borrowed(list),
        prefix => Cow::Owned(format!("{prefix}:{list}")),
    }
}

/// Whether all elements of one name stand together.
fn are_grouped(places: &[Place<'_>]) -> bool {
    let is_next = |a: &Place<'_>, b: &Place<'_>| match (a.child, b.child) {
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
