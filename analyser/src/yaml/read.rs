//! The reader's cursor, and the document as a whole.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::MANY;
use crate::data::{Collection, Leaf, Pieces, Sink};
use crate::error::{Error, Result, shortened};
use crate::xml::place;
use crate::yaml::plain;

/// How deep collections may nest: an element is at most a mapping in a list.
const MAX_NESTING: usize = 2 * crate::MAX_DEPTH + 8;

/// Reads one document.
pub(super) fn read(text: &str) -> Result<Pieces<'_>> {
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    let mut reader = Reader {
        text,
        at: 0,
        line_start: 0,
        keys: Vec::with_capacity(32),
        out: Pieces::with_capacity(text.len() / 16),
    };
    reader.document()?;
    Ok(reader.out)
}

pub(super) struct Reader<'a> {
    pub(super) text: &'a str,
    pub(super) at: usize,
    /// Where the line of `at` begins.
    pub(super) line_start: usize,
    /// Keys of the mappings that are being read.
    keys: Vec<Cow<'a, str>>,
    pub(super) out: Pieces<'a>,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<()> {
        if let Some(at) = crate::xml::forbidden_character(self.text) {
            return self.fail_at(at, "a character that YAML does not allow");
        }
        self.skip_to_content()?;
        if self.peek() == Some(b'%') {
            return self.fail("directives are not read");
        }
        if self.is_marker("---") {
            self.at += 3;
            self.skip_to_content()?;
        }
        match self.is_end() {
            true => self.out.leaf(Leaf::Null),
            false => self.block_node(self.column(), None)?,
        }
        self.skip_to_content()?;
        if self.is_marker("...") {
            self.at += 3;
            self.skip_to_content()?;
        }
        match self.peek() {
            None => Ok(()),
            Some(_) if self.is_marker("---") => self.fail("a second document"),
            Some(_) => self.fail("text behind the end of the document; look at its indentation"),
        }
    }

    pub(super) fn fail<T>(&self, what: impl Into<String>) -> Result<T> {
        self.fail_at(self.at, what)
    }

    pub(super) fn fail_at<T>(&self, at: usize, what: impl Into<String>) -> Result<T> {
        let (line, column) = place(self.text, at);
        Err(Error::Yaml { line, column, what: shortened(what.into()) })
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.byte(self.at)
    }

    pub(super) fn byte(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }

    pub(super) fn column(&self) -> usize {
        self.at - self.line_start
    }

    /// Whether a byte ends a token: white space or the end of the text.
    pub(super) fn is_blank_at(&self, at: usize) -> bool {
        matches!(self.byte(at), None | Some(b' ' | b'\t' | b'\n' | b'\r'))
    }

    /// Whether there is no more content in this document.
    pub(super) fn is_end(&self) -> bool {
        self.peek().is_none() || self.is_marker("---") || self.is_marker("...")
    }

    pub(super) fn is_marker(&self, marker: &str) -> bool {
        self.at == self.line_start
            && self.text.as_bytes()[self.at..].starts_with(marker.as_bytes())
            && self.is_blank_at(self.at + 3)
    }

    pub(super) fn skip_spaces(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.at += 1;
        }
    }

    /// Goes to the next line. The cursor stands at a line end or at the end of the text.
    pub(super) fn next_line(&mut self) {
        if self.peek() == Some(b'\r') {
            self.at += 1;
        }
        if self.peek() == Some(b'\n') {
            self.at += 1;
        }
        self.line_start = self.at;
    }

    pub(super) fn is_line_end(&self) -> bool {
        matches!(self.peek(), None | Some(b'\n' | b'\r'))
    }

    pub(super) fn skip_comment(&mut self) {
        if self.peek() == Some(b'#') && (self.at == self.line_start || self.is_blank_at(self.at - 1)) {
            while !self.is_line_end() {
                self.at += 1;
            }
        }
    }

    /// Skips white space, comments and line ends. A tab cannot indent content.
    pub(super) fn skip_to_content(&mut self) -> Result<()> {
        loop {
            let begins_line = self.at == self.line_start;
            while self.peek() == Some(b' ') {
                self.at += 1;
            }
            let tab = self.at;
            if self.peek() == Some(b'\t') {
                self.skip_spaces();
            }
            self.skip_comment();
            match self.peek() {
                Some(b'\n' | b'\r') => self.next_line(),
                Some(_) if begins_line && tab < self.at => {
                    return self.fail_at(tab, "a tab cannot indent; use spaces");
                }
                _ => return Ok(()),
            }
        }
    }

    /// What must follow a value on its line: nothing but a comment.
    pub(super) fn end_line(&mut self) -> Result<()> {
        self.skip_spaces();
        self.skip_comment();
        if self.is_line_end() { Ok(()) } else { self.fail("expected the end of the line") }
    }

    /// Goes one level deeper.
    pub(super) fn begin(&mut self, collection: Collection) -> Result<()> {
        if self.out.depth() == MAX_NESTING {
            return self.fail("collections nest too deep");
        }
        self.out.begin(collection);
        Ok(())
    }

    /// Begins a mapping; its keys are then [new](Self::new_key) until [`Self::end_mapping`].
    pub(super) fn begin_mapping(&mut self) -> Result<Keys<'a>> {
        self.begin(Collection::Mapping)?;
        Ok(Keys { start: self.keys.len(), seen: None })
    }

    pub(super) fn end_mapping(&mut self, keys: &Keys<'a>) {
        self.keys.truncate(keys.start);
        self.out.end();
    }

    /// Adds a key, which began at `start`, if the mapping does not have it.
    pub(super) fn new_key(&mut self, key: Cow<'a, str>, start: usize, keys: &mut Keys<'a>) -> Result<()> {
        let there = &self.keys[keys.start..];
        let is_twice = if there.len() < MANY {
            there.contains(&key)
        } else {
            let seen = keys.seen.get_or_insert_with(|| there.iter().cloned().collect());
            !seen.insert(key.clone())
        };
        if is_twice {
            return self.fail_at(start, format!("key {key} stands there twice"));
        }
        self.keys.push(key.clone());
        self.out.key(key);
        Ok(())
    }

    /// A plain scalar that began at `start`.
    pub(super) fn plain(&mut self, text: Cow<'a, str>, start: usize) -> Result<()> {
        let leaf = match text {
            Cow::Borrowed(text) => match plain::resolve(text) {
                Ok(leaf) => leaf,
                Err(what) => return self.fail_at(start, format!("{text} {what}")),
            },
            // One of several lines is neither a number nor a word.
            Cow::Owned(text) => Leaf::String(Cow::Owned(text)),
        };
        self.out.leaf(leaf);
        Ok(())
    }

    /// Refuses what begins no plain scalar. The cursor stands at its first byte.
    pub(super) fn check_plain_start(&self) -> Result<()> {
        match self.peek() {
            Some(b'&' | b'*') => self.fail("anchors and aliases are not read: write the value out"),
            Some(b'!') => self.fail("tags are not read: remove it"),
            Some(b'%' | b'@' | b'`') => self.fail("a plain scalar cannot begin with this character: quote it"),
            Some(b'|' | b'>') => self.fail("a block scalar cannot stand here"),
            Some(b'#') => self.fail("a comment needs a space before it, and a text that begins so needs quotes"),
            Some(b',' | b']' | b'}') => self.fail("nothing is open that this could end or separate"),
            Some(b'?') if self.is_blank_at(self.at + 1) => self.fail("complex keys are not read"),
            Some(b'-' | b':') if self.is_blank_at(self.at + 1) => self.fail("expected a value"),
            _ => Ok(()),
        }
    }
}

/// Which keys are those of a mapping that is being read.
pub(super) struct Keys<'a> {
    start: usize,
    /// All of them, where they are many.
    seen: Option<HashSet<Cow<'a, str>>>,
}

/// A line's part without the white space at its end.
pub(super) fn trimmed(part: &str) -> &str {
    &part[..part.len() - part.bytes().rev().take_while(|b| matches!(b, b' ' | b'\t')).count()]
}

#[cfg(test)]
mod tests {
    use crate::value::Value;

    fn reads(yaml: &str, json: &str) {
        let want: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(Value::from_yaml(yaml).map(|value| value.to_json()), Ok(want), "{yaml}");
    }

    #[test]
    fn block_style() {
        reads(
            "a: 1\nb:\n  c: x y\n  d:\n    - 1\n    - e: f\n      g: h\n",
            r#"{"a":1,"b":{"c":"x y","d":[1,{"e":"f","g":"h"}]}}"#,
        );
        reads("a:\n- 1\n-\n  b: 2\n- - 3\n  - 4\nc:\n", r#"{"a":[1,{"b":2},[3,4]],"c":null}"#);
        reads("--- # start\na: 'b' # c\n# d\n\n'e f' : \"g\"\n...\n", r#"{"a":"b","e f":"g"}"#);
    }

    #[test]
    fn flow_style_and_json() {
        reads("{a: [1, b c, 'd', ], \"e\":{\n  f: , g: # h\n  i}}", r#"{"a":[1,"b c","d"],"e":{"f":null,"g":"i"}}"#);
        reads(r#"{"a":"\u00e9\ud83d\ude00\/","b":[true,null,{}]}"#, r#"{"a":"é😀/","b":[true,null,{}]}"#);
        reads("a: [x:y, http://z]", r#"{"a":["x:y","http://z"]}"#);
    }

    #[test]
    fn scalars_of_several_lines() {
        reads("a: b\n  c\n\n  d\ne: f", r#"{"a":"b c\nd","e":"f"}"#);
        reads("a: \"b\n  c \\\n   d\n\n  e\"", r#"{"a":"b c d\ne"}"#);
        reads("a: 'b\n\n  it''s'", r#"{"a":"b\nit's"}"#);
    }

    #[test]
    fn block_scalars() {
        reads("a: |\n  b\n   c\n\n  d\n\ne: f", r#"{"a":"b\n c\n\nd\n","e":"f"}"#);
        reads("a: |-\n  b\n\nc: |+\n  d\n\n", r#"{"a":"b","c":"d\n\n"}"#);
        reads("a: >\n  b\n  c\n\n  d\n    e\n  f\n", r#"{"a":"b c\nd\n  e\nf\n"}"#);
        reads("- |2\n   a\n- |\n- b", r#"[" a\n","","b"]"#);
    }
}
