//! Namespace declarations that are in force at a place of a document.

use crate::tree::declared_prefix;

/// A stack of declarations, innermost last.
#[derive(Debug, Default)]
pub(crate) struct Scope<'a> {
    declared: Vec<(&'a str, &'a str)>,
}

impl<'a> Scope<'a> {
    /// Adds what an element declares; give the result to [`Scope::leave`] behind the element.
    pub(crate) fn enter(&mut self, attributes: impl Iterator<Item = (&'a str, &'a str)>) -> usize {
        let before = self.declared.len();
        self.declared.extend(attributes.filter_map(|(name, value)| Some((declared_prefix(name)?, value))));
        before
    }

    /// Forgets what was added since.
    pub(crate) fn leave(&mut self, before: usize) {
        self.declared.truncate(before);
    }

    /// The namespace of a prefix, empty when there is none.
    pub(crate) fn resolve(&self, prefix: &str) -> &'a str {
        self.declared.iter().rev().find(|(there, _)| *there == prefix).map_or("", |(_, namespace)| namespace)
    }
}

/// Whether two namespaces are the same. Mostly both are empty, and some processors compare two empty texts slowly: their
/// addresses are no memory, and reading none of it there takes a detour.
pub(crate) fn is_same(a: &str, b: &str) -> bool {
    if a.is_empty() { b.is_empty() } else { a == b }
}
