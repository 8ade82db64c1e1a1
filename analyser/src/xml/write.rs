//! Writes a tree as XML in libvirt's own style: two spaces, single quotes, `<empty/>`.

use crate::bytes::{self, Word};
use crate::tree::{Element, Node, Tree};

impl Tree {
    /// The document as XML text that ends with a line feed, without an XML declaration. Parsing it gives the same
    /// [`Tree::canonical`] tree.
    pub fn to_xml(&self) -> String {
        let mut out = String::with_capacity(4096);
        self.root.write(&mut out);
        out
    }
}

impl Element {
    /// This element and its content as XML text that ends with a line feed: a fragment, as for `virDomainAttachDevice`.
    pub fn to_xml(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        block(self, 0, out);
    }
}

/// An element on lines of its own.
fn block(element: &Element, depth: usize, out: &mut String) {
    indent(depth, out);
    let has_text = element.nodes().iter().any(|n| matches!(n, Node::Text(_)));
    if has_text || element.nodes().is_empty() {
        inline(element, out);
    } else {
        open(element, out);
        out.push_str(">\n");
        for child in element.elements() {
            block(child, depth + 1, out);
        }
        indent(depth, out);
        close(element, out);
    }
    out.push('\n');
}

/// An element without any white space added: its text must stay as it is.
fn inline(element: &Element, out: &mut String) {
    open(element, out);
    if element.nodes().is_empty() {
        out.push_str("/>");
        return;
    }
    out.push('>');
    for node in element.nodes() {
        match node {
            Node::Text(text) => escape(text, false, out),
            Node::Element(child) => inline(child, out),
        }
    }
    close(element, out);
}

fn open(element: &Element, out: &mut String) {
    out.push('<');
    out.push_str(element.name());
    for attribute in element.attributes() {
        out.push(' ');
        out.push_str(&attribute.name);
        out.push_str("='");
        escape(&attribute.value, true, out);
        out.push('\'');
    }
}

fn close(element: &Element, out: &mut String) {
    out.push_str("</");
    out.push_str(element.name());
    out.push('>');
}

fn indent(depth: usize, out: &mut String) {
    const SPACES: &str = "                                                                ";
    let mut left = depth * 2;
    while left > 0 {
        let now = left.min(SPACES.len());
        out.push_str(&SPACES[..now]);
        left -= now;
    }
}

/// Escapes so that a parser gives back exactly `text`: white space other than a space would be normalised in an
/// attribute, and a carriage return anywhere.
fn escape(text: &str, in_attribute: bool, out: &mut String) {
    let special =
        |word: Word| word.below(b' ') | word.equal(b'&') | word.equal(b'\'') | word.equal(b'<') | word.equal(b'>');
    let mut rest = text;
    while let Some(at) = bytes::find(rest.as_bytes(), special) {
        let (before, behind) = rest.split_at(at);
        let reference = match behind.as_bytes()[0] {
            b'&' => "&amp;",
            b'<' => "&lt;",
            b'>' => "&gt;",
            b'\r' => "&#13;",
            b'\'' if in_attribute => "&apos;",
            b'\n' if in_attribute => "&#10;",
            b'\t' if in_attribute => "&#9;",
            _ => &behind[..1],
        };
        out.push_str(before);
        out.push_str(reference);
        rest = &behind[1..];
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_like_libvirt() {
        let tree = Tree::new(
            Element::new("domain")
                .attr("type", "kvm")
                .child(Element::leaf("name", "a<b>&'c"))
                .child(Element::new("features").child(Element::new("acpi"))),
        );
        let expected = "<domain type='kvm'>\n  <name>a&lt;b&gt;&amp;'c</name>\n  <features>\n    <acpi/>\n  </features>\n</domain>\n";
        assert_eq!(tree.to_xml(), expected);
    }

    #[test]
    fn what_a_parser_would_normalise_is_a_reference() {
        let tree = Tree::new(Element::new("a").attr("b", "1\t2\n3\r4'5\"").text("x\r\ny\t"));
        assert_eq!(tree.to_xml(), "<a b='1&#9;2&#10;3&#13;4&apos;5\"'>x&#13;\ny\t</a>\n");
    }

    #[test]
    fn mixed_content_gets_no_white_space() {
        let tree = Tree::new(Element::new("a").text("x").child(Element::new("b").child(Element::new("c"))));
        assert_eq!(tree.to_xml(), "<a>x<b><c/></b></a>\n");
    }
}
