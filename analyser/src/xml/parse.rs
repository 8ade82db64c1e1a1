//! Reads XML text into a tree. Stricter than a typical lexer: what is not well formed is refused with its place.

use std::borrow::Cow;
use std::collections::HashSet;

use compact_str::CompactString;

use super::scan::{self, Broken};
use crate::MANY;
use crate::bytes;
use crate::error::{Error, Result, shortened};
use crate::shapes;
use crate::tree::{Builder, Name, Tree, is_white_space};

/// How deep elements may nest. libxml2, and so libvirt, reads no deeper documents.
pub const MAX_DEPTH: usize = 256;

impl Tree {
    /// Reads a document. UTF-8 with or without a byte order mark; any line ends.
    pub fn from_bytes(xml: &[u8]) -> Result<Self> {
        Self::from_xml(utf8(xml)?)
    }

    /// Reads a document. No document type, no entities but XML's own five, at most [`MAX_DEPTH`] levels.
    pub fn from_xml(xml: &str) -> Result<Self> {
        let xml = xml.strip_prefix('\u{FEFF}').unwrap_or(xml);
        let xml = with_line_feeds(xml);
        let parser = Parser { xml: &xml, at: 0, builder: Builder::default() };
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
    /// How far the document has been read.
    at: usize,
    builder: Builder,
}

impl<'a> Parser<'a> {
    fn run(mut self) -> Result<Tree> {
        if let Some(at) = scan::forbidden_character(self.xml) {
            return self.fail(at, "a character that XML does not allow");
        }
        while let Some(length) = bytes::find(self.rest().as_bytes(), |word| word.equal(b'<')) {
            self.text(length)?;
            match self.rest().as_bytes().get(1) {
                Some(b'/') => self.end_tag()?,
                Some(b'!') => self.comment_or_section()?,
                Some(b'?') => self.declaration()?,
                _ => self.start_tag()?,
            }
        }
        self.text(self.rest().len())?;
        if let Some(open) = self.builder.name() {
            return self.fail(self.at, format!("the document ends before </{open}>"));
        }
        match self.builder.finish() {
            Some(root) => Ok(Tree { root }),
            None => self.fail(self.at, "there is no element: the document is empty"),
        }
    }

    fn rest(&self) -> &'a str {
        &self.xml[self.at..]
    }

    fn fail<T>(&self, at: usize, what: impl Into<String>) -> Result<T> {
        let (line, column) = place(self.xml, at);
        Err(Error::Xml { line, column, what: shortened(what.into()) })
    }

    /// A rule that was broken in what is scanned from `start` on.
    fn broken<T>(&self, start: usize, broken: Broken) -> Result<T> {
        self.fail(start + broken.at, broken.what)
    }

    /// Character data of this length, with its references.
    fn text(&mut self, length: usize) -> Result<()> {
        let (start, raw) = (self.at, &self.rest()[..length]);
        self.at += length;
        if self.builder.depth() == 0 {
            return match raw.bytes().position(|b| !is_white_space(b)) {
                Some(at) => self.fail(start + at, "text outside of the root element"),
                None => Ok(()),
            };
        }
        match scan::text(raw) {
            Ok(text) => self.builder.text(&text),
            Err(broken) => return self.broken(start, broken),
        }
        Ok(())
    }

    fn start_tag(&mut self) -> Result<()> {
        let tag = self.at;
        if self.builder.is_complete() {
            return self.fail(tag, "a second root element");
        }
        if self.builder.depth() >= MAX_DEPTH {
            return self.fail(tag, format!("elements nest more than {MAX_DEPTH} deep"));
        }
        let name = scan::word(&self.rest()[1..]);
        self.at += 1 + name.len();
        match checked_name(name) {
            Some(name) => self.builder.open(name),
            None => return self.fail(tag + 1, format!("'{name}' is not a name of an element")),
        }
        self.attributes(tag)?;
        let rest = self.rest();
        if rest.starts_with("/>") {
            self.builder.close();
            self.at += 2;
        } else if rest.starts_with('>') {
            self.at += 1;
        } else {
            return self.fail(self.at, "expected '>'");
        }
        Ok(())
    }

    /// The attributes of a tag that begins at `tag`.
    fn attributes(&mut self, tag: usize) -> Result<()> {
        let start = self.at;
        let builder = &mut self.builder;
        let mut seen = HashSet::new();
        let read = scan::attributes(&self.xml[start..], |name, value| {
            let Some(name) = checked_name(name) else {
                return Err(format!("'{name}' is not a name of an attribute"));
            };
            let there = builder.attributes();
            let is_twice = if there.len() < MANY {
                there.iter().any(|a| a.name == name)
            } else {
                if seen.is_empty() {
                    seen.extend(there.iter().map(|a| a.name.clone()));
                }
                !seen.insert(name.clone())
            };
            if is_twice {
                return Err(format!("attribute {name} stands there twice"));
            }
            builder.attribute(name, CompactString::from(&*value));
            Ok(())
        });
        match read {
            Ok(length) if start + length < self.xml.len() => self.at += length,
            Err(broken) if start + broken.at < self.xml.len() => return self.broken(start, broken),
            _ => return self.fail(tag, "syntax error: tag not closed: `>` not found before end of input"),
        }
        Ok(())
    }

    fn end_tag(&mut self) -> Result<()> {
        let name = scan::word(&self.rest()[2..]);
        match self.builder.name() {
            Some(open) if open == name => {}
            Some(open) => return self.fail(self.at, format!("expected </{open}>, found </{name}>")),
            None => return self.fail(self.at, format!("</{name}> ends no element")),
        }
        let behind = self.rest()[2 + name.len()..].trim_start_matches([' ', '\t', '\n']);
        if !behind.starts_with('>') {
            return self.fail(self.at, format!("expected '>' behind </{name}"));
        }
        self.builder.close();
        self.at = self.xml.len() - behind.len() + 1;
        Ok(())
    }

    /// What begins with `<!`.
    fn comment_or_section(&mut self) -> Result<()> {
        let rest = self.rest();
        if let Some(comment) = rest.strip_prefix("<!--") {
            return match comment.split_once("--") {
                Some((text, behind)) if behind.starts_with('>') => {
                    self.at += "<!---->".len() + text.len();
                    Ok(())
                }
                Some((text, _)) => self.fail(self.at + "<!--".len() + text.len(), "'--' within a comment"),
                None => self.fail(self.at, "the comment does not end"),
            };
        }
        if let Some(section) = rest.strip_prefix("<![CDATA[") {
            if self.builder.depth() == 0 {
                return self.fail(self.at, "text outside of the root element");
            }
            let Some((text, _)) = section.split_once("]]>") else {
                return self.fail(self.at, "the CDATA section does not end");
            };
            self.builder.text(text);
            self.at += "<![CDATA[]]>".len() + text.len();
            return Ok(());
        }
        self.fail(self.at, "a document type is not read: remove <!DOCTYPE ...>")
    }

    /// What begins with `<?`.
    fn declaration(&mut self) -> Result<()> {
        let at = self.at;
        let Some(inside) = self.rest().strip_prefix("<?xml").filter(|inside| inside.starts_with([' ', '\t', '\n']))
        else {
            return self.fail(at, "a processing instruction; libvirt's documents have none: remove it");
        };
        if at != 0 {
            return self.fail(at, "an XML declaration that is not at the very beginning");
        }
        let read = scan::attributes(inside, |name, value| match name {
            "version" if value.starts_with("1.") => Ok(()),
            "encoding" if value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("us-ascii") => Ok(()),
            "standalone" if value == "yes" || value == "no" => Ok(()),
            "encoding" => Err(format!("encoding {value} is not read; convert the document to UTF-8 first")),
            _ => Err(format!("{name}='{value}' in the XML declaration")),
        });
        match read {
            Ok(length) if inside[length..].starts_with("?>") => self.at = "<?xml?>".len() + length,
            Ok(length) => return self.fail("<?xml".len() + length, "expected '?>'"),
            Err(broken) => return self.broken("<?xml".len(), broken),
        }
        Ok(())
    }
}

/// The name, if it is one; libvirt's own are.
fn checked_name(name: &str) -> Option<Name> {
    match shapes::known_name(name) {
        Some(known) => Some(Name::Known(known)),
        None => scan::is_name(name).then(|| Name::Other(name.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Element;

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
