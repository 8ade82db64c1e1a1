//! XML text to tree and back.

mod parse;
mod scan;
mod write;

pub use parse::MAX_DEPTH;
