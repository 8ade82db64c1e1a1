//! Writes data as YAML in block style, as kubectl does: lists are not indented below their key.

use std::fmt::Write;

use super::plain;
use crate::value::Value;

/// The text of a value.
pub(super) fn write(value: &Value<'_>) -> String {
    let mut out = String::with_capacity(4096);
    match value {
        Value::Mapping(entries) if !entries.is_empty() => mapping(entries, 0, false, &mut out),
        Value::Sequence(items) if !items.is_empty() => sequence(items, 0, &mut out),
        scalar => {
            // Some readers want the lines of a block indented even here.
            inline(scalar, 1, &mut out);
            out.push('\n');
        }
    }
    out
}

type Entries<'a> = [(std::borrow::Cow<'a, str>, Value<'a>)];

/// Entries on lines of their own; the first one goes on on the line that is there if `is_begun`.
fn mapping(entries: &Entries<'_>, depth: usize, is_begun: bool, out: &mut String) {
    for (index, (key, value)) in entries.iter().enumerate() {
        if index > 0 || !is_begun {
            indent(depth, out);
        }
        text(key, None, out);
        out.push(':');
        match value {
            Value::Mapping(inner) if !inner.is_empty() => {
                out.push('\n');
                mapping(inner, depth + 1, false, out);
            }
            Value::Sequence(items) if !items.is_empty() => {
                out.push('\n');
                sequence(items, depth, out);
            }
            scalar => {
                out.push(' ');
                inline(scalar, depth + 1, out);
                out.push('\n');
            }
        }
    }
}

fn sequence(items: &[Value<'_>], depth: usize, out: &mut String) {
    for item in items {
        indent(depth, out);
        dash(item, depth, out);
    }
}

/// An item whose dash stands at `depth`.
fn dash(item: &Value<'_>, depth: usize, out: &mut String) {
    out.push_str("- ");
    match item {
        Value::Mapping(inner) if !inner.is_empty() => mapping(inner, depth + 1, true, out),
        Value::Sequence(items) => match items.as_slice() {
            [] => out.push_str("[]\n"),
            [first, rest @ ..] => {
                dash(first, depth + 1, out);
                sequence(rest, depth + 1, out);
            }
        },
        scalar => {
            inline(scalar, depth + 1, out);
            out.push('\n');
        }
    }
}

/// A scalar or an empty collection; further lines of a block scalar are indented to `depth`.
fn inline(value: &Value<'_>, depth: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => {
            let _ = write!(out, "{number}");
        }
        Value::String(value) => text(value, Some(depth), out),
        Value::Sequence(_) => out.push_str("[]"),
        Value::Mapping(_) => out.push_str("{}"),
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

fn style(value: &str) -> Style {
    let bytes = value.as_bytes();
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
    use super::*;

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
