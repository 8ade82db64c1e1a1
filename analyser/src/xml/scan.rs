//! Lexical rules of XML 1.0 that are below the level of markup: characters, names, references, attributes.

use std::borrow::Cow;

use crate::bytes::{self, Word};
use crate::tree::is_white_space;

/// A rule that was broken, and the byte offset in the text that was scanned.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) at: usize,
    pub(super) what: String,
}

fn broken<T>(at: usize, what: impl Into<String>) -> Result<T, Broken> {
    Err(Broken { at, what: what.into() })
}

/// The first character that XML 1.0 forbids in a document, as a byte offset.
pub(crate) fn forbidden_character(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let may_be_bad = |b: &u8| (*b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r')) || *b == 0xEF;
    // Without an early end within a chunk, the compiler looks at many bytes at once.
    let may_be_bad_in = |bytes: &[u8]| bytes.iter().fold(false, |found, b| found | may_be_bad(b));
    let (chunks, rest) = bytes.as_chunks::<64>();
    if chunks.is_empty() {
        bytes::find(bytes, |word| word.below(b' ') | word.equal(0xEF))?;
    } else if !may_be_bad_in(rest) && !chunks.iter().any(|chunk| may_be_bad_in(chunk)) {
        return None;
    }
    bytes.iter().enumerate().position(|(at, &b)| match b {
        b'\t' | b'\n' | b'\r' => false,
        0..0x20 => true,
        // U+FFFE and U+FFFF are EF BF BE and EF BF BF.
        0xEF => matches!(bytes.get(at + 1..at + 3), Some([0xBF, 0xBE | 0xBF])),
        _ => false,
    })
}

/// XML 1.0, production 5.
pub(crate) fn is_name(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    if name.as_bytes().first().is_some_and(u8::is_ascii_alphabetic) && name.bytes().all(is_plain) {
        return true;
    }
    let mut characters = name.chars();
    let colons = name.bytes().filter(|b| *b == b':').count();
    characters.next().is_some_and(is_name_start)
        && characters.all(is_name_character)
        // A name has at most one prefix (Namespaces in XML 1.0, production 7).
        && (colons == 0 || (colons == 1 && !name.starts_with(':') && !name.ends_with(':')))
}

fn is_name_start(c: char) -> bool {
    matches!(c, ':' | '_' | 'A'..='Z' | 'a'..='z' | '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}' | '\u{F8}'..='\u{2FF}'
        | '\u{370}'..='\u{37D}' | '\u{37F}'..='\u{1FFF}' | '\u{200C}'..='\u{200D}' | '\u{2070}'..='\u{218F}'
        | '\u{2C00}'..='\u{2FEF}' | '\u{3001}'..='\u{D7FF}' | '\u{F900}'..='\u{FDCF}' | '\u{FDF0}'..='\u{FFFD}'
        | '\u{10000}'..='\u{EFFFF}')
}

fn is_name_character(c: char) -> bool {
    is_name_start(c) || matches!(c, '-' | '.' | '0'..='9' | '\u{B7}' | '\u{300}'..='\u{36F}' | '\u{203F}'..='\u{2040}')
}

/// The character that `&reference;` stands for.
pub(super) fn resolve(reference: &str) -> Result<char, String> {
    let number = match reference {
        "lt" => return Ok('<'),
        "gt" => return Ok('>'),
        "amp" => return Ok('&'),
        "apos" => return Ok('\''),
        "quot" => return Ok('"'),
        _ => match reference.strip_prefix('#') {
            Some(number) => number,
            None => return Err(format!("entity &{reference}; is not defined: only XML's own five are read")),
        },
    };
    let code = match number.strip_prefix('x') {
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => u32::from_str_radix(hex, 16).ok(),
        None if number.bytes().all(|b| b.is_ascii_digit()) => number.parse().ok(),
        _ => None,
    };
    match code.and_then(char::from_u32) {
        Some(c) if is_character(c) => Ok(c),
        _ => Err(format!("&{reference}; is not a character of XML")),
    }
}

fn is_character(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

/// What stands before white space or a character that markup is made of: a name, if it is one.
pub(super) fn word(text: &str) -> &str {
    let is_end = |b: u8| matches!(b, b' ' | b'\t' | b'\n' | b'\r' | b'=' | b'>' | b'/' | b'<' | b'\'' | b'"' | b'?');
    let mut end = 0;
    // Letters come behind all of these.
    while let Some(length) = bytes::find(&text.as_bytes()[end..], |word| word.below(b'@')) {
        end += length;
        if is_end(text.as_bytes()[end]) {
            return &text[..end];
        }
        end += 1;
    }
    text
}

/// The attributes in a tag, from behind its name on, in order; gives the offset of the first character behind them.
/// `each` takes name and value; it is called with the value normalised (references resolved, other white space made
/// spaces), and checks the name.
pub(super) fn attributes(
    raw: &str,
    mut each: impl FnMut(&str, Cow<'_, str>) -> Result<(), String>,
) -> Result<usize, Broken> {
    // Below the space is only white space: a document has no other.
    let special = |word: Word| word.equal(b'&') | word.equal(b'<') | word.below(b' ');
    let bytes = raw.as_bytes();
    let mut at = 0;
    loop {
        let space = at;
        at += blank(&bytes[at..]);
        if matches!(bytes.get(at), None | Some(b'>' | b'/' | b'?')) {
            return Ok(at);
        }
        if at == space {
            return broken(at, "white space is missing before an attribute");
        }
        let start = at;
        let name = word(&raw[at..]);
        at += name.len();
        at += blank(&bytes[at..]);
        if bytes.get(at) != Some(&b'=') {
            return broken(at, format!("attribute {name} has no value"));
        }
        at += 1;
        at += blank(&bytes[at..]);
        let quote = match bytes.get(at) {
            Some(q @ (b'\'' | b'"')) => *q,
            _ => return broken(at, format!("the value of attribute {name} is not quoted")),
        };
        at += 1;
        let Some(length) = bytes::find(&bytes[at..], |word| word.equal(quote)) else {
            return broken(raw.len(), format!("the value of attribute {name} does not end"));
        };
        let value = resolved(&raw[at..at + length], special).map_err(|b| Broken { at: at + b.at, ..b })?;
        each(name, value).map_err(|what| Broken { at: start, what })?;
        at += length + 1;
    }
}

fn blank(bytes: &[u8]) -> usize {
    bytes.iter().position(|b| !is_white_space(*b)).unwrap_or(bytes.len())
}

/// Character data with its references resolved.
pub(super) fn text(raw: &str) -> Result<Cow<'_, str>, Broken> {
    resolved(raw, |word| word.equal(b'&') | word.equal(b']'))
}

/// Text with its references resolved and white space that is special made spaces.
fn resolved(raw: &str, special: impl Fn(Word) -> u64) -> Result<Cow<'_, str>, Broken> {
    let next = |from: usize| Some(from + bytes::find(&raw.as_bytes()[from..], &special)?);
    let Some(mut at) = next(0) else { return Ok(Cow::Borrowed(raw)) };
    let mut out = String::with_capacity(raw.len());
    let mut from = 0;
    loop {
        out.push_str(&raw[from..at]);
        from = at + 1;
        match raw.as_bytes()[at] {
            b'&' => {
                let name = raw[from..].split(|c| c != '#' && !is_name_character(c)).next().unwrap_or_default();
                if raw.as_bytes().get(from + name.len()) != Some(&b';') {
                    return broken(at, "'&' begins a reference that does not end; a plain one is written &amp;");
                }
                out.push(resolve(name).map_err(|what| Broken { at, what })?);
                from += name.len() + 1;
            }
            b'<' => return broken(at, "'<' in the value of an attribute; it is written &lt;"),
            b']' if raw[at..].starts_with("]]>") => return broken(at, "']]>' in text; its '>' is written &gt;"),
            b']' => out.push(']'),
            _ => out.push(' '),
        }
        match next(from) {
            Some(found) => at = found,
            None => {
                out.push_str(&raw[from..]);
                return Ok(Cow::Owned(out));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(raw: &str) -> Result<Vec<(String, String)>, Broken> {
        let mut out = Vec::new();
        attributes(raw, |n, v| {
            out.push((n.to_owned(), v.into_owned()));
            Ok(())
        })?;
        Ok(out)
    }

    #[test]
    fn attributes_in_order_and_normalised() {
        let got = scan(" a='1' b = \"&lt;&#x41;&#10;\"\n c='x\ty'").unwrap();
        let want = [("a", "1"), ("b", "<A\n"), ("c", "x y")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(got, want);
    }

    #[test]
    fn broken_attributes_name_their_place() {
        for (raw, at) in [(" a", 2), (" a=1", 3), (" a='1'b='2'", 6), (" a='<'", 4), (" a='&x;'", 4)] {
            assert_eq!(scan(raw).unwrap_err().at, at, "{raw}");
        }
    }

    #[test]
    fn references() {
        assert_eq!(resolve("#13"), Ok('\r'));
        assert_eq!(resolve("#x1F600"), Ok('😀'));
        for bad in ["nbsp", "#0", "#xD800", "#", "#x", "#+1", "#12345678901", ""] {
            assert!(resolve(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names() {
        for good in ["a", "qemu:arg", "on_crash", "x-y.z", "é"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "1a", "-a", "a b", "a:b:c", ":a", "a:", "a<"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
