//! Reading a document whose keys are known: each mistake is refused with its path.

use crate::error::{Error, Result};
use crate::value::Value;
use crate::xml::forbidden_character;

/// A value, and where it stands.
pub(super) type Found<'v> = (String, &'v Value<'v>);

/// The keys of a mapping that have not been taken.
pub(super) struct Fields<'v> {
    path: String,
    left: Vec<(&'v str, &'v Value<'v>)>,
}

impl<'v> Fields<'v> {
    pub(super) fn of(value: &'v Value<'v>, path: &str) -> Result<Self> {
        let Value::Mapping(entries) = value else { return Err(unexpected(path, value, "a mapping")) };
        Ok(Self { path: path.to_owned(), left: entries.iter().map(|(key, value)| (&**key, value)).collect() })
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn take(&mut self, key: &str) -> Option<Found<'v>> {
        let at = self.left.iter().position(|(there, _)| *there == key)?;
        Some((self.path_of(key), self.left.remove(at).1))
    }

    pub(super) fn need(&mut self, key: &str) -> Result<Found<'v>> {
        self.take(key).ok_or_else(|| Error::at(self.path_of(key), "is missing"))
    }

    /// The one key that a mapping at `key` has.
    pub(super) fn only(&mut self, key: &str, inner: &str) -> Result<Found<'v>> {
        let (path, value) = self.need(key)?;
        let mut fields = Fields::of(value, &path)?;
        let found = fields.need(inner)?;
        fields.end().map(|()| found)
    }

    /// Refuses what was not taken.
    pub(super) fn end(self) -> Result<()> {
        match self.left.first() {
            None => Ok(()),
            Some((key, _)) => Err(Error::at(self.path_of(key), "there is no such field here")),
        }
    }
}

fn unexpected(path: &str, value: &Value<'_>, expected: &str) -> Error {
    Error::at(path, format!("expected {expected}, found {}", value.kind()))
}

/// The items of a list, each with its place.
pub(super) fn list<'v, T>((path, value): Found<'v>, read: impl Fn(Found<'v>) -> Result<T>) -> Result<Vec<T>> {
    let Value::Sequence(items) = value else { return Err(unexpected(&path, value, "a list")) };
    items.iter().enumerate().map(|(index, item)| read((format!("{path}[{index}]"), item))).collect()
}

/// Text; a number is text that needs no quotes.
pub(super) fn text((path, value): Found<'_>) -> Result<String> {
    match value {
        Value::String(text) if forbidden_character(text).is_some() => {
            Err(Error::at(path, "has a character that XML does not allow"))
        }
        Value::String(text) => Ok(text.to_string()),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(unexpected(&path, other, "text")),
    }
}

/// A whole number, also one in quotes: some are too large for other readers.
pub(super) fn number<T: std::str::FromStr>(found: Found<'_>) -> Result<T> {
    let path = found.0.clone();
    let text = text(found)?;
    text.parse().map_err(|_| Error::at(path, format!("'{text}' is no whole number that is possible here")))
}

/// One of a few words.
pub(super) fn choice<T: Copy>(found: Found<'_>, words: &[(&str, T)]) -> Result<T> {
    let path = found.0.clone();
    let text = text(found)?;
    let chosen = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    chosen.ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        Error::at(path, format!("'{text}' is not {}", known.join(" or ")))
    })
}
