//! From data to tree.

use std::collections::HashSet;
use std::fmt::Write;

use compact_str::{CompactString, format_compact};

use super::{ATTRIBUTE, CONTENT, scalar};
use crate::MAX_DEPTH;
use crate::data::{Data, Leaf, Pieces};
use crate::error::{Error, Result};
use crate::scope::Scope;
use crate::shapes::{self, Child, Key, Scalar, Shape, TEXT};
use crate::tree::{Builder, Name, Tree, declared_prefix, split_name};
use crate::xml::is_name;

/// The document that data stands for, in canonical form.
pub(crate) fn decode(pieces: &Pieces<'_>) -> Result<Tree> {
    let data = pieces.data();
    let Data::Mapping(mut entries) = data else {
        return Err(Error::at("", format!("expected a mapping with the root's name, found {}", data.kind())));
    };
    let count = entries.count();
    let (Some((name, content)), 1) = (entries.next(), count) else {
        return Err(Error::at("", format!("expected one key, the root's name, found {count}")));
    };
    let mut decoder = Decoder {
        scope: Scope::default(),
        has_declarations: pieces.has_declarations(),
        is_canonical: !pieces.has_declarations(),
        last_rank: 0,
        path: vec![Step::Key(name)],
        builder: Builder::default(),
    };
    let is_plain = declared(content, "").is_none_or(str::is_empty);
    let shape = if is_plain { shapes::root(name) } else { None };
    decoder.element(shapes::name(name), content, shape)?;
    let is_canonical = decoder.is_canonical;
    match decoder.builder.finish() {
        Some(root) if is_canonical => Ok(Tree { root }),
        Some(root) => Ok(Tree { root }.into_canonical()),
        None => Err(Error::at("", "there is no element")),
    }
}

struct Decoder<'p> {
    scope: Scope,
    /// Whether any key declares a namespace.
    has_declarations: bool,
    /// Whether all that has been read was in canonical form. Errs towards no.
    is_canonical: bool,
    /// Rank of the last child of the element that is being read.
    last_rank: usize,
    path: Vec<Step<'p>>,
    builder: Builder,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Key(&'p str),
    Item(usize),
}

/// What an element's own data declares for a prefix.
fn declared<'p>(data: Data<'p, '_>, prefix: &str) -> Option<&'p str> {
    let Data::Mapping(entries) = data else { return None };
    entries.texts().find(|(key, _)| declared_prefix(key) == Some(prefix)).map(|(_, namespace)| namespace)
}

impl<'p> Decoder<'p> {
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

    fn within<T>(&mut self, step: Step<'p>, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.path.push(step);
        let done = work(self)?;
        self.path.pop();
        Ok(done)
    }

    fn element(&mut self, name: Name, data: Data<'p, '_>, shape: Option<&'static Shape>) -> Result<()> {
        if !matches!(name, Name::Known(_)) && !is_name(&name) {
            return self.fail(format!("'{name}' is not a name of an element"));
        }
        if self.builder.depth() == MAX_DEPTH {
            return self.fail(format!("elements nest more than {MAX_DEPTH} deep"));
        }
        match data {
            Data::Mapping(entries) => {
                self.builder.open(name);
                let last_rank = std::mem::take(&mut self.last_rank);
                let before = if self.has_declarations { self.scope.enter_all(entries.texts()) } else { 0 };
                let mut has_marked = false;
                for (key, value) in entries {
                    has_marked |= key.starts_with(ATTRIBUTE);
                    self.within(Step::Key(key), |this| this.entry(key, value, shape))?;
                }
                self.scope.leave(before);
                self.last_rank = last_rank;
                if has_marked {
                    self.no_attribute_twice()?;
                }
            }
            Data::Leaf(Leaf::Null) => return self.fail("has no value; an empty element is written {}"),
            Data::Leaf(_) | Data::Sequence(_) => {
                let kind = match (data, shape.and_then(|s| s.text)) {
                    (Data::Leaf(_), Some(kind)) => kind,
                    _ => return self.fail(format!("expected a mapping, found {}", data.kind())),
                };
                let text = self.text(data, kind)?;
                self.builder.open(name);
                self.builder.text(&text);
            }
        }
        self.builder.close();
        Ok(())
    }

    /// Two keys can stand for one attribute: `a` and `@a`.
    fn no_attribute_twice(&self) -> Result<()> {
        let mut names = HashSet::new();
        match self.builder.attributes().iter().find(|attribute| !names.insert(attribute.name())) {
            Some(twice) => self.fail(format!("attribute {} stands there twice", twice.name)),
            None => Ok(()),
        }
    }

    /// One key of an element.
    fn entry(&mut self, key: &'p str, data: Data<'p, '_>, shape: Option<&'static Shape>) -> Result<()> {
        let text_key = shape.map_or(TEXT, |s| s.text_key);
        if key == TEXT || key == text_key {
            return self.own_text(data, shape);
        }
        if key == CONTENT {
            return self.in_order(data, shape);
        }
        if let Some(name) = key.strip_prefix(ATTRIBUTE) {
            self.is_canonical &= declared_prefix(name).is_none();
            return self.attribute(name, data, Scalar::Plain);
        }
        if let Some(name) = key.strip_prefix('<').and_then(|k| k.strip_suffix('>')) {
            return self.elements(name, data, shape);
        }
        if declared_prefix(key).is_some() {
            return match data {
                Data::Leaf(Leaf::String(_)) => self.attribute(key, data, Scalar::Plain),
                _ => self.fail(format!("a namespace is text, found {}", data.kind())),
            };
        }
        match (shape.and_then(|s| self.meaning(s, key)), data) {
            (Some(Key::Attribute(name, kind)), _) => {
                let text = self.text(data, kind)?;
                self.builder.attribute(Name::Known(name), text);
                Ok(())
            }
            (Some(Key::List(child)), _) => self.list_items(key, child, data),
            (Some(Key::Child(child)), Data::Mapping(_) | Data::Leaf(_))
                if !self.has_declarations && key == child.name =>
            {
                self.known_child(Name::Known(child.name), child, data)
            }
            (Some(Key::Child(_)), _) | (None, Data::Mapping(_) | Data::Sequence(_) | Data::Leaf(Leaf::Null)) => {
                self.elements(key, data, shape)
            }
            (None, Data::Leaf(_)) => self.attribute(key, data, Scalar::Plain),
        }
    }

    fn meaning(&self, shape: &'static Shape, key: &str) -> Option<Key> {
        let (prefix, name) = split_name(key);
        let namespace = self.scope.resolve(prefix);
        if prefix.is_empty() { shape.key(namespace, name) } else { shape.key_with_prefix(namespace, name) }
    }

    /// Text of the element that is being read.
    fn own_text(&mut self, data: Data<'_, '_>, shape: Option<&'static Shape>) -> Result<()> {
        let kind = shape.and_then(|s| s.text);
        let text = self.text(data, kind.unwrap_or(Scalar::Plain))?;
        self.is_canonical &= shape.is_none() || kind.is_some();
        self.builder.text(&text);
        Ok(())
    }

    fn attribute(&mut self, name: &str, data: Data<'_, '_>, kind: Scalar) -> Result<()> {
        if !is_name(name) {
            return self.fail(format!("'{name}' is not a name of an attribute"));
        }
        let text = self.text(data, kind)?;
        self.builder.attribute(shapes::name(name), text);
        Ok(())
    }

    fn text(&self, data: Data<'_, '_>, kind: Scalar) -> Result<CompactString> {
        let Data::Leaf(leaf) = data else {
            return self.fail(format!("expected a scalar, found {}", data.kind()));
        };
        match scalar::decode(leaf, kind) {
            Ok(text) => match crate::xml::forbidden_character(&text) {
                None => Ok(text),
                Some(_) => self.fail("a character that XML does not allow"),
            },
            Err(what) => self.fail(what),
        }
    }

    fn list_items(&mut self, key: &str, child: &Child, data: Data<'p, '_>) -> Result<()> {
        let Data::Sequence(items) = data else {
            return self.fail(format!("expected a list, found {}", data.kind()));
        };
        let name = match split_name(key).0 {
            "" => Name::Known(child.name),
            prefix => Name::Other(format_compact!("{prefix}:{}", child.name)),
        };
        for (index, item) in items.enumerate() {
            self.within(Step::Item(index), |this| this.known_child(name.clone(), child, item))?;
        }
        Ok(())
    }

    /// Children by their own name: one, or a list of several.
    fn elements(&mut self, name: &str, data: Data<'p, '_>, shape: Option<&'static Shape>) -> Result<()> {
        let Data::Sequence(items) = data else {
            return self.child(name, data, shape);
        };
        for (index, item) in items.enumerate() {
            self.within(Step::Item(index), |this| this.child(name, item, shape))?;
        }
        Ok(())
    }

    fn child(&mut self, name: &str, data: Data<'p, '_>, shape: Option<&'static Shape>) -> Result<()> {
        let (prefix, local) = split_name(name);
        let own = if self.has_declarations { declared(data, prefix) } else { None };
        let namespace = own.unwrap_or_else(|| self.scope.resolve(prefix));
        let child = shape.and_then(|s| s.child(namespace, local));
        match child {
            Some(child) if prefix.is_empty() => self.known_child(Name::Known(child.name), child, data),
            Some(child) => self.known_child(shapes::name(name), child, data),
            None => {
                self.is_canonical &= shape.is_none();
                self.element(shapes::name(name), data, None)
            }
        }
    }

    fn known_child(&mut self, name: Name, child: &Child, data: Data<'p, '_>) -> Result<()> {
        self.is_canonical &= child.rank >= self.last_rank;
        self.last_rank = child.rank;
        self.element(name, data, Some(child.shape()))
    }

    fn in_order(&mut self, data: Data<'p, '_>, shape: Option<&'static Shape>) -> Result<()> {
        let Data::Sequence(items) = data else {
            return self.fail(format!("expected a list, found {}", data.kind()));
        };
        for (index, item) in items.enumerate() {
            self.within(Step::Item(index), |this| match item {
                Data::Mapping(mut entries) => match (entries.next(), entries.next()) {
                    (Some((name, data)), None) => this.within(Step::Key(name), |this| this.child(name, data, shape)),
                    _ => this.fail("expected a mapping of one key, the name of an element"),
                },
                text => this.own_text(text, shape),
            })?;
        }
        Ok(())
    }
}
