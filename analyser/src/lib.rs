//! libvirt XML as a tree, and everything that is made from it or read out of it.
//!
//! [`Tree`] is the one form in which this project holds a libvirt document. XML is generated only by writing a tree
//! ([`Tree::to_xml`]); no other crate formats XML. The library does no I/O, except in its command line, which is the
//! feature `cli`.

mod bytes;
mod canonical;
#[cfg(feature = "cli")]
pub mod cli;
mod codec;
mod data;
pub mod diff;
pub mod error;
pub mod lift;
pub mod lower;
pub mod mark;
mod merge;
pub mod read;
mod scope;
mod shapes;
#[cfg(feature = "spec")]
pub mod spec;
pub mod tree;
mod validate;
pub mod value;
mod xml;
mod yaml;

pub use error::{Error, Result};
pub use tree::{Attribute, Element, Node, Tree};
pub use validate::{Unknown, UnknownKind};
pub use value::Value;
pub use xml::MAX_DEPTH;

/// From this number on, names are looked for by hash and not one by one.
const MANY: usize = 16;
