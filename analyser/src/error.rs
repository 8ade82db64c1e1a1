//! What can go wrong when a document is read.

use thiserror::Error;

/// A [`std::result::Result`] whose error is [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a document was refused, and where. Lines and columns count from 1; a column counts characters.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// The input is not UTF-8, the only encoding that is read.
    #[error("line {line}, column {column}: not UTF-8; convert the document to UTF-8 first")]
    Encoding {
        /// Line of the first byte that is not UTF-8.
        line: usize,
        /// Column of that byte.
        column: usize,
    },
    /// The XML is not well formed, or uses what is not read (document types, entities of its own).
    #[error("XML, line {line}, column {column}: {what}")]
    Xml {
        /// Line of the offending markup.
        line: usize,
        /// Column of the offending markup.
        column: usize,
        /// What is wrong and, where it helps, what to do.
        what: String,
    },
    /// A document of libvirt lacks what this project needs of it.
    #[error("{path}: missing in libvirt's document")]
    Missing {
        /// Elements from the root, and `@` before an attribute.
        path: String,
    },
    /// A document of libvirt holds a value that this project cannot read.
    #[error("{path}: '{value}' is not {expected}")]
    Value {
        /// Elements from the root, and `@` before an attribute.
        path: String,
        /// The value that is there.
        value: String,
        /// What was expected.
        expected: &'static str,
    },
    /// The YAML or JSON text cannot be read.
    #[error("YAML, line {line}, column {column}: {what}")]
    Yaml {
        /// Line of the offending text.
        line: usize,
        /// Column of the offending text.
        column: usize,
        /// What is wrong and, where it helps, what to do.
        what: String,
    },
    /// The YAML or JSON can be read, but is no document of libvirt's.
    #[error("{path}: {what}")]
    Shape {
        /// Keys from the root, as in `domain.devices.disks[0].target`.
        path: String,
        /// What is wrong and, where it helps, what to do.
        what: String,
    },
}

impl Error {
    pub(crate) fn at(path: impl Into<String>, what: impl Into<String>) -> Self {
        let path = path.into();
        let path = if path.is_empty() { "the document".to_owned() } else { shortened(path) };
        Self::Shape { path, what: shortened(what.into()) }
    }
}

/// A message that quotes much of a document, without its middle: what is wrong stands at the beginning, what to do at the
/// end.
pub(crate) fn shortened(message: String) -> String {
    const HEAD: usize = 200;
    const TAIL: usize = 100;
    let mut places = message.char_indices().map(|(at, _)| at);
    match (places.nth(HEAD), places.nth_back(TAIL)) {
        (Some(head), Some(tail)) => format!("{} … {}", &message[..head], &message[tail..]),
        _ => message,
    }
}
