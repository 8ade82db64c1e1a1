//! Text as a scalar and back.

use std::borrow::Cow;

use compact_str::{CompactString, ToCompactString};

use crate::data::Leaf;
use crate::shapes::Scalar;
use crate::value::NUMBER_END;

/// The scalar for a text.
pub(super) fn encode(text: &str, kind: Scalar) -> Leaf<'_> {
    match (kind, text) {
        (Scalar::YesNo, "yes") | (Scalar::OnOff, "on") => Leaf::Bool(true),
        (Scalar::YesNo, "no") | (Scalar::OnOff, "off") => Leaf::Bool(false),
        _ => match canonical_number(text) {
            Some(number) => Leaf::Number(number),
            None => Leaf::String(Cow::Borrowed(text)),
        },
    }
}

/// The text of a scalar, or what is wrong with it.
pub(super) fn decode(value: &Leaf<'_>, kind: Scalar) -> Result<CompactString, String> {
    match (value, kind) {
        (Leaf::String(text), _) => Ok(CompactString::from(&**text)),
        (Leaf::Number(number), _) => Ok(number.to_compact_string()),
        (Leaf::Bool(value), Scalar::YesNo) => Ok(CompactString::const_new(if *value { "yes" } else { "no" })),
        (Leaf::Bool(value), Scalar::OnOff) => Ok(CompactString::const_new(if *value { "on" } else { "off" })),
        (Leaf::Bool(_), Scalar::Plain) => {
            Err("is no switch of libvirt's; a text that looks like one (yes, on, true) needs quotes".to_owned())
        }
        (Leaf::Null, _) => Err("expected a scalar, found null".to_owned()),
    }
}

/// The number that is written exactly as `text`.
pub(crate) fn canonical_number(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let is_canonical = match digits {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.len() < 16 && rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !is_canonical {
        return None;
    }
    text.parse().ok().filter(|number| -NUMBER_END < *number && *number < NUMBER_END)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_numbers_are_numbers() {
        for (text, number) in [("0", 0), ("42", 42), ("-1", -1), ("9007199254740991", NUMBER_END - 1)] {
            assert_eq!(encode(text, Scalar::Plain), Leaf::Number(number));
        }
        for text in ["0042", "-0", "+1", "1.5", "0x1f", "", "-", "9007199254740992", "99999999999999999999", " 1"] {
            assert_eq!(encode(text, Scalar::Plain), Leaf::String(text.into()), "{text}");
        }
    }

    #[test]
    fn switches_are_what_the_schema_says() {
        assert_eq!(encode("yes", Scalar::YesNo), Leaf::Bool(true));
        assert_eq!(encode("off", Scalar::OnOff), Leaf::Bool(false));
        assert_eq!(encode("on", Scalar::YesNo), Leaf::String("on".into()));
        assert_eq!(encode("yes", Scalar::Plain), Leaf::String("yes".into()));
        assert_eq!(encode("true", Scalar::YesNo), Leaf::String("true".into()));
        assert!(decode(&Leaf::Bool(true), Scalar::Plain).is_err());
        assert!(decode(&Leaf::Null, Scalar::Plain).is_err());
    }

    #[test]
    fn comes_back_as_it_was() {
        for kind in [Scalar::Plain, Scalar::YesNo, Scalar::OnOff] {
            for text in ["yes", "no", "on", "off", "true", "0", "00", "1e3", "", "null", "~"] {
                assert_eq!(decode(&encode(text, kind), kind).as_deref(), Ok(text));
            }
        }
    }
}
