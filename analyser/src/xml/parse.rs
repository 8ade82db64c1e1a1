//! Reads XML text into a tree. Stricter than a typical lexer: what is not well formed is refused with its place.

use std::borrow::Cow;
use std::collections::HashSet;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::scan;
use crate::error::{Error, Result};
use crate::shapes;
use crate::tree::{Element, Node, Tree};

/// How deep elements may nest. libxml2, and so libvirt, reads no deeper documents.
pub const MAX_DEPTH: usize = 256;

/// From this number of attributes on, duplicates are looked for by hash.
const MANY_ATTRIBUTES: usize = 16;

impl Tree {
    /// Reads a document. UTF-8 with or without a byte order mark; any line ends.
    pub fn from_bytes(xml: &[u8]) -> Result<Self> {
        Self::from_xml(utf8(xml)?)
    }

    /// Reads a document. No document type, no entities but XML's own five, at most [`MAX_DEPTH`] levels.
    pub fn from_xml(xml: &str) -> Result<Self> {
        let xml = xml.strip_prefix('\u{FEFF}').unwrap_or(xml);
        let xml = with_line_feeds(xml);
        let parser = Parser { xml: &xml, open: Vec::new(), root: None };
        parser.run()
    }
}

/// The text, or the place of the first byte that is not UTF-8.
pub(crate) fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|error| {
        // What comes before the first bad byte is UTF-8.
        let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let (line, column) = place(&good, good.len());
        Error::Encoding { line, column }
    })
}

/// XML 1.0, 2.11: a line end is a line feed.
fn with_line_feeds(xml: &str) -> Cow<'_, str> {
    if xml.contains('\r') { Cow::Owned(xml.replace("\r\n", "\n").replace('\r', "\n")) } else { Cow::Borrowed(xml) }
}

/// Line and column of a byte offset.
pub(crate) fn place(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    (1 + before.bytes().filter(|b| *b == b'\n').count(), 1 + before[start..].chars().count())
}

struct Parser<'a> {
    xml: &'a str,
    /// Elements whose end tag has not come yet, outermost first.
    open: Vec<Element>,
    root: Option<Element>,
}

impl Parser<'_> {
    fn run(mut self) -> Result<Tree> {
        if let Some(at) = scan::forbidden_character(self.xml) {
            return self.fail(at, "a character that XML does not allow");
        }
        let mut reader = Reader::from_str(self.xml);
        let config = reader.config_mut();
        config.check_comments = true;
        config.check_end_names = true;
        config.allow_dangling_amp = false;
        loop {
            let at = reader.buffer_position() as usize;
            let event = match reader.read_event() {
                Ok(event) => event,
                Err(e) => return self.fail(reader.error_position() as usize, e.to_string()),
            };
            match event {
                Event::Start(tag) => self.start(&tag, at)?,
                Event::Empty(tag) => {
                    self.start(&tag, at)?;
                    self.end();
                }
                Event::End(_) => self.end(),
                Event::Text(text) => {
                    if let Some(bad) = text.bytes().any(|b| b == b']').then(|| text.find("]]>")).flatten() {
                        return self.fail(at + bad, "']]>' in text; its '>' is written &gt;");
                    }
                    self.text(&text, at, true)?;
                }
                Event::CData(text) => self.text(&text, at, false)?,
                Event::GeneralRef(name) => match scan::resolve(&name) {
                    Ok(c) => self.text(c.encode_utf8(&mut [0; 4]), at, false)?,
                    Err(what) => return self.fail(at, what),
                },
                Event::Comment(_) => {}
                Event::Decl(declaration) => self.declaration(&declaration, at)?,
                Event::PI(_) => {
                    return self.fail(at, "a processing instruction; libvirt's documents have none: remove it");
                }
                Event::DocType(_) => return self.fail(at, "a document type is not read: remove <!DOCTYPE ...>"),
                Event::Eof => return self.finish(),
            }
        }
    }

    fn fail<T>(&self, at: usize, what: impl Into<String>) -> Result<T> {
        let (line, column) = place(self.xml, at);
        Err(Error::Xml { line, column, what: what.into() })
    }

    fn start(&mut self, tag: &BytesStart<'_>, at: usize) -> Result<()> {
        if self.open.is_empty() && self.root.is_some() {
            return self.fail(at, "a second root element");
        }
        if self.open.len() >= MAX_DEPTH {
            return self.fail(at, format!("elements nest more than {MAX_DEPTH} deep"));
        }
        let name = tag.name();
        let name = name.as_ref();
        let Some(owned) = checked_name(name) else {
            return self.fail(at + 1, format!("'{name}' is not a name of an element"));
        };
        let mut element = Element::new(owned);
        let raw = tag.attributes_raw();
        // One too many at most, unless a value holds the sign.
        element.reserve_attributes(raw.bytes().filter(|b| *b == b'=').count().min(MANY_ATTRIBUTES));
        let mut seen = None;
        let read = scan::attributes(raw, |name, value| {
            let Some(owned) = checked_name(name) else {
                return Err(format!("'{name}' is not a name of an attribute"));
            };
            let there = element.attributes();
            let twice = if there.len() < MANY_ATTRIBUTES {
                there.iter().any(|a| a.name == name)
            } else {
                let seen: &mut HashSet<Cow<'static, str>> =
                    seen.get_or_insert_with(|| there.iter().map(|a| a.name.clone()).collect());
                !seen.insert(owned.clone())
            };
            if twice {
                return Err(format!("attribute {name} stands there twice"));
            }
            element.push_attribute(owned, value.into());
            Ok(())
        });
        if let Err(broken) = read {
            return self.fail(at + 1 + name.len() + broken.at, broken.what);
        }
        self.open.push(element);
        Ok(())
    }

    fn end(&mut self) {
        // The reader has checked that the names match, so there is an open element.
        let Some(mut element) = self.open.pop() else { return };
        drop_white_space_between_elements(&mut element);
        match self.open.last_mut() {
            Some(parent) => parent.push(element),
            None => self.root = Some(element),
        }
    }

    fn text(&mut self, text: &str, at: usize, may_be_outside: bool) -> Result<()> {
        match self.open.last_mut() {
            Some(element) => element.push_text(text),
            None if may_be_outside && text.bytes().all(is_white_space) => {}
            None => return self.fail(at, "text outside of the root element"),
        }
        Ok(())
    }

    fn declaration(&self, declaration: &str, at: usize) -> Result<()> {
        if at != 0 {
            return self.fail(at, "an XML declaration that is not at the very beginning");
        }
        let read = scan::attributes(declaration.strip_prefix("xml").unwrap_or(declaration), |name, value| match name {
            "version" if value.starts_with("1.") => Ok(()),
            "encoding" if value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("us-ascii") => Ok(()),
            "standalone" if value == "yes" || value == "no" => Ok(()),
            "encoding" => Err(format!("encoding {value} is not read; convert the document to UTF-8 first")),
            _ => Err(format!("{name}='{value}' in the XML declaration")),
        });
        match read {
            Ok(()) => Ok(()),
            Err(broken) => self.fail(at + "<?xml".len() + broken.at, broken.what),
        }
    }

    fn finish(self) -> Result<Tree> {
        if let Some(open) = self.open.last() {
            let what = format!("the document ends before </{}>", open.name());
            return self.fail(self.xml.len(), what);
        }
        match self.root {
            Some(root) => Ok(Tree { root }),
            None => self.fail(self.xml.len(), "there is no element: the document is empty"),
        }
    }
}

/// The name, if it is one; libvirt's own are.
fn checked_name(name: &str) -> Option<Cow<'static, str>> {
    match shapes::known_name(name) {
        Some(known) => Some(Cow::Borrowed(known)),
        None => scan::is_name(name).then(|| Cow::Owned(name.to_owned())),
    }
}

fn is_white_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// White space around child elements only lays the document out, unless there is other text among it.
pub(crate) fn drop_white_space_between_elements(element: &mut Element) {
    let nodes = element.nodes_mut();
    let has_elements = nodes.iter().any(|n| matches!(n, Node::Element(_)));
    let blank = |n: &Node| matches!(n, Node::Text(t) if t.bytes().all(is_white_space));
    if has_elements && nodes.iter().all(|n| matches!(n, Node::Element(_)) || blank(n)) {
        nodes.retain(|n| matches!(n, Node::Element(_)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(xml: &str, line: usize, column: usize, words: &str) {
        match Tree::from_xml(xml) {
            Err(Error::Xml { line: l, column: c, what }) => {
                assert_eq!((l, c), (line, column), "{xml:.80}: {what}");
                assert!(what.contains(words), "{xml:.80}: {what}");
            }
            other => panic!("{xml:.80}: {other:.80?}"),
        }
    }

    #[test]
    fn reads_attributes_text_and_mixed_content() {
        let tree = Tree::from_xml("<a x='1'>\n <b>t &amp; <![CDATA[<u>]]></b>\n <!-- c -->\n <c/></a>\n").unwrap();
        let want = Element::new("a").attr("x", 1).child(Element::leaf("b", "t & <u>")).child(Element::new("c"));
        assert_eq!(tree.root, want);
        let mixed = Tree::from_xml("<a>x <b/> </a>").unwrap();
        assert_eq!(mixed.root, Element::new("a").text("x ").child(Element::new("b")).text(" "));
    }

    #[test]
    fn text_is_kept_to_the_byte() {
        let tree = Tree::from_xml("<a> x\n\t</a>").unwrap();
        assert_eq!(tree.root.own_text(), " x\n\t");
        let blank = Tree::from_xml("<a> </a>").unwrap();
        assert_eq!(blank.root.own_text(), " ");
    }

    #[test]
    fn byte_order_mark_and_line_ends() {
        let tree =
            Tree::from_bytes("\u{FEFF}<?xml version='1.0' encoding='utf-8'?>\r\n<a>1\r\n2\r3&#13;</a>".as_bytes());
        assert_eq!(tree.unwrap().root.own_text(), "1\n2\n3\r");
    }

    #[test]
    fn what_is_not_well_formed_names_its_place() {
        fails("", 1, 1, "empty");
        fails("<!-- only -->", 1, 14, "empty");
        fails("<a>\n <b></a>", 2, 5, "b");
        fails("<a>\n <b>", 2, 5, "</b>");
        fails("<a><b", 1, 4, "");
        fails("<a x='1'\n x='2'/>", 2, 2, "twice");
        fails("<a/><b/>", 1, 5, "second root");
        fails("<a/>x", 1, 5, "outside");
        fails("<a/>&#32;", 1, 5, "outside");
        fails("<a>&b;</a>", 1, 4, "&b;");
        fails("<a>\u{1}</a>", 1, 4, "does not allow");
        fails("<a>]]></a>", 1, 4, "]]>");
        fails("<1/>", 1, 2, "name");
        fails("<a 1='2'/>", 1, 4, "name");
        fails("<a ='2'/>", 1, 4, "name");
        fails("<?xml version='1.0' encoding='latin1'?><a/>", 1, 21, "latin1");
        fails("<a/><?xml version='1.0'?>", 1, 5, "beginning");
        fails("<?go on?><a/>", 1, 1, "processing");
    }

    #[test]
    fn no_document_types_and_no_entity_bombs() {
        fails("<!DOCTYPE a [<!ENTITY x 'y'>]>\n<a>&x;</a>", 1, 1, "document type");
    }

    #[test]
    fn not_utf8_names_its_place() {
        assert_eq!(Tree::from_bytes(b"<a>\n\xC3\xA9\xE9</a>"), Err(Error::Encoding { line: 2, column: 2 }));
    }

    #[test]
    fn nesting_is_bounded() {
        let nest = |n: usize| "<a>".repeat(n) + &"</a>".repeat(n);
        assert!(Tree::from_xml(&nest(MAX_DEPTH)).is_ok());
        fails(&nest(1000), 1, 3 * MAX_DEPTH + 1, "deep");
    }

    #[test]
    fn many_attributes_stay_linear_and_checked() {
        let many: String = (0..20_000).map(|i| format!(" a{i}=''")).collect();
        assert_eq!(Tree::from_xml(&format!("<a{many}/>")).unwrap().root.attributes().len(), 20_000);
        fails(&format!("<a{many} a7=''/>"), 1, 4 + many.len(), "twice");
    }
}
