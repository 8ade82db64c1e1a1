//! Between a document's tree and YAML's data, by the table of shapes.
//!
//! Attributes, children and text are plain keys of a mapping:
//!
//! * an attribute and an only child: its name;
//! * a child that the schema allows many times: a list under its plural, also when there is one;
//! * text beside attributes: `value` (or [`TEXT`](crate::shapes::TEXT) where that name is taken or the schema has no
//!   text); an element that holds nothing but text is just a scalar, where the schema allows text;
//! * what no schema knows: a scalar is an attribute, a mapping an element, a list several elements;
//! * content whose order keys cannot show (text among elements, `a b a`): a list under [`CONTENT`];
//! * a name that would be taken for something else: [`ATTRIBUTE`] before an attribute's, `<` and `>` around an
//!   element's.
//!
//! A scalar is a number or a switch only where its text comes back exactly.

mod decode;
mod encode;
mod scalar;

pub(crate) use decode::decode;
pub(crate) use encode::encode;
pub(crate) use scalar::canonical_number;

use crate::data::Pieces;
use crate::error::Result;
use crate::tree::Tree;
use crate::value::Value;

/// Key of content in order: text as scalars, elements as mappings of one key.
const CONTENT: &str = "$content";
/// What stands before the name of an attribute that would be taken for something else.
const ATTRIBUTE: char = '@';

impl Tree {
    /// The document as data: a mapping with the root's name as its one key. The tree is taken as it is; only
    /// [canonical](Tree::canonical) ones that say the same give the same.
    pub fn to_value(&self) -> Value<'_> {
        let mut pieces = Pieces::default();
        encode(self, &mut pieces);
        Value::build(pieces)
    }

    /// The document that data stands for, in [canonical](Tree::canonical) form.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) with the path of the key that is no part of a document.
    pub fn from_value(value: &Value<'_>) -> Result<Self> {
        let mut pieces = Pieces::default();
        value.send(&mut pieces);
        decode(&pieces)
    }
}
