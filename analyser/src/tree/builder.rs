//! Building a tree in document order, as readers do.

use std::borrow::Cow;

use compact_str::CompactString;

use super::{Attribute, Element, Node};

/// The elements of a document that is being read.
///
/// What belongs to open elements lies on stacks, and moves into its element when that ends and the numbers are known.
#[derive(Default)]
pub(crate) struct Builder {
    /// Elements that have not ended, outermost first.
    open: Vec<Open>,
    attributes: Vec<Attribute>,
    nodes: Vec<Node>,
}

struct Open {
    name: Cow<'static, str>,
    /// Where its attributes begin on their stack.
    attributes: usize,
    /// Where its content begins on the stack of nodes.
    nodes: usize,
}

impl Builder {
    /// How many elements are open.
    pub(crate) fn depth(&self) -> usize {
        self.open.len()
    }

    /// Name of the innermost open element.
    pub(crate) fn name(&self) -> Option<&str> {
        self.open.last().map(|open| &*open.name)
    }

    /// Attributes of the innermost open element.
    pub(crate) fn attributes(&self) -> &[Attribute] {
        &self.attributes[self.open.last().map_or(0, |open| open.attributes)..]
    }

    /// Whether the root has ended.
    pub(crate) fn is_complete(&self) -> bool {
        self.open.is_empty() && !self.nodes.is_empty()
    }

    /// Begins an element.
    pub(crate) fn open(&mut self, name: Cow<'static, str>) {
        self.open.push(Open { name, attributes: self.attributes.len(), nodes: self.nodes.len() });
    }

    /// Adds an attribute to the innermost open element.
    pub(crate) fn attribute(&mut self, name: Cow<'static, str>, value: CompactString) {
        self.attributes.push(Attribute { name, value });
    }

    /// Adds text to the innermost open element.
    pub(crate) fn text(&mut self, text: &str) {
        let Some(open) = self.open.last() else { return };
        match self.nodes[open.nodes..].last_mut() {
            Some(Node::Text(there)) => there.push_str(text),
            _ if text.is_empty() => {}
            _ => self.nodes.push(Node::Text(text.into())),
        }
    }

    /// Ends the innermost open element. White space around child elements only lays the document out, unless there is
    /// other text among it.
    pub(crate) fn close(&mut self) {
        let Some(open) = self.open.pop() else { return };
        let content = &self.nodes[open.nodes..];
        let is_layout = |node: &Node| matches!(node, Node::Text(text) if text.bytes().all(is_white_space));
        let is_element = |node: &Node| matches!(node, Node::Element(_));
        if content.len() > 1 && content.iter().all(|node| is_element(node) || is_layout(node)) {
            let mut end = open.nodes;
            for at in open.nodes..self.nodes.len() {
                if is_element(&self.nodes[at]) {
                    self.nodes.swap(end, at);
                    end += 1;
                }
            }
            self.nodes.truncate(end);
        }
        let nodes = self.nodes.split_off(open.nodes);
        let attributes = self.attributes.split_off(open.attributes);
        self.nodes.push(Node::Element(Element { name: open.name, attributes, nodes }));
    }

    /// The root, if it has ended.
    pub(crate) fn finish(mut self) -> Option<Element> {
        match self.nodes.pop() {
            Some(Node::Element(root)) if self.open.is_empty() => Some(root),
            _ => None,
        }
    }
}

/// XML 1.0, production 3.
pub(crate) fn is_white_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}
