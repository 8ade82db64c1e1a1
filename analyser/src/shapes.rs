//! The shapes of libvirt's documents: what can stand where, and how YAML calls it.
//!
//! The table is generated from libvirt's RELAX NG schemas by `examples/shapes` and read once.

use std::sync::LazyLock;

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
    /// Sorted by name.
    attributes: Vec<(&'static str, Scalar)>,
    /// In canonical order.
    children: Vec<Child>,
    /// Indexes of children, sorted by name and namespace.
    by_name: Vec<u16>,
    /// Indexes of children that can stand there many times, sorted by key and namespace.
    by_list: Vec<u16>,
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
    shape: u16,
}

/// Key of text where no better one is free.
pub(crate) const TEXT: &str = "$text";

struct Table {
    roots: Vec<(&'static str, u16)>,
    shapes: Vec<Shape>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| read(include_str!("shapes/libvirt.txt")));

/// The shape of a root element of this name.
pub(crate) fn root(name: &str) -> Option<&'static Shape> {
    let table = &*TABLE;
    let (_, shape) = table.roots.iter().find(|(root, _)| *root == name)?;
    table.shapes.get(usize::from(*shape))
}

/// Names of the documents that the table knows.
pub(crate) fn roots() -> impl Iterator<Item = &'static str> {
    TABLE.roots.iter().map(|(name, _)| *name)
}

impl Shape {
    /// Kind of an attribute of the schema.
    pub(crate) fn attribute(&self, name: &str) -> Option<Scalar> {
        let at = self.attributes.binary_search_by(|(there, _)| (*there).cmp(name)).ok()?;
        Some(self.attributes[at].1)
    }

    /// A child element of the schema.
    pub(crate) fn child(&self, namespace: &str, name: &str) -> Option<&Child> {
        let key = |index: &u16| {
            let child = &self.children[usize::from(*index)];
            (child.name, child.namespace).cmp(&(name, namespace))
        };
        let at = self.by_name.binary_search_by(key).ok()?;
        Some(&self.children[usize::from(self.by_name[at])])
    }

    /// The child whose list has this key.
    pub(crate) fn list(&self, namespace: &str, key: &str) -> Option<&Child> {
        let order = |index: &u16| {
            let child = &self.children[usize::from(*index)];
            (child.list.unwrap_or_default(), child.namespace).cmp(&(key, namespace))
        };
        let at = self.by_list.binary_search_by(order).ok()?;
        Some(&self.children[usize::from(self.by_list[at])])
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
    let mut table = Table { roots: Vec::new(), shapes: Vec::new() };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&'static str> = line.split_whitespace().collect();
        match (words.as_slice(), table.shapes.last_mut()) {
            (["root", name, shape], _) => table.roots.push((name, number(shape))),
            (["shape", _, flags @ ..], _) => table.shapes.push(Shape {
                is_ordered: flags.contains(&"ordered"),
                takes_anything: flags.contains(&"any"),
                text: None,
                text_key: TEXT,
                attributes: Vec::new(),
                children: Vec::new(),
                by_name: Vec::new(),
                by_list: Vec::new(),
            }),
            (["text", kind @ ..], Some(shape)) => shape.text = Some(scalar(kind)),
            ([name, rest @ ..], Some(shape)) => match (name.strip_prefix('@'), rest) {
                (Some(attribute), kind) => shape.attributes.push((attribute, scalar(kind))),
                (None, [of_child, list @ ..]) => {
                    let (namespace, name) =
                        name.strip_prefix('{').and_then(|n| n.split_once('}')).unwrap_or(("", name));
                    let (rank, list) = (shape.children.len(), list.first().copied());
                    shape.children.push(Child { namespace, name, list, rank, shape: number(of_child) });
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
    shape.attributes.sort_unstable();
    let children = &shape.children;
    let count = u16::try_from(children.len()).unwrap_or(u16::MAX);
    shape.by_name = (0..count).collect();
    shape.by_name.sort_by_key(|&at| (children[usize::from(at)].name, children[usize::from(at)].namespace));
    shape.by_list = (0..count).filter(|&at| children[usize::from(at)].list.is_some()).collect();
    shape.by_list.sort_by_key(|&at| (children[usize::from(at)].list, children[usize::from(at)].namespace));
    let is_taken = shape.attribute("value").is_some()
        || shape.children.iter().any(|c| c.name == "value" || c.list == Some("value"));
    if shape.text.is_some() && !is_taken {
        shape.text_key = "value";
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
