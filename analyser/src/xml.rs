//! XML text to tree and back.

mod parse;
mod scan;
mod write;

pub use parse::MAX_DEPTH;
pub(crate) use parse::{drop_white_space_between_elements, place, utf8};
pub(crate) use scan::{forbidden_character, is_name};
