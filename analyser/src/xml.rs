//! XML text to tree and back.

mod parse;
mod scan;
mod write;

pub use parse::MAX_DEPTH;
pub(crate) use parse::{place, utf8};
pub(crate) use scan::{forbidden_character, is_name};
