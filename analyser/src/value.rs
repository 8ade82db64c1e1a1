//! Plain data as YAML and JSON have it, between a document's tree and its text.

use std::borrow::Cow;

use serde_json::Value as Json;

use crate::data::{Collection, Kind, Leaf, Piece, Pieces, Sink};
use crate::error::{Error, Result};

/// A value of YAML's or JSON's data model. Mappings keep the order of their keys; numbers are integers, since libvirt's
/// documents are text and only integers come back from every reader as they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer that every reader of JSON holds exactly: its magnitude is below 2^53.
    Number(i64),
    /// Text.
    String(Cow<'a, str>),
    /// A list.
    Sequence(Vec<Value<'a>>),
    /// Keys and values, no key twice.
    Mapping(Vec<(Cow<'a, str>, Value<'a>)>),
}

/// Integers from here on are text: not every reader of JSON holds them.
pub(crate) const NUMBER_END: i64 = 1 << 53;

impl<'a> Value<'a> {
    /// What it is, for messages.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Null => Kind::Null,
            Self::Bool(_) => Kind::Bool,
            Self::Number(_) => Kind::Number,
            Self::String(_) => Kind::String,
            Self::Sequence(_) => Kind::Sequence,
            Self::Mapping(_) => Kind::Mapping,
        }
    }

    /// Gives the value to a sink.
    pub(crate) fn send<'v>(&'v self, sink: &mut impl Sink<'v>) {
        match self {
            Self::Null => sink.leaf(Leaf::Null),
            Self::Bool(value) => sink.leaf(Leaf::Bool(*value)),
            Self::Number(value) => sink.leaf(Leaf::Number(*value)),
            Self::String(value) => sink.leaf(Leaf::String(Cow::Borrowed(value))),
            Self::Sequence(items) => {
                sink.begin(Collection::Sequence);
                items.iter().for_each(|item| item.send(sink));
                sink.end();
            }
            Self::Mapping(entries) => {
                sink.begin(Collection::Mapping);
                for (key, value) in entries {
                    sink.key(Cow::Borrowed(key));
                    value.send(sink);
                }
                sink.end();
            }
        }
    }

    /// The value that the pieces are of.
    pub(crate) fn build(pieces: Pieces<'a>) -> Self {
        Self::take(&mut pieces.into_pieces())
    }

    fn take(pieces: &mut std::vec::IntoIter<Piece<'a>>) -> Self {
        match pieces.next() {
            None | Some(Piece::Leaf(Leaf::Null)) => Self::Null,
            Some(Piece::Leaf(Leaf::Bool(value))) => Self::Bool(value),
            Some(Piece::Leaf(Leaf::Number(value))) => Self::Number(value),
            Some(Piece::Leaf(Leaf::String(value)) | Piece::Key(value)) => Self::String(value),
            Some(Piece::Collection(Collection::Sequence, length)) => {
                let behind = pieces.len() - length;
                let mut items = Vec::new();
                while pieces.len() > behind {
                    items.push(Self::take(pieces));
                }
                Self::Sequence(items)
            }
            Some(Piece::Collection(Collection::Mapping, length)) => {
                let behind = pieces.len() - length;
                let mut entries = Vec::new();
                while pieces.len() > behind {
                    if let Some(Piece::Key(key)) = pieces.next() {
                        entries.push((key, Self::take(pieces)));
                    }
                }
                Self::Mapping(entries)
            }
        }
    }

    /// The value at a key of a mapping.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        match self {
            Self::Mapping(entries) => entries.iter().find(|(there, _)| there == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The same as JSON.
    pub fn to_json(&self) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Bool(value) => Json::Bool(*value),
            Self::Number(value) => Json::from(*value),
            Self::String(value) => Json::String(value.clone().into_owned()),
            Self::Sequence(items) => Json::Array(items.iter().map(Value::to_json).collect()),
            Self::Mapping(entries) => {
                Json::Object(entries.iter().map(|(key, value)| (key.clone().into_owned(), value.to_json())).collect())
            }
        }
    }

    /// The same as JSON text, indented, with a line feed at the end.
    pub fn to_json_text(&self) -> String {
        format!("{:#}\n", self.to_json())
    }

    /// From JSON.
    ///
    /// # Errors
    /// A number that is not an integer or too large to be held exactly by every reader.
    pub fn from_json(json: &'a Json) -> Result<Self> {
        Self::read_json(json, &mut Vec::new())
    }

    fn read_json(json: &'a Json, path: &mut Vec<String>) -> Result<Self> {
        Ok(match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(value) if -NUMBER_END < value && value < NUMBER_END => Self::Number(value),
                _ => {
                    return Err(Error::at(
                        path.join("."),
                        format!("{number} may change on its way: write it in quotes"),
                    ));
                }
            },
            Json::String(value) => Self::String(Cow::Borrowed(value)),
            Json::Array(items) => {
                let mut values = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    path.push(index.to_string());
                    values.push(Self::read_json(item, path)?);
                    path.pop();
                }
                Self::Sequence(values)
            }
            Json::Object(map) => {
                let mut entries = Vec::with_capacity(map.len());
                for (key, value) in map {
                    path.push(key.clone());
                    entries.push((Cow::Borrowed(key.as_str()), Self::read_json(value, path)?));
                    path.pop();
                }
                Self::Mapping(entries)
            }
        })
    }
}
