//! Building a tree in document order, as readers do.

use compact_str::CompactString;

use super::{Attribute, Element, Name, Node};

/// The elements of a document that is being read.
///
/// What belongs to open elements lies on stacks, and moves into its element when that ends and the numbers are known.
pub(crate) struct Builder {
    /// Elements that have not ended, outermost first.
    open: Vec<Open>,
    attributes: Vec<Attribute>,
    nodes: Vec<Node>,
}

struct Open {
    name: Name,
    /// Where its attributes begin on their stack.
    attributes: usize,
    /// Where its content begins on the stack of nodes.
    nodes: usize,
    /// How many of its nodes are elements.
    elements: usize,
    /// Whether it has text that is not white space.
    has_text: bool,
}

impl Default for Builder {
    fn default() -> Self {
        // Enough for most documents.
        Self { open: Vec::with_capacity(8), attributes: Vec::with_capacity(16), nodes: Vec::with_capacity(32) }
    }
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
    pub(crate) fn open(&mut self, name: Name) {
        let (attributes, nodes) = (self.attributes.len(), self.nodes.len());
        self.open.push(Open { name, attributes, nodes, elements: 0, has_text: false });
    }

    /// Adds an attribute to the innermost open element.
    pub(crate) fn attribute(&mut self, name: Name, value: CompactString) {
        self.attributes.push(Attribute { name, value });
    }

    /// Adds text to the innermost open element.
    pub(crate) fn text(&mut self, text: &str) {
        let Some(open) = self.open.last_mut() else { return };
        open.has_text |= !text.bytes().all(is_white_space);
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
        let nodes = if open.has_text || open.elements == 0 {
            self.nodes.split_off(open.nodes)
        } else {
            let mut elements = Vec::with_capacity(open.elements);
            elements.extend(self.nodes.drain(open.nodes..).filter(|node| matches!(node, Node::Element(_))));
            elements
        };
        let attributes = self.attributes.split_off(open.attributes);
        if let Some(outer) = self.open.last_mut() {
            outer.elements += 1;
        }
        self.nodes.push(Node::Element(Element { name: open.name, attributes, nodes }));
    }

    /// Takes the root, if it has ended.
    pub(crate) fn finish(&mut self) -> Option<Element> {
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
