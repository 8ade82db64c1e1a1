//! YAML text to data and back.
//!
//! The reader takes block and flow style, all scalar styles and comments: what people write, and JSON. It refuses
//! anchors, aliases, tags, complex keys and several documents in one text. A plain scalar that readers of YAML disagree
//! about (`0042`, `1e3`, `12:30`) is refused with the advice to quote it, and the words of YAML 1.1 (`yes`, `on`, …) are
//! switches as they are for kubectl. The writer quotes all of these.

mod block;
mod flow;
mod plain;
mod read;
mod write;

use write::Writer;

use crate::codec;
use crate::error::Result;
use crate::tree::Tree;
use crate::value::Value;
use crate::xml::utf8;

impl Value<'_> {
    /// YAML text, in block style, with a line feed at the end.
    pub fn to_yaml(&self) -> String {
        let mut writer = Writer::new();
        self.send(&mut writer);
        writer.finish()
    }
}

impl<'a> Value<'a> {
    /// Reads YAML or JSON text.
    ///
    /// # Errors
    /// [`Error::Yaml`](crate::Error::Yaml) with the place of what cannot be read.
    pub fn from_yaml(text: &'a str) -> Result<Self> {
        Ok(Self::build(read::read(text)?))
    }
}

impl Tree {
    /// The document as YAML; take the [canonical](Tree::canonical) tree for one that is the same for equal documents.
    pub fn to_yaml(&self) -> String {
        let mut writer = Writer::new();
        codec::encode(self, &mut writer);
        writer.finish()
    }

    /// Reads a document from YAML or JSON; it is in [canonical](Tree::canonical) form.
    ///
    /// # Errors
    /// [`Error::Yaml`](crate::Error::Yaml) with line and column, or [`Error::Shape`](crate::Error::Shape) with the path.
    pub fn from_yaml(text: &str) -> Result<Self> {
        codec::decode(&read::read(text)?)
    }

    /// [`Tree::from_yaml`] of bytes, which must be UTF-8.
    ///
    /// # Errors
    /// [`Error::Encoding`](crate::Error::Encoding), and those of [`Tree::from_yaml`].
    pub fn from_yaml_bytes(yaml: &[u8]) -> Result<Self> {
        Self::from_yaml(utf8(yaml)?)
    }
}
