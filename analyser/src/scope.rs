//! Namespace declarations that are in force at a place of a document.

use std::collections::HashMap;

use crate::tree::{Element, declared_prefix};

/// A stack of declarations.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    /// Prefixes in the order of their declarations, innermost last.
    declared: Vec<String>,
    /// What each prefix stands for, innermost last.
    namespaces: HashMap<String, Vec<String>>,
}

impl Scope {
    /// Adds what an element declares; give the result to [`Scope::leave`] behind the element.
    pub(crate) fn enter(&mut self, element: &Element) -> usize {
        self.enter_all(element.attributes().iter().map(|a| (a.name(), a.value())))
    }

    /// [`Scope::enter`] of names and values of attributes.
    pub(crate) fn enter_all<'a>(&mut self, attributes: impl Iterator<Item = (&'a str, &'a str)>) -> usize {
        let before = self.declared.len();
        for (name, value) in attributes {
            if let Some(prefix) = declared_prefix(name) {
                self.declared.push(prefix.to_owned());
                self.namespaces.entry(prefix.to_owned()).or_default().push(value.to_owned());
            }
        }
        before
    }

    /// Forgets what was added since.
    pub(crate) fn leave(&mut self, before: usize) {
        for prefix in self.declared.drain(before..) {
            self.namespaces.get_mut(&prefix).and_then(Vec::pop);
        }
    }

    /// The namespace of a prefix, empty when there is none.
    pub(crate) fn resolve(&self, prefix: &str) -> &str {
        if self.declared.is_empty() {
            return "";
        }
        self.namespaces.get(prefix).and_then(|namespaces| namespaces.last()).map_or("", String::as_str)
    }

    /// The namespace of a child's own name, which has this prefix.
    pub(crate) fn namespace<'s>(&'s self, child: &'s Element, prefix: &str) -> &'s str {
        child.namespace_of(prefix).unwrap_or_else(|| self.resolve(prefix))
    }
}

/// Whether two namespaces are the same. Mostly both are empty, and some processors compare two empty texts slowly: their
/// addresses are no memory, and reading none of it there takes a detour.
pub(crate) fn is_same(a: &str, b: &str) -> bool {
    if a.is_empty() { b.is_empty() } else { a == b }
}
