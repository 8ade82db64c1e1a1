//! What a plain scalar means, to this reader and to others.

use std::borrow::Cow;

use crate::codec::canonical_number;
use crate::data::Leaf;

/// The value of a plain scalar, or why it must be quoted.
pub(super) fn resolve(text: &str) -> Result<Leaf<'_>, &'static str> {
    let Some(first) = text.bytes().next() else { return Ok(Leaf::Null) };
    if first.is_ascii_digit() || matches!(first, b'-' | b'+' | b'.') {
        return match canonical_number(text) {
            Some(number) => Ok(Leaf::Number(number)),
            None if looks_like_number(text) => Err("is a number to some readers and changes on its way: quote it"),
            None => Ok(Leaf::String(Cow::Borrowed(text))),
        };
    }
    Ok(match word(text) {
        Some(Word::True) => Leaf::Bool(true),
        Some(Word::False) => Leaf::Bool(false),
        Some(Word::Null) => Leaf::Null,
        None => Leaf::String(Cow::Borrowed(text)),
    })
}

/// Whether every reader takes `text`, written plainly, for just this text. It may still need quotes for its
/// characters.
pub(super) fn is_text(text: &str) -> bool {
    match text.bytes().next() {
        None => false,
        Some(b'0'..=b'9' | b'-' | b'+' | b'.') => !looks_like_number(text),
        Some(_) => word(text).is_none(),
    }
}

enum Word {
    True,
    False,
    Null,
}

/// The words that YAML 1.1 or 1.2 gives a meaning.
fn word(text: &str) -> Option<Word> {
    // Most texts are longer, or begin like none of them.
    if text.len() > 5
        || !matches!(text.as_bytes(), [b'~' | b'n' | b'N' | b't' | b'T' | b'y' | b'Y' | b'o' | b'O' | b'f' | b'F', ..])
    {
        return None;
    }
    let is_one_of = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is_one_of(&["~", "null"]) {
        Some(Word::Null)
    } else if is_one_of(&["true", "yes", "on", "y"]) {
        Some(Word::True)
    } else if is_one_of(&["false", "no", "off", "n"]) {
        Some(Word::False)
    } else {
        None
    }
}

/// Whether some reader may take a text that begins with a digit, a sign or a dot for a number or a date. Errs towards
/// yes.
fn looks_like_number(text: &str) -> bool {
    let bytes = text.as_bytes();
    match bytes {
        // .inf and .nan
        [b'.', ..] | [b'+' | b'-', b'.', ..] => true,
        [b'0', b'x' | b'X' | b'o' | b'O' | b'b' | b'B', ..] => true,
        [b'+' | b'-', b'0', b'x' | b'X' | b'o' | b'O' | b'b' | b'B', ..] => true,
        // Exponents, dates and the separators of numbers, and nothing else.
        _ => bytes.iter().all(|b| {
            b.is_ascii_digit()
                || matches!(b, b'e' | b'E' | b't' | b'T' | b'z' | b'Z' | b'_' | b':' | b'.' | b'+' | b'-' | b' ' | b',')
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_every_reader_takes_for_text() {
        for text in ["a", "52:54:00:12:34:5f", "0dd4f2cb-7a0c", "10k", "/dev/vda", "qcow2", "1.2.3a", "2048MiB"] {
            assert!(is_text(text), "{text}");
            assert_eq!(resolve(text), Ok(Leaf::String(text.into())), "{text}");
        }
    }

    #[test]
    fn what_readers_disagree_about_must_be_quoted() {
        for text in
            ["0042", "1e3", "1.5", "0x1f", "0o17", "1_000", "12:30:45", "2001-01-01", "+1", ".5", "-.inf", "1,0"]
        {
            assert!(!is_text(text), "{text}");
            assert!(resolve(text).is_err(), "{text}");
        }
    }

    #[test]
    fn words_are_kubectls() {
        for text in ["yes", "No", "ON", "off", "y", "true", "False", "null", "~"] {
            assert!(!is_text(text), "{text}");
        }
        assert_eq!(resolve("yes"), Ok(Leaf::Bool(true)));
        assert_eq!(resolve("off"), Ok(Leaf::Bool(false)));
        assert_eq!(resolve("~"), Ok(Leaf::Null));
        assert_eq!(resolve(""), Ok(Leaf::Null));
        assert_eq!(resolve("42"), Ok(Leaf::Number(42)));
    }
}
