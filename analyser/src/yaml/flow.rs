//! Flow style, which is also JSON: collections in brackets, and quoted scalars.

use std::borrow::Cow;

use super::block::fold;
use super::read::Reader;
use crate::data::{Collection, Leaf, Sink};
use crate::error::Result;

impl<'a> Reader<'a> {
    /// A node inside of brackets, or the brackets themselves.
    pub(super) fn flow_node(&mut self) -> Result<()> {
        match self.peek() {
            Some(b'[') => self.flow_sequence(),
            Some(b'{') => self.flow_mapping(),
            Some(b'"' | b'\'') => {
                let text = self.quoted()?;
                self.out.leaf(Leaf::String(text));
                Ok(())
            }
            _ => {
                self.check_plain_start()?;
                let start = self.at;
                let text = self.flow_plain()?;
                self.plain(Cow::Borrowed(text), start)
            }
        }
    }

    fn flow_sequence(&mut self) -> Result<()> {
        self.begin(Collection::Sequence)?;
        self.at += 1;
        loop {
            self.flow_space()?;
            if self.peek() == Some(b']') {
                self.at += 1;
                self.out.end();
                return Ok(());
            }
            self.flow_node()?;
            self.flow_separator(b']')?;
        }
    }

    fn flow_mapping(&mut self) -> Result<()> {
        let mut keys = self.begin_mapping()?;
        self.at += 1;
        loop {
            self.flow_space()?;
            if self.peek() == Some(b'}') {
                self.at += 1;
                self.end_mapping(&keys);
                return Ok(());
            }
            let start = self.at;
            let key = self.flow_key()?;
            self.new_key(key, start, &mut keys)?;
            match self.peek() {
                Some(b',' | b'}') => self.out.leaf(Leaf::Null),
                _ => self.flow_node()?,
            }
            self.flow_separator(b'}')?;
        }
    }

    /// A key and its colon. The cursor then stands at the value.
    fn flow_key(&mut self) -> Result<Cow<'a, str>> {
        let (key, is_quoted) = match self.peek() {
            Some(b'"' | b'\'') => (self.quoted()?, true),
            _ => {
                self.check_plain_start()?;
                (Cow::Borrowed(self.flow_plain()?), false)
            }
        };
        self.flow_space()?;
        // Behind a quoted key, the colon needs no space: that is JSON.
        if self.peek() != Some(b':') || !(is_quoted || self.ends_flow_plain(self.at + 1)) {
            return self.fail(format!("expected ': ' behind the key {key}"));
        }
        self.at += 1;
        self.flow_space()?;
        Ok(key)
    }

    fn flow_separator(&mut self, close: u8) -> Result<()> {
        self.flow_space()?;
        match self.peek() {
            Some(b',') => self.at += 1,
            Some(byte) if byte == close => {}
            None => return self.fail(format!("the document ends before '{}'", char::from(close))),
            Some(_) => return self.fail(format!("expected ',' or '{}'", char::from(close))),
        }
        Ok(())
    }

    /// White space, comments and line ends; tabs are harmless here.
    fn flow_space(&mut self) -> Result<()> {
        loop {
            self.skip_spaces();
            self.skip_comment();
            match self.peek() {
                Some(b'\n' | b'\r') => self.next_line(),
                _ if self.is_marker("---") || self.is_marker("...") => {
                    return self.fail("the document ends within brackets");
                }
                None => return self.fail("the document ends within brackets"),
                _ => return Ok(()),
            }
        }
    }

    /// A plain scalar within brackets, on one line.
    fn flow_plain(&mut self) -> Result<&'a str> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            match byte {
                b'\n' | b'\r' | b',' | b'[' | b']' | b'{' | b'}' => break,
                b':' if self.ends_flow_plain(self.at + 1) => break,
                b'#' if self.at > start && matches!(bytes.get(self.at - 1), Some(b' ' | b'\t')) => break,
                _ => self.at += 1,
            }
        }
        let text = self.text[start..self.at].trim_end_matches([' ', '\t']);
        if text.is_empty() { self.fail("expected a value") } else { Ok(text) }
    }

    fn ends_flow_plain(&self, at: usize) -> bool {
        self.is_blank_at(at) || matches!(self.byte(at), Some(b',' | b'[' | b']' | b'{' | b'}'))
    }

    /// A quoted scalar, on one line or several.
    pub(super) fn quoted(&mut self) -> Result<Cow<'a, str>> {
        let start = self.at;
        let quote = self.peek().unwrap_or(b'"');
        self.at += 1;
        let mut from = self.at;
        let mut text = Cow::Borrowed("");
        loop {
            match self.peek() {
                None => return self.fail_at(start, "the quoted text does not end"),
                Some(byte) if byte == quote => {
                    let part = &self.text[from..self.at];
                    self.at += 1;
                    if quote == b'\'' && self.peek() == Some(b'\'') {
                        text.to_mut().push_str(part);
                        from = self.at;
                        self.at += 1;
                        continue;
                    }
                    if text.is_empty() {
                        return Ok(Cow::Borrowed(part));
                    }
                    text.to_mut().push_str(part);
                    return Ok(text);
                }
                Some(b'\\') if quote == b'"' => {
                    text.to_mut().push_str(&self.text[from..self.at]);
                    self.escape(text.to_mut())?;
                    from = self.at;
                }
                Some(b'\n' | b'\r') => {
                    let part = self.text[from..self.at].trim_end_matches([' ', '\t']);
                    text.to_mut().push_str(part);
                    let line_feeds = self.quoted_line_ends(start)?;
                    fold(text.to_mut(), line_feeds);
                    from = self.at;
                }
                Some(_) => self.at += 1,
            }
        }
    }

    /// Skips line ends and the white space around them; says how many there were.
    fn quoted_line_ends(&mut self, start: usize) -> Result<usize> {
        let mut count = 0;
        while matches!(self.peek(), Some(b'\n' | b'\r')) {
            self.next_line();
            if self.is_marker("---") || self.is_marker("...") {
                return self.fail_at(start, "the quoted text does not end");
            }
            self.skip_spaces();
            count += 1;
        }
        Ok(count)
    }

    /// What a backslash begins, in double quotes.
    fn escape(&mut self, text: &mut String) -> Result<()> {
        let start = self.at;
        self.at += 2;
        let simple = match self.byte(start + 1) {
            Some(b'0') => '\0',
            Some(b'a') => '\u{7}',
            Some(b'b') => '\u{8}',
            Some(b't' | b'\t') => '\t',
            Some(b'n') => '\n',
            Some(b'v') => '\u{B}',
            Some(b'f') => '\u{C}',
            Some(b'r') => '\r',
            Some(b'e') => '\u{1B}',
            Some(b' ') => ' ',
            Some(b'"') => '"',
            Some(b'/') => '/',
            Some(b'\\') => '\\',
            Some(b'N') => '\u{85}',
            Some(b'_') => '\u{A0}',
            Some(b'L') => '\u{2028}',
            Some(b'P') => '\u{2029}',
            Some(b'x') => self.hexadecimal(2, start)?,
            Some(b'u') => self.hexadecimal(4, start)?,
            Some(b'U') => self.hexadecimal(8, start)?,
            Some(b'\n' | b'\r') => {
                // An escaped line end joins the lines; the next one's indentation does not count.
                self.at = start + 1;
                self.next_line();
                self.skip_spaces();
                return Ok(());
            }
            _ => {
                self.at = start;
                return self.fail("a backslash in double quotes begins no escape that YAML knows");
            }
        };
        text.push(simple);
        Ok(())
    }

    fn hexadecimal(&mut self, digits: usize, start: usize) -> Result<char> {
        let mut code = self.digits(digits, start)?;
        // JSON writes characters beyond 16 bits as two halves.
        if (0xD800..0xDC00).contains(&code) && self.text[self.at..].starts_with("\\u") {
            self.at += 2;
            let low = self.digits(4, start)?;
            if (0xDC00..0xE000).contains(&low) {
                code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
            }
        }
        match char::from_u32(code) {
            Some(c) => Ok(c),
            None => self.fail_at(start, "this escape is no character"),
        }
    }

    fn digits(&mut self, count: usize, start: usize) -> Result<u32> {
        let digits = self.text.get(self.at..self.at + count).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(code) = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()) else {
            return self.fail_at(start, format!("expected {count} hexadecimal digits"));
        };
        self.at += count;
        Ok(code)
    }
}
