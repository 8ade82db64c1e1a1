//! Writes data as YAML in block style, as kubectl does: lists are not indented below their key.

use std::borrow::Cow;
use std::fmt::Write;

use compact_str::ToCompactString;

use super::plain;
use crate::data::{Collection, Leaf, Sink};

/// Writes each piece of a value as it comes.
pub(super) struct Writer {
    out: String,
    /// Collections that have not ended, outermost first.
    open: Vec<Open>,
    place: Place,
}

/// A collection that is being written.
struct Open {
    collection: Collection,
    /// Levels of indentation of its keys or dashes.
    depth: usize,
    is_empty: bool,
    /// Where it begins.
    place: Place,
}

/// Where the next value goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The beginning of the text.
    Top,
    /// Behind the colon of a key.
    BehindKey,
    /// Behind the dash of an item, and a space.
    BehindDash,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self { out: String::with_capacity(4096), open: Vec::new(), place: Place::Top }
    }

    /// The text, which ends with a line feed.
    pub(super) fn finish(self) -> String {
        self.out
    }

    /// Begins a key or an item on a line of its own; the first one of a collection goes on on the line that is there.
    fn entry(&mut self) {
        let Some(open) = self.open.last_mut() else { return };
        let is_first = std::mem::replace(&mut open.is_empty, false);
        if !is_first {
            indent(open.depth, &mut self.out);
        } else if open.place == Place::BehindKey {
            self.out.push('\n');
            indent(open.depth, &mut self.out);
        }
    }

    /// Begins a value, which is an item if a sequence is open.
    fn value(&mut self) {
        if self.open.last().is_some_and(|open| open.collection == Collection::Sequence) {
            self.entry();
            self.out.push_str("- ");
            self.place = Place::BehindDash;
        }
    }

    /// What is written on the line where its key or dash stands.
    fn inline(&mut self, write: impl FnOnce(usize, &mut String)) {
        if self.place == Place::BehindKey {
            self.out.push(' ');
        }
        // Some readers want the lines of a block indented even at the top.
        let depth = self.open.last().map_or(1, |open| open.depth + 1);
        write(depth, &mut self.out);
        self.out.push('\n');
    }
}

impl<'a> Sink<'a> for Writer {
    fn leaf(&mut self, leaf: Leaf<'a>) {
        self.value();
        self.inline(|depth, out| match leaf {
            Leaf::Null => out.push_str("null"),
            Leaf::Bool(value) => out.push_str(if value { "true" } else { "false" }),
            Leaf::Number(number) => out.push_str(&number.to_compact_string()),
            Leaf::String(value) => text(&value, Some(depth), out),
        });
    }

    fn begin(&mut self, collection: Collection) {
        self.value();
        let depth = match (self.open.last(), self.place, collection) {
            (None, ..) => 0,
            (Some(outer), Place::BehindKey, Collection::Sequence) => outer.depth,
            (Some(outer), ..) => outer.depth + 1,
        };
        self.open.push(Open { collection, depth, is_empty: true, place: self.place });
    }

    fn key(&mut self, key: Cow<'a, str>) {
        self.entry();
        text(&key, None, &mut self.out);
        self.out.push(':');
        self.place = Place::BehindKey;
    }

    fn end(&mut self) {
        let Some(open) = self.open.pop() else { return };
        if open.is_empty {
            self.place = open.place;
            let empty = if open.collection == Collection::Mapping { "{}" } else { "[]" };
            self.inline(|_, out| out.push_str(empty));
        }
    }
}

/// A text in the plainest style that keeps it; a block only where a depth for it is given.
fn text(value: &str, block_depth: Option<usize>, out: &mut String) {
    match style(value) {
        Style::Plain => out.push_str(value),
        Style::Single => {
            out.push('\'');
            for (index, part) in value.split('\'').enumerate() {
                if index > 0 {
                    out.push_str("''");
                }
                out.push_str(part);
            }
            out.push('\'');
        }
        Style::Block => match block_depth {
            Some(depth) => block(value, depth, out),
            None => double(value, out),
        },
        Style::Double => double(value, out),
    }
}

enum Style {
    Plain,
    Single,
    Double,
    Block,
}

/// Bytes that a plain scalar can have anywhere but at its beginning.
const SIMPLE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 0x80 {
        table[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/');
        byte += 1;
    }
    table
};

fn style(value: &str) -> Style {
    let bytes = value.as_bytes();
    // The usual case: a word, a path.
    if matches!(bytes, [b'a'..=b'z' | b'A'..=b'Z' | b'/', rest @ ..] if rest.iter().all(|b| SIMPLE[usize::from(*b)])) {
        return if plain::is_text(value) { Style::Plain } else { Style::Single };
    }
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return Style::Single };
    let mut has_line_feed = false;
    let mut is_plain = true;
    let mut is_ascii = true;
    let mut before = b'\n';
    for &byte in bytes {
        match byte {
            b'\n' => has_line_feed = true,
            0..0x20 | 0x7F => return Style::Double,
            0x80.. => is_ascii = false,
            b'#' if before == b' ' => is_plain = false,
            b' ' if before == b':' => is_plain = false,
            _ => {}
        }
        before = byte;
    }
    if !is_ascii && value.chars().any(must_be_escaped) {
        return Style::Double;
    }
    if has_line_feed {
        let is_only_line_feeds = bytes.iter().all(|b| *b == b'\n');
        return if matches!(first, b' ' | b'\n') || is_only_line_feeds { Style::Double } else { Style::Block };
    }
    let is_indicator = matches!(
        first,
        b' ' | b'!'
            | b'"'
            | b'#'
            | b'%'
            | b'&'
            | b'\''
            | b'*'
            | b','
            | b':'
            | b'='
            | b'>'
            | b'?'
            | b'@'
            | b'['
            | b']'
            | b'`'
            | b'{'
            | b'|'
            | b'}'
    );
    let is_dashes = *first == b'-' && matches!(bytes.get(1), None | Some(b' ' | b'-'));
    if is_plain && !is_indicator && !is_dashes && !matches!(last, b' ' | b':') && value != "<<" && plain::is_text(value)
    {
        Style::Plain
    } else {
        Style::Single
    }
}

/// Characters beyond ASCII that YAML does not allow, or that some readers take for a line end or drop.
fn must_be_escaped(c: char) -> bool {
    matches!(c, '\u{7F}'..='\u{9F}' | '\u{2028}' | '\u{2029}' | '\u{FEFF}' | '\u{FFFE}' | '\u{FFFF}')
}

fn double(value: &str, out: &mut String) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c < ' ' || must_be_escaped(c) => {
                let _ = write!(out, "\\u{:04X}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Literal lines. The caller ends the last one.
fn block(value: &str, depth: usize, out: &mut String) {
    let body = value.trim_end_matches('\n');
    let line_feeds = value.len() - body.len();
    out.push_str(match line_feeds {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(depth, out);
            out.push_str(line);
        }
    }
    (1..line_feeds).for_each(|_| out.push('\n'));
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

#[cfg(test)]
mod tests {
    use crate::value::Value;

    fn write(value: &Value<'_>) -> String {
        value.to_yaml()
    }

    fn text_of(value: &str) -> String {
        write(&Value::String(value.into()))
    }

    #[test]
    fn plain_where_every_reader_agrees() {
        for text in ["a b", "a,b [c] {d}", "-x", "a:b", "http://x/#y", "a#b", "é", "a'b"] {
            assert_eq!(text_of(text), format!("{text}\n"));
        }
        for text in
            ["", "yes", "1.5", "a: b", "a #b", "- a", "-", "--- a", "*a", " a", "a ", "a:", "?", "=", "<<", "'a"]
        {
            assert!(text_of(text).starts_with('\''), "{text}: {}", text_of(text));
        }
        assert_eq!(text_of("it's: so"), "'it''s: so'\n");
    }

    #[test]
    fn several_lines_are_a_block_and_the_rest_is_escaped() {
        assert_eq!(text_of("a\nb"), "|-\n  a\n  b\n");
        let inside = Value::Mapping(vec![("k".into(), Value::String("a\n\n b\n".into()))]);
        assert_eq!(write(&inside), "k: |\n  a\n\n   b\n");
        assert_eq!(text_of(" a\nb"), "\" a\\nb\"\n");
        assert_eq!(text_of("a\tb\u{85}"), "\"a\\tb\\u0085\"\n");
    }

    #[test]
    fn lists_are_not_indented_below_their_key() {
        let item = Value::Mapping(vec![("x".into(), Value::Number(1)), ("z".into(), Value::Mapping(vec![]))]);
        let nested = Value::Sequence(vec![Value::Number(1), Value::Null]);
        let value = Value::Mapping(vec![("a".into(), Value::Sequence(vec![item, nested, Value::Bool(true)]))]);
        assert_eq!(write(&value), "a:\n- x: 1\n  z: {}\n- - 1\n  - null\n- true\n");
    }
}
