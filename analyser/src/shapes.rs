//! The shapes of libvirt's documents: what can stand where, and how YAML calls it.
//!
//! The table is generated from libvirt's RELAX NG schemas by `examples/shapes` and read once.

mod names;

use std::sync::LazyLock;

use names::Names;

use crate::scope::is_same;
use crate::tree::Name;

/// How a scalar is written in YAML.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scalar {
    /// A number where it is a canonical one, else text.
    Plain,
    /// `yes` and `no` are `true` and `false`.
    YesNo,
    /// `on` and `off` are `true` and `false`.
    OnOff,
}

/// What can stand in an element at one place of a document.
#[derive(Debug)]
pub(crate) struct Shape {
    /// Whether children of different names keep their order.
    pub(crate) is_ordered: bool,
    /// Whether names that no schema has are welcome.
    pub(crate) takes_anything: bool,
    /// Text, if there can be any.
    pub(crate) text: Option<Scalar>,
    /// The key of the text in YAML.
    pub(crate) text_key: &'static str,
    /// What a name means as a key in YAML; what is meant first comes first.
    keys: Names<Meaning>,
    /// In canonical order.
    children: Vec<Child>,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
enum Meaning {
    Attribute(Scalar),
    /// Of the child of this index, which can stand there many times.
    List(u16),
    Child(u16),
}

/// What a key means to a shape.
pub(crate) enum Key {
    /// An attribute of this name.
    Attribute(&'static str, Scalar),
    /// All children of a name.
    List(&'static Child),
    /// A child by its own name.
    Child(&'static Child),
}

/// A child element of a shape.
#[derive(Debug)]
pub(crate) struct Child {
    /// Namespace; empty for most.
    pub(crate) namespace: &'static str,
    /// Local name.
    pub(crate) name: &'static str,
    /// Key of the list, without a prefix, if it can stand there many times.
    pub(crate) list: Option<&'static str>,
    /// Place in canonical order.
    pub(crate) rank: usize,
    /// Whether its own name is a key that means nothing else to the schema.
    pub(crate) has_free_name: bool,
    shape: u16,
}

/// Key of text where no better one is free.
pub(crate) const TEXT: &str = "$text";

struct Table {
    roots: Vec<(&'static str, u16)>,
    shapes: Vec<Shape>,
    /// All names of attributes, children and lists; the shapes hold these very slices.
    names: Names<()>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| read(include_str!("shapes/libvirt.txt")));

/// The shape of a root element of this name.
pub(crate) fn root(name: &str) -> Option<&'static Shape> {
    let table = &*TABLE;
    let (_, shape) = table.roots.iter().find(|(root, _)| *root == name)?;
    table.shapes.get(usize::from(*shape))
}

/// The name, without a copy of its own if it is one of libvirt's.
pub(crate) fn name(name: &str) -> Name {
    known_name(name).map_or_else(|| Name::Other(name.into()), Name::Known)
}

/// The name as the shapes hold it, if it is one of libvirt's or the key of a list: the one that is found fastest.
pub(crate) fn known_name(name: &str) -> Option<&'static str> {
    TABLE.names.find(name)
}

/// Names of the documents that the table knows.
pub(crate) fn roots() -> impl Iterator<Item = &'static str> {
    TABLE.roots.iter().map(|(name, _)| *name)
}

impl Shape {
    /// What a key without a prefix means: an attribute before a list, and that before a child of this name. `namespace`
    /// is that of names without a prefix.
    pub(crate) fn key(&'static self, namespace: &str, key: &str) -> Option<Key> {
        let is_wanted = |meaning: &Meaning| match meaning {
            Meaning::Attribute(_) => true,
            Meaning::List(at) | Meaning::Child(at) => is_same(self.at(*at).namespace, namespace),
        };
        let (name, meaning) = self.keys.entry(key, is_wanted)?;
        Some(match *meaning {
            Meaning::Attribute(kind) => Key::Attribute(name, kind),
            Meaning::List(at) => Key::List(self.at(at)),
            Meaning::Child(at) => Key::Child(self.at(at)),
        })
    }

    /// [`Shape::key`] of a key with a prefix, whose `namespace` and local name are given.
    pub(crate) fn key_with_prefix(&'static self, namespace: &str, name: &str) -> Option<Key> {
        let list = || self.list(namespace, name).map(Key::List);
        list().or_else(|| self.child(namespace, name).map(Key::Child))
    }

    /// Kind of an attribute of the schema.
    pub(crate) fn attribute(&self, name: &str) -> Option<Scalar> {
        match self.keys.get(name, |meaning| matches!(meaning, Meaning::Attribute(_))) {
            Some(Meaning::Attribute(kind)) => Some(*kind),
            _ => None,
        }
    }

    /// A child element of the schema.
    pub(crate) fn child(&self, namespace: &str, name: &str) -> Option<&Child> {
        let is_wanted = |m: &Meaning| matches!(m, Meaning::Child(at) if is_same(self.at(*at).namespace, namespace));
        self.child_of(self.keys.get(name, is_wanted))
    }

    /// The child whose list has this key.
    pub(crate) fn list(&self, namespace: &str, key: &str) -> Option<&Child> {
        let is_wanted = |m: &Meaning| matches!(m, Meaning::List(at) if is_same(self.at(*at).namespace, namespace));
        self.child_of(self.keys.get(key, is_wanted))
    }

    fn child_of(&self, meaning: Option<&Meaning>) -> Option<&Child> {
        match meaning {
            Some(Meaning::List(at) | Meaning::Child(at)) => Some(self.at(*at)),
            _ => None,
        }
    }

    fn at(&self, index: u16) -> &Child {
        &self.children[usize::from(index)]
    }

    /// How many children the schema has: the rank of one that it does not have.
    pub(crate) fn child_count(&self) -> usize {
        self.children.len()
    }
}

impl Child {
    /// The shape of the child's content.
    pub(crate) fn shape(&self) -> &'static Shape {
        &TABLE.shapes[usize::from(self.shape)]
    }
}

/// Reads the table. Its form is described at its top; it is part of the program, so a broken one is a panic in the
/// first test.
fn read(text: &'static str) -> Table {
    let mut table = Table { roots: Vec::new(), shapes: Vec::new(), names: Names::default() };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&'static str> = line.split_whitespace().collect();
        match (words.as_slice(), table.shapes.last_mut()) {
            (["root", name, shape], _) => table.roots.push((name, number(shape))),
            (["shape", _, flags @ ..], _) => table.shapes.push(Shape {
                is_ordered: flags.contains(&"ordered"),
                takes_anything: flags.contains(&"any"),
                text: None,
                text_key: TEXT,
                keys: Names::default(),
                children: Vec::new(),
            }),
            (["text", kind @ ..], Some(shape)) => shape.text = Some(scalar(kind)),
            ([name, rest @ ..], Some(shape)) => match (name.strip_prefix('@'), rest) {
                (Some(attribute), kind) => {
                    shape.keys.add(table.names.share(attribute), Meaning::Attribute(scalar(kind)))
                }
                (None, [of_child, list @ ..]) => {
                    let (namespace, name) =
                        name.strip_prefix('{').and_then(|n| n.split_once('}')).unwrap_or(("", name));
                    let name = table.names.share(name);
                    let (rank, list) = (shape.children.len(), list.first().map(|list| table.names.share(list)));
                    let shape_of_child = number(of_child);
                    shape.children.push(Child {
                        namespace,
                        name,
                        list,
                        rank,
                        has_free_name: false,
                        shape: shape_of_child,
                    });
                }
                (None, []) => unreachable!("a child without a shape in the table of shapes: {line}"),
            },
            _ => unreachable!("a line of no meaning in the table of shapes: {line}"),
        }
    }
    table.shapes.iter_mut().for_each(finish);
    table
}

fn number(word: &str) -> u16 {
    word.parse().unwrap_or_else(|_| unreachable!("not a number in the table of shapes: {word}"))
}

fn scalar(words: &[&str]) -> Scalar {
    match words {
        ["yes-no"] => Scalar::YesNo,
        ["on-off"] => Scalar::OnOff,
        _ => Scalar::Plain,
    }
}

fn finish(shape: &mut Shape) {
    for (at, child) in (0..).zip(&shape.children) {
        if let Some(list) = child.list {
            shape.keys.add(list, Meaning::List(at));
        }
    }
    for (at, child) in (0..).zip(&shape.children) {
        shape.keys.add(child.name, Meaning::Child(at));
    }
    if shape.text.is_some() && shape.keys.find("value").is_none() {
        shape.text_key = "value";
    }
    for at in 0..shape.children.len() {
        let child = &shape.children[at];
        let is_other_list = shape.list(child.namespace, child.name).is_some_and(|list| list.name != child.name);
        let is_free = shape.attribute(child.name).is_none() && shape.text_key != child.name && !is_other_list;
        shape.children[at].has_free_name = is_free;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_knows_libvirts_documents() {
        for name in [
            "capabilities",
            "device",
            "domain",
            "domainCapabilities",
            "domainbackup",
            "domaincheckpoint",
            "domainsnapshot",
            "filter",
            "interface",
            "network",
            "networkport",
            "pool",
            "secret",
            "volume",
        ] {
            assert!(root(name).is_some(), "{name}");
        }
        assert!(root("html").is_none());
    }

    #[test]
    fn shapes_of_a_disk() {
        let devices = root("domain").unwrap().child("", "devices").unwrap().shape();
        let disk = devices.child("", "disk").unwrap();
        assert_eq!(disk.list, Some("disks"));
        assert!(std::ptr::eq(devices.list("", "disks").unwrap(), disk));
        assert_eq!(disk.shape().attribute("type"), Some(Scalar::Plain));
        assert_eq!(disk.shape().child("", "boot").unwrap().list, None);
        assert!(!devices.is_ordered);
    }

    #[test]
    fn switches_and_text() {
        let domain = root("domain").unwrap();
        let memory = domain.child("", "memory").unwrap().shape();
        assert_eq!((memory.text, memory.text_key), (Some(Scalar::Plain), "value"));
        assert_eq!(memory.attribute("dumpCore"), Some(Scalar::OnOff));
        let qemu = "http://libvirt.org/schemas/domain/qemu/1.0";
        let commandline = domain.child(qemu, "commandline").unwrap().shape();
        assert_eq!(commandline.list(qemu, "args").unwrap().name, "arg");
    }

    #[test]
    fn order_counts_in_a_network_filter() {
        assert!(root("filter").unwrap().is_ordered);
    }
}
