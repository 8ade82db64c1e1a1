//! The tree of a libvirt document: elements with attributes in document order and mixed content.
//!
//! Names are kept as written, with their prefix (`qemu:arg`), and namespace declarations are attributes
//! (`xmlns:qemu`). [`Element::namespace_of`] resolves a prefix where the namespace matters.

mod builder;
mod name;

use std::borrow::Cow;
use std::fmt::Display;

pub(crate) use builder::{Builder, is_white_space};
use compact_str::{CompactString, ToCompactString};
pub(crate) use name::Name;

/// A whole XML document: its root element. Comments, the XML declaration and insignificant white space are not part
/// of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The root element.
    pub root: Element,
}

/// One attribute, a namespace declaration included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    pub(crate) name: Name,
    pub(crate) value: CompactString,
}

impl Attribute {
    /// Name as written, with its prefix.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Value with references resolved.
    pub fn value(&self) -> &str {
        &self.value
    }
}

/// A child of an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A child element.
    Element(Element),
    /// Character data, references resolved. Two texts are never neighbours, and a text is never empty.
    Text(CompactString),
}

/// An element: name, attributes and content. The methods that take `self` build an element in one expression; the ones
/// that take `&self` read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    name: Name,
    attributes: Vec<Attribute>,
    nodes: Vec<Node>,
}

impl Tree {
    /// A document with this root.
    pub fn new(root: Element) -> Self {
        Self { root }
    }
}

/// Building.
impl Element {
    /// An empty element.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self { name: name.into().into(), attributes: Vec::new(), nodes: Vec::new() }
    }

    /// An element that holds only text, as in `<name>web</name>`.
    pub fn leaf(name: impl Into<Cow<'static, str>>, text: impl Display) -> Self {
        Self::new(name).text(text)
    }

    /// Adds an attribute, or replaces the value of the one that is there.
    #[must_use]
    pub fn attr(mut self, name: impl Into<Cow<'static, str>>, value: impl Display) -> Self {
        self.set_attribute(name, value);
        self
    }

    /// Adds the attribute if there is a value.
    #[must_use]
    pub fn attr_opt(self, name: impl Into<Cow<'static, str>>, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.attr(name, value),
            None => self,
        }
    }

    /// Appends a child element.
    #[must_use]
    pub fn child(mut self, child: Element) -> Self {
        self.nodes.push(Node::Element(child));
        self
    }

    /// Appends child elements; an `Option` is a sequence of none or one.
    #[must_use]
    pub fn children(mut self, children: impl IntoIterator<Item = Element>) -> Self {
        self.nodes.extend(children.into_iter().map(Node::Element));
        self
    }

    /// Appends text.
    #[must_use]
    pub fn text(mut self, text: impl Display) -> Self {
        self.push_text(&text.to_compact_string());
        self
    }
}

/// Changing.
impl Element {
    /// Sets an attribute; a new one comes last.
    pub fn set_attribute(&mut self, name: impl Into<Cow<'static, str>>, value: impl Display) {
        let (name, value) = (Name::from(name.into()), value.to_compact_string());
        match self.attributes.iter_mut().find(|a| a.name == name) {
            Some(there) => there.value = value,
            None => self.attributes.push(Attribute { name, value }),
        }
    }

    /// Appends a child element.
    pub fn push(&mut self, child: Element) {
        self.nodes.push(Node::Element(child));
    }

    /// Appends text, joined with a text that comes just before it.
    pub fn push_text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        match self.nodes.last_mut() {
            Some(Node::Text(there)) => there.push_str(text),
            None => {
                // Most elements with text hold nothing else.
                self.nodes.reserve_exact(1);
                self.nodes.push(Node::Text(text.into()));
            }
            Some(Node::Element(_)) => self.nodes.push(Node::Text(text.into())),
        }
    }

    /// Removes all child elements of this name and returns them.
    pub fn remove(&mut self, name: &str) -> Vec<Element> {
        let mut removed = Vec::new();
        let mut kept = Vec::with_capacity(self.nodes.len());
        for node in std::mem::take(&mut self.nodes) {
            match node {
                Node::Element(e) if *e.name == *name => removed.push(e),
                other => kept.push(other),
            }
        }
        self.nodes = kept;
        removed
    }

    /// Child elements, to be changed.
    pub fn elements_mut(&mut self) -> impl Iterator<Item = &mut Element> {
        self.nodes.iter_mut().filter_map(|n| match n {
            Node::Element(e) => Some(e),
            Node::Text(_) => None,
        })
    }

    /// Child elements and texts, to be changed.
    pub fn nodes_mut(&mut self) -> &mut Vec<Node> {
        &mut self.nodes
    }
}

/// Reading.
impl Element {
    /// Name as written, with its prefix.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Prefix of the name, or the empty string.
    pub fn prefix(&self) -> &str {
        split_name(&self.name).0
    }

    /// Name without its prefix.
    pub fn local_name(&self) -> &str {
        split_name(&self.name).1
    }

    /// Attributes in document order.
    pub fn attributes(&self) -> &[Attribute] {
        &self.attributes
    }

    /// Value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|a| *a.name == *name).map(|a| a.value.as_str())
    }

    /// Content in document order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Child elements in document order.
    pub fn elements(&self) -> impl DoubleEndedIterator<Item = &Element> {
        self.nodes.iter().filter_map(|n| match n {
            Node::Element(e) => Some(e),
            Node::Text(_) => None,
        })
    }

    /// Child elements of this name, in document order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = &'a Element> {
        self.elements().filter(move |e| *e.name == *name)
    }

    /// First child element of this name.
    pub fn find(&self, name: &str) -> Option<&Element> {
        self.elements().find(|e| *e.name == *name)
    }

    /// The element at the end of a path of first children, as in `at(&["os", "type"])`.
    pub fn at(&self, path: &[&str]) -> Option<&Element> {
        path.iter().try_fold(self, |element, name| element.find(name))
    }

    /// The element's own text, without that of its children.
    pub fn own_text(&self) -> Cow<'_, str> {
        match self.nodes.as_slice() {
            [] => Cow::Borrowed(""),
            [Node::Text(text)] => Cow::Borrowed(text),
            nodes => nodes.iter().filter_map(|n| if let Node::Text(t) = n { Some(t.as_str()) } else { None }).collect(),
        }
    }

    /// Text of the element at the end of a path of first children.
    pub fn text_at(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        self.at(path).map(Element::own_text)
    }

    /// Whether there are neither attributes nor content.
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty() && self.nodes.is_empty()
    }

    /// The namespace that this element itself declares for a prefix (the empty one: the default namespace).
    pub fn namespace_of(&self, prefix: &str) -> Option<&str> {
        self.attributes.iter().find(|a| declared_prefix(&a.name) == Some(prefix)).map(|a| a.value.as_str())
    }
}

/// Splits `prefix:local`; a name without a prefix has the empty one.
pub fn split_name(name: &str) -> (&str, &str) {
    // Names are short: a search that prepares for long texts costs more than it saves.
    match name.bytes().position(|b| b == b':') {
        Some(at) => (&name[..at], &name[at + 1..]),
        None => ("", name),
    }
}

/// The prefix that an attribute of this name declares: `qemu` for `xmlns:qemu`, the empty one for `xmlns`.
pub fn declared_prefix(attribute: &str) -> Option<&str> {
    // Asked for every attribute, and hardly ever true.
    if attribute.as_bytes().first() != Some(&b'x') {
        return None;
    }
    let rest = attribute.strip_prefix("xmlns")?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix(':') }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_and_reads() {
        let domain = Element::new("domain")
            .attr("type", "kvm")
            .attr_opt("id", None::<u32>)
            .child(Element::leaf("name", "web"))
            .child(Element::new("os").child(Element::leaf("type", "hvm").attr("arch", "x86_64")));
        assert_eq!(domain.attribute("type"), Some("kvm"));
        assert_eq!(domain.attribute("id"), None);
        assert_eq!(domain.text_at(&["os", "type"]).as_deref(), Some("hvm"));
        assert_eq!(domain.at(&["os", "type"]).and_then(|t| t.attribute("arch")), Some("x86_64"));
    }

    #[test]
    fn neighbouring_texts_are_one() {
        let e = Element::new("a").text("x").text("").text("y");
        assert_eq!(e.nodes(), [Node::Text("xy".into())]);
    }

    #[test]
    fn remove_takes_all_of_a_name() {
        let mut e = Element::new("a").child(Element::new("b")).child(Element::new("c")).child(Element::new("b"));
        assert_eq!(e.remove("b").len(), 2);
        assert_eq!(e.elements().map(Element::name).collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn prefixes() {
        assert_eq!(split_name("qemu:arg"), ("qemu", "arg"));
        assert_eq!(split_name("arg"), ("", "arg"));
        assert_eq!(declared_prefix("xmlns:qemu"), Some("qemu"));
        assert_eq!(declared_prefix("xmlns"), Some(""));
        assert_eq!(declared_prefix("xmlnsx"), None);
    }
}
