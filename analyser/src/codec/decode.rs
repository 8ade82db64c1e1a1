//! From value to tree.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write;

use compact_str::CompactString;

use super::{ATTRIBUTE, CONTENT, scalar};
use crate::MAX_DEPTH;
use crate::error::{Error, Result};
use crate::scope::Scope;
use crate::shapes::{self, Child, Scalar, Shape, TEXT};
use crate::tree::{Element, Tree, declared_prefix, split_name};
use crate::value::Value;
use crate::xml::{drop_white_space_between_elements, is_name};

impl Tree {
    /// The document that data stands for, in [canonical](Tree::canonical) form.
    ///
    /// # Errors
    /// [`Error::Shape`] with the path of the key that is no part of a document.
    pub fn from_value(value: &Value<'_>) -> Result<Self> {
        let (name, content) = match value {
            Value::Mapping(entries) => match entries.as_slice() {
                [(name, content)] => (name, content),
                _ => return Err(Error::at("", format!("expected one key, the root's name, found {}", entries.len()))),
            },
            other => {
                return Err(Error::at("", format!("expected a mapping with the root's name, found {}", other.kind())));
            }
        };
        let mut decoder = Decoder { scope: Scope::default(), path: Vec::new(), depth: 0 };
        let is_plain = declared(content, "").is_none_or(str::is_empty);
        let shape = if is_plain { shapes::root(name) } else { None };
        decoder.path.push(Step::Key(name));
        let root = decoder.element(Cow::Owned(name.clone().into_owned()), content, shape)?;
        Ok(Tree { root }.into_canonical())
    }
}

struct Decoder<'v> {
    scope: Scope<'v>,
    path: Vec<Step<'v>>,
    /// How many elements are open.
    depth: usize,
}

#[derive(Clone, Copy)]
enum Step<'v> {
    Key(&'v str),
    Item(usize),
}

/// What a value of a mapping declares for a prefix.
fn declared<'v>(value: &'v Value<'_>, prefix: &str) -> Option<&'v str> {
    let Value::Mapping(entries) = value else { return None };
    entries.iter().find_map(|(key, value)| match value {
        Value::String(namespace) if declared_prefix(key) == Some(prefix) => Some(&**namespace),
        _ => None,
    })
}

impl<'v> Decoder<'v> {
    fn fail<T>(&self, what: impl Into<String>) -> Result<T> {
        let mut path = String::new();
        for step in &self.path {
            let _ = match step {
                Step::Key(key) if path.is_empty() => write!(path, "{key}"),
                Step::Key(key) => write!(path, ".{key}"),
                Step::Item(index) => write!(path, "[{index}]"),
            };
        }
        Err(Error::at(path, what))
    }

    fn within<T>(&mut self, step: Step<'v>, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.path.push(step);
        let done = work(self)?;
        self.path.pop();
        Ok(done)
    }

    fn element(
        &mut self,
        name: Cow<'static, str>,
        value: &'v Value<'_>,
        shape: Option<&'static Shape>,
    ) -> Result<Element> {
        if !is_name(&name) {
            return self.fail(format!("'{name}' is not a name of an element"));
        }
        if self.depth == MAX_DEPTH {
            return self.fail(format!("elements nest more than {MAX_DEPTH} deep"));
        }
        self.depth += 1;
        let mut element = Element::new(name);
        match value {
            Value::Mapping(entries) => {
                let strings = entries.iter().filter_map(|(key, value)| match value {
                    Value::String(text) => Some((&**key, &**text)),
                    _ => None,
                });
                let before = self.scope.enter(strings);
                for (key, value) in entries {
                    self.within(Step::Key(key), |this| this.entry(&mut element, key, value, shape))?;
                }
                self.scope.leave(before);
                drop_white_space_between_elements(&mut element);
                if entries.iter().any(|(key, _)| key.starts_with(ATTRIBUTE)) {
                    self.no_attribute_twice(&element)?;
                }
            }
            Value::Null => return self.fail("has no value; an empty element is written {}"),
            scalar => match shape.and_then(|s| s.text) {
                Some(kind) => element.push_text(&self.text(scalar, kind)?),
                None => return self.fail(format!("expected a mapping, found {}", scalar.kind())),
            },
        }
        self.depth -= 1;
        Ok(element)
    }

    /// Two keys can stand for one attribute: `a` and `@a`.
    fn no_attribute_twice(&self, element: &Element) -> Result<()> {
        let mut names = HashSet::new();
        match element.attributes().iter().find(|attribute| !names.insert(&attribute.name)) {
            Some(twice) => self.fail(format!("attribute {} stands there twice", twice.name)),
            None => Ok(()),
        }
    }

    /// One key of an element.
    fn entry(
        &mut self,
        element: &mut Element,
        key: &'v str,
        value: &'v Value<'_>,
        shape: Option<&'static Shape>,
    ) -> Result<()> {
        let text_key = shape.map_or(TEXT, |s| s.text_key);
        if key == TEXT || key == text_key {
            let text = self.text(value, shape.and_then(|s| s.text).unwrap_or(Scalar::Plain))?;
            element.push_text(&text);
            return Ok(());
        }
        if key == CONTENT {
            return self.in_order(element, value, shape);
        }
        if let Some(name) = key.strip_prefix(ATTRIBUTE) {
            return self.attribute(element, name, value, Scalar::Plain);
        }
        if let Some(name) = key.strip_prefix('<').and_then(|k| k.strip_suffix('>')) {
            return self.elements(element, name, value, shape);
        }
        let key = shapes::known_name(key).unwrap_or(key);
        if declared_prefix(key).is_some() && !matches!(value, Value::String(_)) {
            return self.fail(format!("a namespace is text, found {}", value.kind()));
        }
        if let Some(kind) = shape.and_then(|s| s.attribute(key)) {
            return self.attribute(element, key, value, kind);
        }
        if let Some(list) = shape.and_then(|s| self.list(s, key)) {
            return self.list_items(element, key, list, value);
        }
        let is_child = shape.is_some_and(|s| {
            let (prefix, name) = split_name(key);
            s.child(self.scope.resolve(prefix), name).is_some()
        });
        match value {
            Value::Bool(_) | Value::Number(_) | Value::String(_) if !is_child || declared_prefix(key).is_some() => {
                self.attribute(element, key, value, Scalar::Plain)
            }
            _ => self.elements(element, key, value, shape),
        }
    }

    fn list<'s>(&self, shape: &'s Shape, key: &str) -> Option<&'s Child> {
        let (prefix, name) = split_name(key);
        shape.list(self.scope.resolve(prefix), name)
    }

    fn attribute(&mut self, element: &mut Element, name: &str, value: &Value<'_>, kind: Scalar) -> Result<()> {
        if !is_name(name) {
            return self.fail(format!("'{name}' is not a name of an attribute"));
        }
        let text = self.text(value, kind)?;
        element.push_attribute(shapes::name(name), text);
        Ok(())
    }

    fn text(&self, value: &Value<'_>, kind: Scalar) -> Result<CompactString> {
        match scalar::decode(value, kind) {
            Ok(text) => match crate::xml::forbidden_character(&text) {
                None => Ok(text),
                Some(_) => self.fail("a character that XML does not allow"),
            },
            Err(what) => self.fail(what),
        }
    }

    fn list_items(&mut self, element: &mut Element, key: &'v str, child: &Child, value: &'v Value<'_>) -> Result<()> {
        let Value::Sequence(items) = value else {
            return self.fail(format!("expected a list, found {}", value.kind()));
        };
        let name = match split_name(key).0 {
            "" => Cow::Borrowed(child.name),
            prefix => Cow::Owned(format!("{prefix}:{}", child.name)),
        };
        for (index, item) in items.iter().enumerate() {
            let made = self.within(Step::Item(index), |this| this.element(name.clone(), item, Some(child.shape())))?;
            element.push(made);
        }
        Ok(())
    }

    /// Children by their own name: one, or a list of several.
    fn elements(
        &mut self,
        element: &mut Element,
        name: &str,
        value: &'v Value<'_>,
        shape: Option<&'static Shape>,
    ) -> Result<()> {
        let Value::Sequence(items) = value else {
            let child = self.child(name, value, shape)?;
            element.push(child);
            return Ok(());
        };
        for (index, item) in items.iter().enumerate() {
            let child = self.within(Step::Item(index), |this| this.child(name, item, shape))?;
            element.push(child);
        }
        Ok(())
    }

    fn child(&mut self, name: &str, value: &'v Value<'_>, shape: Option<&'static Shape>) -> Result<Element> {
        let (prefix, local) = split_name(name);
        let namespace = declared(value, prefix).unwrap_or_else(|| self.scope.resolve(prefix));
        let child = shape.and_then(|s| s.child(namespace, local));
        let name = match child {
            Some(child) if prefix.is_empty() => Cow::Borrowed(child.name),
            _ => shapes::name(name),
        };
        self.element(name, value, child.map(Child::shape))
    }

    fn in_order(&mut self, element: &mut Element, value: &'v Value<'_>, shape: Option<&'static Shape>) -> Result<()> {
        let Value::Sequence(items) = value else {
            return self.fail(format!("expected a list, found {}", value.kind()));
        };
        let kind = shape.and_then(|s| s.text).unwrap_or(Scalar::Plain);
        for (index, item) in items.iter().enumerate() {
            self.within(Step::Item(index), |this| match item {
                Value::Mapping(entries) => match entries.as_slice() {
                    [(name, value)] => {
                        let child = this.within(Step::Key(name), |this| this.child(name, value, shape))?;
                        element.push(child);
                        Ok(())
                    }
                    _ => this.fail("expected a mapping of one key, the name of an element"),
                },
                text => {
                    let text = this.text(text, kind)?;
                    element.push_text(&text);
                    Ok(())
                }
            })?;
        }
        Ok(())
    }
}
