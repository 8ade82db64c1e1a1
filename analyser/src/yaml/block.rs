//! Block style: mappings, lists and block scalars by indentation.

use std::borrow::Cow;

use super::read::{Reader, trimmed};
use crate::bytes::{self, Word};
use crate::data::{Collection, Leaf, Sink};
use crate::error::Result;

impl<'a> Reader<'a> {
    /// A node whose first byte is at the cursor, in this column, which counts as its indentation. Scalars of several
    /// lines go on on lines that are indented deeper than `parent`.
    pub(super) fn block_node(&mut self, column: usize, parent: Option<usize>) -> Result<()> {
        if self.is_at_item() {
            return self.block_sequence(column);
        }
        match self.colon_of_key()? {
            Some(colon) => self.block_mapping(column, colon),
            None => self.inline_line(parent),
        }
    }

    /// Whether the cursor stands at the dash of a list's item.
    fn is_at_item(&self) -> bool {
        self.peek() == Some(b'-') && self.is_blank_at(self.at + 1)
    }

    /// A scalar or flow collection and the end of its line.
    fn inline_line(&mut self, parent: Option<usize>) -> Result<()> {
        self.inline(parent)?;
        self.end_line()
    }

    /// Where the colon of the key of a mapping stands, if one begins at the cursor.
    fn colon_of_key(&mut self) -> Result<Option<usize>> {
        let (start, line_start) = (self.at, self.line_start);
        let colon = match self.peek() {
            Some(b'"' | b'\'') => {
                self.quoted()?;
                self.skip_spaces();
                let is_key = self.peek() == Some(b':') && self.is_blank_at(self.at + 1);
                (is_key && self.line_start == line_start).then_some(self.at)
            }
            // A flow collection is no key here, and a complex key is none anywhere.
            Some(b'[' | b'{') => None,
            Some(b'?') if self.is_blank_at(self.at + 1) => None,
            _ => self.plain_key_end(),
        };
        (self.at, self.line_start) = (start, line_start);
        Ok(colon)
    }

    /// Where the plain key at the cursor ends: at a colon before white space, on this line and before a comment.
    fn plain_key_end(&self) -> Option<usize> {
        let end = self.plain_end();
        (self.byte(end) == Some(b':')).then_some(end)
    }

    /// Where the plain text at the cursor ends: at a line end, at a colon before white space, or at a comment.
    fn plain_end(&self) -> usize {
        let mut at = self.at;
        loop {
            let ends = |word: Word| word.equal(b':') | word.equal(b'#') | word.equal(b'\n') | word.equal(b'\r');
            at += match bytes::find(&self.text.as_bytes()[at..], ends) {
                Some(length) => length,
                None => return self.text.len(),
            };
            match self.byte(at) {
                Some(b':') if !self.is_blank_at(at + 1) => {}
                Some(b'#') if at == self.at || !self.is_blank_at(at - 1) => {}
                _ => return at,
            }
            at += 1;
        }
    }

    /// A mapping whose first key is at the cursor and has its colon there.
    fn block_mapping(&mut self, column: usize, colon: usize) -> Result<()> {
        let mut keys = self.begin_mapping()?;
        let mut colon = Some(colon);
        loop {
            let start = self.at;
            let key = self.block_key(colon.take())?;
            self.new_key(key, start, &mut keys)?;
            self.value_of_key(column)?;
            if !self.has_another_key(column)? {
                self.end_mapping(&keys);
                return Ok(());
            }
        }
    }

    fn has_another_key(&mut self, column: usize) -> Result<bool> {
        self.skip_to_content()?;
        if self.is_end() || self.column() < column {
            return Ok(false);
        }
        if self.column() > column {
            return self.fail("is indented deeper than the keys before it");
        }
        if self.is_at_item() {
            // The list that this mapping is an item of goes on only further left.
            return self.fail("an item of a list among the keys of a mapping");
        }
        Ok(true)
    }

    /// The key at the cursor, whose colon may be known; the cursor then stands behind the colon.
    fn block_key(&mut self, colon: Option<usize>) -> Result<Cow<'a, str>> {
        let key = match self.peek() {
            Some(b'"' | b'\'') => {
                let key = self.quoted()?;
                self.skip_spaces();
                if self.peek() != Some(b':') || !self.is_blank_at(self.at + 1) {
                    return self.fail("expected ': ' behind a key");
                }
                key
            }
            _ => {
                self.check_plain_start()?;
                let Some(end) = colon.or_else(|| self.plain_key_end()) else {
                    return self.fail("expected a key and ': '");
                };
                let key = trimmed(&self.text[self.at..end]);
                self.at = end;
                Cow::Borrowed(key)
            }
        };
        self.at += 1;
        Ok(key)
    }

    /// The value behind a key's colon. `column` is the key's.
    fn value_of_key(&mut self, column: usize) -> Result<()> {
        self.skip_spaces();
        self.skip_comment();
        if !self.is_line_end() {
            return self.inline_line(Some(column));
        }
        self.skip_to_content()?;
        let inner = self.column();
        if !self.is_end() && (inner > column || (inner == column && self.is_at_item())) {
            return self.block_node(inner, Some(column));
        }
        self.out.leaf(Leaf::Null);
        Ok(())
    }

    fn block_sequence(&mut self, column: usize) -> Result<()> {
        self.begin(Collection::Sequence)?;
        loop {
            // Behind the dash.
            self.at += 1;
            self.item(column)?;
            if !self.has_another_item(column)? {
                self.out.end();
                return Ok(());
            }
        }
    }

    fn has_another_item(&mut self, column: usize) -> Result<bool> {
        self.skip_to_content()?;
        if self.is_end() || self.column() < column || (self.column() == column && !self.is_at_item()) {
            return Ok(false);
        }
        if self.column() > column {
            return self.fail("is indented deeper than the items before it");
        }
        Ok(true)
    }

    /// The item behind a dash that stands in this column.
    fn item(&mut self, column: usize) -> Result<()> {
        self.skip_spaces();
        self.skip_comment();
        if !self.is_line_end() {
            return self.block_node(self.column(), Some(column));
        }
        self.skip_to_content()?;
        if self.is_end() || self.column() <= column {
            self.out.leaf(Leaf::Null);
            return Ok(());
        }
        self.block_node(self.column(), Some(column))
    }

    /// A scalar or flow collection at the cursor.
    fn inline(&mut self, parent: Option<usize>) -> Result<()> {
        match self.peek() {
            Some(b'"' | b'\'' | b'[' | b'{') => self.flow_node(),
            Some(b'|' | b'>') => {
                let text = self.block_scalar(parent)?;
                self.out.leaf(Leaf::String(text));
                Ok(())
            }
            _ => {
                self.check_plain_start()?;
                let start = self.at;
                let text = self.plain_lines(parent)?;
                self.plain(text, start)
            }
        }
    }

    /// A plain scalar, which may go on on deeper lines.
    fn plain_lines(&mut self, parent: Option<usize>) -> Result<Cow<'a, str>> {
        let mut text = Cow::Borrowed(self.plain_line()?);
        loop {
            let (at, line_start) = (self.at, self.line_start);
            let mut line_feeds = 0;
            self.skip_spaces();
            // A comment ends a plain scalar.
            while matches!(self.peek(), Some(b'\n' | b'\r')) {
                self.next_line();
                self.skip_spaces();
                line_feeds += 1;
            }
            let is_deeper = parent.is_none_or(|column| self.column() > column);
            if line_feeds == 0 || self.is_end() || self.peek() == Some(b'#') || !is_deeper {
                (self.at, self.line_start) = (at, line_start);
                return Ok(text);
            }
            let line = self.plain_line()?;
            let text = text.to_mut();
            fold(text, line_feeds);
            text.push_str(line);
        }
    }

    /// One line of a plain scalar, without white space at its end.
    fn plain_line(&mut self) -> Result<&'a str> {
        let end = self.plain_end();
        if self.byte(end) == Some(b':') {
            return self.fail_at(end, "a mapping cannot begin here; quote a text that holds ': '");
        }
        let part = trimmed(&self.text[self.at..end]);
        self.at += part.len();
        Ok(part)
    }

    /// A literal or folded scalar.
    fn block_scalar(&mut self, parent: Option<usize>) -> Result<Cow<'a, str>> {
        let is_folded = self.peek() == Some(b'>');
        self.at += 1;
        let (mut chomping, mut explicit) = (Chomping::Clip, None);
        while let Some(byte) = self.peek() {
            match byte {
                b'-' => chomping = Chomping::Strip,
                b'+' => chomping = Chomping::Keep,
                b'1'..=b'9' => explicit = Some(usize::from(byte - b'0')),
                _ => break,
            }
            self.at += 1;
        }
        self.end_line()?;
        // As in other readers, a block is indented even where nothing is around it.
        let least = parent.map_or(1, |column| column + 1);
        let indent = explicit.map(|more| parent.unwrap_or(0) + more);
        let lines = self.block_lines(indent, least)?;
        if lines.is_empty() {
            return Ok(Cow::Borrowed(""));
        }
        let mut text = if is_folded { folded(&lines) } else { lines.join("\n") };
        if self.peek().is_some() {
            text.push('\n');
        }
        Ok(Cow::Owned(chomped(text, chomping)))
    }

    /// The lines of a block scalar without their indentation. The cursor then stands at the last line's end.
    fn block_lines(&mut self, mut indent: Option<usize>, least: usize) -> Result<Vec<&'a str>> {
        let mut lines = Vec::new();
        let mut widest_empty = 0;
        while self.peek().is_some() {
            let (at, line_start) = (self.at, self.line_start);
            self.next_line();
            let spaces = self.text[self.at..].bytes().take_while(|b| *b == b' ').count();
            let end = self.text[self.at..].find(['\n', '\r']).map_or(self.text.len(), |end| self.at + end);
            let is_empty = self.at + spaces == end;
            let width = match indent {
                Some(indent) => indent,
                None if is_empty => usize::MAX,
                None => spaces.max(least),
            };
            let is_outside = !is_empty && spaces < width;
            if is_outside || (self.at == self.text.len()) || self.is_marker("---") || self.is_marker("...") {
                (self.at, self.line_start) = (at, line_start);
                break;
            }
            if !is_empty && indent.is_none() {
                if widest_empty > width {
                    return self.fail("an empty line before this one is indented deeper");
                }
                indent = Some(width);
            }
            widest_empty = widest_empty.max(spaces);
            lines.push(&self.text[(self.at.saturating_add(width)).min(end)..end]);
            self.at = end;
        }
        Ok(lines)
    }
}

/// What happens to the line ends at the end of a block scalar.
#[derive(Clone, Copy)]
enum Chomping {
    Strip,
    Clip,
    Keep,
}

/// `text` ends with the last line's end, if there was one.
fn chomped(mut text: String, chomping: Chomping) -> String {
    let body = text.trim_end_matches('\n').len();
    let end = match chomping {
        Chomping::Strip => body,
        Chomping::Clip if body == 0 => 0,
        Chomping::Clip => text.len().min(body + 1),
        Chomping::Keep => text.len(),
    };
    text.truncate(end);
    text
}

/// One line end is a space; of several, all but the first are kept.
pub(super) fn fold(text: &mut String, line_feeds: usize) {
    match line_feeds {
        1 => text.push(' '),
        more => text.extend(std::iter::repeat_n('\n', more - 1)),
    }
}

/// Joins lines that are not indented further; line ends around those that are stay.
fn folded(lines: &[&str]) -> String {
    let is_more = |line: &str| line.starts_with([' ', '\t']);
    let mut text = String::new();
    let mut line_feeds = 0;
    let mut before: Option<&str> = None;
    for &line in lines {
        if line.is_empty() {
            line_feeds += 1;
            continue;
        }
        match before {
            Some(last) if is_more(last) || is_more(line) => {
                text.extend(std::iter::repeat_n('\n', line_feeds + 1));
            }
            Some(_) => fold(&mut text, line_feeds + 1),
            None => text.extend(std::iter::repeat_n('\n', line_feeds)),
        }
        text.push_str(line);
        (before, line_feeds) = (Some(line), 0);
    }
    // The caller adds the last line's own end.
    let is_empty = before.is_none();
    text.extend(std::iter::repeat_n('\n', line_feeds - usize::from(is_empty && line_feeds > 0)));
    text
}
